"""What travels between the stages of the chain: the job itself, and the rows of its units."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

from ntt_ray.models.spec import ModelSpec
from ntt_ray.run.shard import ROW_FIELDS
from ntt_ray.settings import DecodeSettings, MethodSettings
from ntt_ray.storage import Storage

WORK_FIELDS = [
    pa.field("views", pa.int64()),
    pa.field("views_skipped", pa.int64()),
    pa.field("points", pa.int64()),
    pa.field("points_asked", pa.int64()),
]
FETCHED = pa.schema(
    [
        pa.field("shard_id", pa.int64()),
        pa.field("fetch_s", pa.float64()),
        pa.field(
            "images",
            pa.large_list(
                pa.struct(
                    [
                        pa.field("image_id", pa.int64()),
                        pa.field("file_name", pa.string()),
                        pa.field("uri", pa.string()),
                        pa.field("data", pa.large_binary()),
                        pa.field("error", pa.string()),
                    ]
                )
            ),
        ),
    ]
)
LABELLED = pa.schema(
    [
        pa.field("shard_id", pa.int64()),
        pa.field("fetch_s", pa.float64()),
        pa.field("begun_at", pa.float64()),
        pa.field("label_s", pa.float64()),
        *WORK_FIELDS,
        pa.field("rows", pa.large_list(pa.struct(ROW_FIELDS))),
    ]
)
WRITTEN = pa.schema(
    [
        pa.field("shard_id", pa.int64()),
        pa.field("images", pa.int64()),
        pa.field("failed", pa.int64()),
        pa.field("detections", pa.int64()),
        pa.field("fetch_s", pa.float64()),
        pa.field("begun_at", pa.float64()),
        pa.field("label_s", pa.float64()),
        *WORK_FIELDS,
        pa.field("write_s", pa.float64()),
    ]
)


@dataclass(frozen=True)
class UnitDone:
    """What the driver hears of a finished unit.

    Attributes:
        shard_id: the number of the unit.
        images: how many images it has.
        failed: how many of its images failed.
        detections: how many detections its images have together.
        fetch_s: seconds it took to read the images.
        begun_at: when labelling began, in seconds since the epoch by the worker's clock.
        label_s: seconds it took to label the images.
        write_s: seconds it took to write the shard.
        views: how many images or tiles were looked at for prompts; 0, as are the next three,
            where every point of every image is asked.
        views_skipped: how many of the views SAM2 never saw.
        points: how many points the grids of all views have together.
        points_asked: how many of the points SAM2 was asked about.
    """

    shard_id: int
    images: int
    failed: int
    detections: int
    fetch_s: float
    begun_at: float
    label_s: float
    write_s: float
    views: int = 0
    views_skipped: int = 0
    points: int = 0
    points_asked: int = 0


class Pace:
    """Images per second of this start of a run; loading models is not speed."""

    def __init__(self) -> None:
        self._images, self._begun_at = 0, float("inf")

    def unit(self, unit: UnitDone) -> float:
        """Take in a finished unit, and give the pace so far, in images per second."""
        self._images += unit.images
        self._begun_at = min(self._begun_at, unit.begun_at)
        ended_at = max(time.time(), unit.begun_at + unit.label_s)
        return self._images / max(1e-6, ended_at - self._begun_at)


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
        image_timeout_s: seconds that fetching one image may take, all retries included.
        decode_threads: how many threads each actor decodes images with.
        run_token: the token of this driver; notes of other drivers count for nothing.
        provenance: what the metadata of every shard says.
    """

    output: str
    store: Storage
    manifest_digest: str
    models: ModelSpec
    method: MethodSettings
    decode: DecodeSettings
    image_timeout_s: float
    decode_threads: int
    run_token: str
    provenance: Mapping[str, str]
