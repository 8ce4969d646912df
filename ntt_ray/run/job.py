"""What travels between the stages of the chain: the job itself, and the rows of its units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa

from ntt_ray.models.spec import ModelSpec
from ntt_ray.proposals.kept import ImageProposals
from ntt_ray.records import ImageLabels, PromptWork
from ntt_ray.run.shard import ROW_FIELDS
from ntt_ray.settings import BoxSettings, DecodeSettings, MethodSettings
from ntt_ray.storage import Storage

_TIMES = [(name, pa.float64()) for name in ("fetch_s", "begun_at", "label_s")]
_WORK = [(name, pa.int64()) for name in ("views", "views_skipped", "points", "points_asked")]
_IMAGE = pa.struct(
    [
        ("image_id", pa.int64()),
        ("file_name", pa.string()),
        ("uri", pa.string()),
        ("data", pa.large_binary()),
        ("error", pa.string()),
        ("final", pa.bool_()),
    ]
)
_ROWS = pa.large_list(pa.struct(ROW_FIELDS))
# of every unit: its number, whether only some of its images are tried again, why it is given back
_UNIT = [("shard_id", pa.int64()), ("again", pa.bool_()), ("given_back", pa.string())]
_COUNTED = ("images", "failed", "unreachable", "empty", "detections")
_COUNTS = [*((name, pa.int64()) for name in _COUNTED), ("score_sum", pa.float64())]
FETCHED = pa.schema([*_UNIT, ("fetch_s", pa.float64()), ("images", pa.large_list(_IMAGE))])
_LABELLING = [("actor", pa.string()), ("accelerator", pa.string()), *_TIMES, *_WORK]
# its labels, or, where proposals are kept, their file: labels are made of it where it is written
LABELLED = pa.schema([*_UNIT, *_LABELLING, ("rows", _ROWS), ("proposals", pa.large_binary())])
WRITTEN = pa.schema(
    [*_UNIT, *_COUNTS, ("reason", pa.string()), *_LABELLING, ("write_s", pa.float64())]
)


@dataclass(frozen=True)
class UnitDone:
    """What the driver hears of a finished unit; the counts of prompts are as in `PromptWork`.

    Attributes:
        shard_id: the number of the unit.
        images: how many images were labelled just now.
        failed: how many of these images failed.
        detections: how many detections these images have together.
        fetch_s: seconds it took to read the images.
        begun_at: when labelling began, in seconds since the epoch by the worker's clock.
        label_s: seconds it took to label the images.
        write_s: seconds it took to write the shard.
        unreachable: how many of the images that failed are to be tried again.
        empty: how many of the images have no detection.
        score_sum: the sum of the scores of the detections.
        again: whether these are only those of the unit's images that were to be tried again.
        given_back: why the unit was given back without a shard; None where it has one.
        reason: why most of the images that failed did so, without what differs between them.
        actor: names the process that labelled the unit.
        accelerator: the model of its GPU; None on a CPU.
        actors: how many such processes label units side by side, as far as the cluster has room.
    """

    shard_id: int
    images: int
    failed: int
    detections: int
    fetch_s: float
    begun_at: float
    label_s: float
    write_s: float
    unreachable: int = 0
    empty: int = 0
    score_sum: float = 0.0
    again: bool = False
    given_back: str | None = None
    reason: str | None = None
    views: int = 0
    views_skipped: int = 0
    points: int = 0
    points_asked: int = 0
    actor: str = ""
    accelerator: str | None = None
    actors: int = 1


@dataclass(frozen=True)
class RematchJob:
    """Plain values that every task gets that matches a unit again.

    Attributes:
        source: the output whose kept proposals are matched.
        proposals_hash: what the metadata of these say, see `proposal_shard.proposals_hash`.
        bank: the bytes of the bank's file.
        method: the `method` settings.
        output: the prefix below which labels are written.
        store: access to files.
        manifest_digest: SHA-256 of the manifest.
        provenance: what the metadata of every shard of labels says.
        carries: whether the manifest has columns that go into these shards too.
        embeddings: whether the shards of labels get the features of images and detections.
    """

    source: str
    proposals_hash: str
    bank: bytes
    method: MethodSettings
    output: str
    store: Storage
    manifest_digest: str
    provenance: Mapping[str, str]
    carries: bool
    embeddings: bool = False


class Pace:
    """Images per second of all actors together in this start of a run; loading is not speed.

    Only units that are done have images, so only the time that they took may count: the seconds of
    all units, shared among the actors. With 8 actors, a first unit of 16 images in 4 s makes
    32 images/s, because 7 more such units are about to end.

    What really passed sets limits to that. It took no less than an actor is there on average, but
    for one unit that is not done: actors may be missing, or wait for images. And it took no more
    than since the first unit began.
    """

    def __init__(self) -> None:
        self._images, self._label_s, self._longest_s = 0, 0.0, 0.0
        # of each actor: when its first unit began, and when its last one ended
        self._begun_at: dict[str, float] = {}
        self._ended_at: dict[str, float] = {}

    def unit(self, unit: UnitDone) -> float:
        """Take in a finished unit, and give the pace so far, in images per second."""
        self._images += unit.images
        self._label_s += unit.label_s
        self._longest_s = max(self._longest_s, unit.label_s)
        name, ended_at = unit.actor, unit.begun_at + unit.label_s
        self._begun_at[name] = min(self._begun_at.get(name, unit.begun_at), unit.begun_at)
        self._ended_at[name] = max(self._ended_at.get(name, ended_at), ended_at)
        now = max(self._ended_at.values())
        there_s = [now - begun_at for begun_at in self._begun_at.values()]
        least_s = sum(there_s) / len(there_s) - self._longest_s
        took_s = min(max(self._label_s / self._actors(unit, now), least_s), max(there_s))
        return self._images / max(1e-6, took_s)

    def _actors(self, unit: UnitDone, now: float) -> int:
        """How many actors label: those that were planned, or more where an autoscaler added some.

        An actor that ended nothing in the time of two units has gone; another one may have come in
        its place.
        """
        heard = sum(now - ended_at <= 2 * self._longest_s for ended_at in self._ended_at.values())
        return max(unit.actors, heard)


class LabelledUnit(NamedTuple):
    """What came of a unit.

    Attributes:
        rows: one for each image, in order; of labels, or of proposals where these are kept.
        begun_at: when labelling began, in seconds since the epoch.
        label_s: seconds it took.
        work: what choosing points has saved.
    """

    rows: Sequence[ImageLabels | ImageProposals]
    begun_at: float
    label_s: float
    work: PromptWork


@dataclass(frozen=True)
class Keeping:
    """How proposals are kept.

    Attributes:
        max_iou: the IoU at low resolution that two kept masks of an image may have at most; None
            keeps all masks.
        metadata: what the metadata of every proposal shard says.
        embeddings: whether shards of labels get the features of images and detections.
    """

    max_iou: float | None
    metadata: Mapping[str, str]
    embeddings: bool = False


@dataclass(frozen=True)
class BoxPrompts:
    """How SAM2 is asked with boxes, which lie in a file of the output (`run.box_file`).

    Attributes:
        settings: how it is asked.
        grid: whether it is asked at the points of the grid, too.
        source_sha256: SHA-256 of the file that the boxes are from, in hex.
    """

    settings: BoxSettings
    grid: bool
    source_sha256: str


@dataclass(frozen=True)
class LabelJob:
    """Plain values that every stage of the chain gets.

    Attributes:
        output: the prefix below which the run writes.
        store: access to files.
        manifest_digest: SHA-256 of the manifest that lists the units.
        models: how to load both models.
        method: the `method` settings.
        decode: the `decode` settings.
        image_timeout_s: seconds that one attempt at fetching an image may take.
        patience_s: seconds for which images are waited for that could not be read.
        hang_s: seconds without a finished image after which a worker ends itself.
        decoders: how many processes each actor decodes images with.
        unit_bytes: bytes of a unit's images that are read before it is labelled; what is left is
            read when its turn comes.
        run_token: the token of this driver; notes of other drivers count for nothing.
        provenance: what the metadata of every shard says.
        carries: whether the manifest has columns that go into the shards too.
        keeping: how proposals are kept; None where they are not.
        boxes: how SAM2 is asked with boxes; None where it is not.
    """

    output: str
    store: Storage
    manifest_digest: str
    models: ModelSpec
    method: MethodSettings
    decode: DecodeSettings
    image_timeout_s: float
    patience_s: float
    hang_s: float
    decoders: int
    unit_bytes: int
    run_token: str
    provenance: Mapping[str, str]
    carries: bool = False
    keeping: Keeping | None = None
    boxes: BoxPrompts | None = None
