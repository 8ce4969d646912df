"""Labelling a seeded sample first: what the whole run will look like, take and cost.

The sample is a run of its own below ``OUTPUT/plan/``, with its shards, COCO files and report; its
metrics are kept there in ``plan.json``, so that asking twice labels once.
"""

from __future__ import annotations

import hashlib
import json
import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from ntt_ray import storage
from ntt_ray.bank.file import bank_digest
from ntt_ray.bank.inputs import BankInputs
from ntt_ray.config import Config
from ntt_ray.errors import ImageError, InputError
from ntt_ray.evaluate.job import evaluate_run
from ntt_ray.merge.job import merge
from ntt_ray.plan.predictions import predicted_gpu_hours
from ntt_ray.records import ImageEntry
from ntt_ray.report.job import report_run
from ntt_ray.run.actor import IMAGES_PER_GPU_STEP
from ntt_ray.run.cluster.connect import connect, decide
from ntt_ray.run.job import UnitDone
from ntt_ray.run.label import label
from ntt_ray.run.layout import PLAN_FILE, PLAN_FOLDER, SAMPLE_FILE, proposals_uri, shard_uri
from ntt_ray.run.local_manifest import Source
from ntt_ray.run.manifest import entries_at, unit_sizes
from ntt_ray.run.manifest_writer import MOST
from ntt_ray.run.prepare import check_sources, new_manifest
from ntt_ray.run.proposal_shard import existing_proposals
from ntt_ray.run.shard import existing_shards
from ntt_ray.settings import TableColumns
from ntt_ray.sources.boxes import boxes_digest
from ntt_ray.storage import Storage

logger = logging.getLogger(__name__)

UNITS = 16  # the sample is divided, so that several actors are measured after they warmed up


@dataclass(frozen=True)
class Measured:
    """What labelling the sample took.

    Attributes:
        images: how many images the sample has.
        failed: how many images of the sample failed.
        detections: how many detections the sample has.
        timed: how many images of the sample were timed, see `settled`.
        actor_s: seconds that all actors together took to label the timed images, start-up not
            counted.
        read_bytes: bytes of all image files whose size the store could tell.
        sized: how many image files these were.
        written_bytes: bytes of the shards and the merged files.
        kept_bytes: bytes of the proposals that are kept; 0 where none are.
    """

    images: int
    failed: int
    detections: int
    timed: int
    actor_s: float
    read_bytes: int
    sized: int
    written_bytes: int
    kept_bytes: int = 0


@dataclass(frozen=True)
class Estimate:
    """The whole run, as far as the sample tells.

    Attributes:
        images: how many images the run has.
        units: how many units, and so shards, the run has.
        sample: what was measured.
        device: ``cuda`` or ``cpu``.
        actors: how many actors the cluster has room for now.
        images_per_s: images per second that all actors together label.
        hours: hours until the last image is labelled, start-up not counted.
        device_hours: GPU-hours, or core-hours where there is no GPU.
        read_bytes: bytes of all image files.
        written_bytes: bytes of all shards and merged files.
        predicted_gpu_hours: see `predictions`.
        keeps: whether the run is to keep its proposals; the sample does, where it can.
    """

    images: int
    units: int
    sample: Measured
    device: str
    actors: int
    images_per_s: float
    hours: float
    device_hours: float
    read_bytes: int
    written_bytes: int
    predicted_gpu_hours: dict[str, float]
    keeps: bool = False


def estimate_run(
    config: Config,
    images: int,
    seed: int,
    on_unit: Callable[[UnitDone, int, int], None],
    in_words: Callable[[Estimate], Sequence[tuple[str, str]]] | None = None,
) -> tuple[Estimate, Config]:
    """Label a sample of a run's images and say what all of them will take.

    Args:
        config: the whole run; nothing of it is started.
        images: how many images to label.
        seed: seed of the sampling; the same seed takes the same images.
        on_unit: called for each finished unit of the sample, as `run.label.label` does.
        in_words: what the report of the sample says of the whole run: name and text of each.

    Returns:
        The estimate, and the config of the sample's own run, whose report shows its gallery.
    """
    store = Storage(config.storage_options)
    manifest = new_manifest(config, store)
    own, sample = sample_of(config, images, seed, store, manifest)
    sizes = unit_sizes(manifest)
    measured = _recorded(sample, store) or _measured(sample, own, store, on_unit)
    found = _estimate(config, sum(sizes), len(sizes), measured)
    report_run(sample, plan=in_words(found) if in_words else ())
    return found, sample


def sample_of(
    config: Config, images: int, seed: int, store: Storage, manifest: Source
) -> tuple[list[ImageEntry], Config]:
    """The images of a sample, and the config of its own run; see `estimate_run`."""
    total = sum(unit_sizes(manifest))
    own = entries_at(manifest, random.Random(seed).sample(range(total), min(images, total)))
    return own, _sample_config(config, own, _made_of(config, store))


def sample_file(entries: Sequence[ImageEntry]) -> bytes:
    """The file that lists the images of a sample."""
    rows = [json.dumps({"uri": e.uri, "file_name": e.file_name}) + "\n" for e in entries]
    return "".join(rows).encode()


def _made_of(config: Config, store: Storage) -> list[str]:
    """Digests of what labels will be made of, but for the images: files may change."""
    sources, boxes = check_sources(config, store), config.proposals.boxes
    asked = [] if boxes is None else [boxes_digest(boxes.uri, store)]
    if not isinstance(sources, BankInputs):
        return [bank_digest(sources.data), *asked]
    base = () if sources.base is None else sources.base.history()
    return [*(source.bank for source in base), sources.digest, *asked]


def _sample_config(config: Config, entries: Sequence[ImageEntry], made_of: Sequence[str]) -> Config:
    images = [(entry.file_name, entry.uri) for entry in entries]
    text = json.dumps([config.resolved(), images, list(made_of)], sort_keys=True)
    name = hashlib.sha256(text.encode()).hexdigest()[:12]
    output = storage.join(config.output, PLAN_FOLDER, name)
    steps = -(-len(images) // (UNITS * IMAGES_PER_GPU_STEP))  # half a step costs a whole one
    most = MOST if config.job.images_per_unit == "auto" else config.job.images_per_unit
    size = min(most, steps * IMAGES_PER_GPU_STEP)
    # so that the sample can be matched again, where it can be
    unlike = bool(config.method.unlike_kept()) or config.proposals.boxes is not None
    keep = config.proposals.keep or not unlike
    return config.model_copy(
        update={
            "proposals": config.proposals.model_copy(update={"keep": keep}),
            "images": storage.join(output, SAMPLE_FILE),
            "image_root": None,
            "columns": TableColumns(),
            "output": output,
            "job": config.job.model_copy(update={"images_per_unit": size}),
        }
    )


def _measured(
    sample: Config,
    entries: Sequence[ImageEntry],
    store: Storage,
    on_unit: Callable[[UnitDone, int, int], None],
) -> Measured:
    store.publish_bytes(sample.images, sample_file(entries))
    done: list[UnitDone] = []

    def note(unit: UnitDone, images_done: int, images: int) -> None:
        done.append(unit)
        on_unit(unit, images_done, images)

    label(sample, note)
    if not done:
        raise InputError(
            f"{storage.redact(sample.output)}: the sample was labelled before, but its metrics "
            "were not kept; remove that prefix or choose another --seed"
        )
    names, counts = merge(sample)
    if sample.ground_truth is not None:
        evaluate_run(sample)
    shards = [shard_uri(sample.output, i) for i in existing_shards(sample.output, store)]
    files = [*shards, *(storage.join(sample.output, name) for name in names)]
    sizes = [size for e in entries if (size := _size(e.uri, store)) is not None]
    timed = settled(done, decide(sample.job, sample.models.device).actors)
    measured = Measured(
        images=counts.images,
        failed=counts.failed,
        detections=counts.detections,
        timed=sum(unit.images for unit in timed),
        actor_s=sum(unit.label_s for unit in timed),
        read_bytes=sum(sizes),
        sized=len(sizes),
        written_bytes=sum(store.size(uri) for uri in files),
        kept_bytes=sum(
            store.size(proposals_uri(sample.output, unit))
            for unit in existing_proposals(sample.output, store)
        ),
    )
    text = json.dumps(asdict(measured), indent=1, sort_keys=True) + "\n"
    store.publish_bytes(storage.join(sample.output, PLAN_FILE), text.encode())
    return measured


def settled(done: Sequence[UnitDone], actors: int) -> Sequence[UnitDone]:
    """The units whose time tells how fast the whole run will be.

    The first unit of an actor warms up caches and kernels, so the first ones are left out where at
    least as many are left.

    Args:
        done: the units that this start labelled: a part only of a sample that was interrupted.
        actors: how many actors labelled them.
    """
    ordered = sorted(done, key=lambda unit: (unit.begun_at, unit.shard_id))
    return ordered[actors:] if len(ordered) >= 2 * actors else ordered


def _size(uri: str, store: Storage) -> int | None:
    try:
        return store.size(uri)
    except (FileNotFoundError, ImageError):
        return None


def _recorded(sample: Config, store: Storage) -> Measured | None:
    try:
        return Measured(**json.loads(store.read_bytes(storage.join(sample.output, PLAN_FILE))))
    except FileNotFoundError:
        return None


def _estimate(config: Config, images: int, units: int, measured: Measured) -> Estimate:
    connect()  # where the sample was labelled by an earlier start
    resources = decide(config.job, config.models.device)
    actor_s = measured.actor_s / measured.timed * images
    actors = min(resources.actors, units)
    per_actor = resources.gpus_per_actor if resources.device == "cuda" else 1.0
    return Estimate(
        images=images,
        units=units,
        sample=measured,
        device=resources.device,
        actors=actors,
        images_per_s=images * actors / actor_s,
        hours=actor_s / actors / 3600,
        device_hours=actor_s * per_actor / 3600,
        read_bytes=round(measured.read_bytes / max(1, measured.sized) * images),
        written_bytes=round(measured.written_bytes / measured.images * images),
        predicted_gpu_hours=predicted_gpu_hours(config, images),
        keeps=config.proposals.keep,
    )
