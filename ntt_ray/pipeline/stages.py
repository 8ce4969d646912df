"""What happens to a unit before and after labelling: reading its images, writing its shard.

These stages run in processes of their own, which start faster without torch: it is not imported
here, nor is Ray.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from threading import Thread
from typing import Any

import pyarrow as pa

from ntt_ray import storage
from ntt_ray.errors import MissingPackageError, NttRayError
from ntt_ray.outputs.shards import ROW_FIELDS, shard_uri, table_to_bytes
from ntt_ray.pipeline.journal import journal_uri
from ntt_ray.pipeline.manifest import read_unit
from ntt_ray.pipeline.models import ModelSpec
from ntt_ray.records import DecodeSettings, FetchedImage, ImageEntry, MatchSettings
from ntt_ray.storage import Storage

FETCH_THREADS = 16
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
        shard_id: the unit.
        images: its images.
        failed: how many of them failed.
        detections: in all of them.
        fetch_s: seconds it took to read the images.
        begun_at: when labelling began, seconds since the epoch by the worker's clock.
        label_s: seconds of labelling.
        write_s: seconds of writing.
        views: these four as in `PromptWork`; 0 where every point of every image is asked.
        views_skipped: see there.
        points: see there.
        points_asked: see there.
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
        output: the run's prefix.
        store: access to files.
        manifest_digest: of the manifest that the units refer to.
        models: how to load both models.
        settings: the method's thresholds.
        decode: how image files become pixels.
        points_per_side: SAM2's grid.
        image_timeout_s: for fetching one image, all retries included.
        decode_threads: of each actor.
        run_token: of this driver.
        provenance: written into every shard.
    """

    output: str
    store: Storage
    manifest_digest: str
    models: ModelSpec
    settings: MatchSettings
    decode: DecodeSettings
    points_per_side: int
    image_timeout_s: float
    decode_threads: int
    run_token: str
    provenance: Mapping[str, str]


def fetch_units(batch: pa.Table, job: LabelJob) -> pa.Table:
    """Read the bytes of a unit's images; an image that cannot be read keeps the reason."""
    rows = []
    for shard_id in batch["shard_id"].to_pylist():
        started = time.perf_counter()
        entries = read_unit(job.output, shard_id, job.manifest_digest, job.store)
        images = fetch_images(entries, job.store.read_bytes, job.image_timeout_s)
        rows.append(
            {
                "shard_id": shard_id,
                "fetch_s": time.perf_counter() - started,
                "images": [_fetched_row(image) for image in images],
            }
        )
    return pa.Table.from_pylist(rows, schema=FETCHED)


def fetch_images(
    entries: Sequence[ImageEntry], read: Callable[[str], bytes], timeout_s: float
) -> list[FetchedImage]:
    """Read images concurrently; each has `timeout_s`, retries included, once its read began.

    A read that never returns keeps its thread: the image fails, a new thread takes its place.
    """
    results: dict[int, FetchedImage] = {}
    running: dict[Future[bytes], tuple[int, float]] = {}
    waiting = deque(enumerate(entries))
    while waiting or running:
        while waiting and len(running) < FETCH_THREADS:
            position, entry = waiting.popleft()
            running[_in_thread(read, entry.uri)] = (position, time.monotonic() + timeout_s)
        deadline = min(end for _, end in running.values())
        wait(running, max(0.0, deadline - time.monotonic()), return_when=FIRST_COMPLETED)
        for future, (position, end) in list(running.items()):
            if future.done() or time.monotonic() >= end:
                del running[future]
                results[position] = _fetched(entries[position], future, timeout_s)
    return [results[position] for position in range(len(entries))]


def _in_thread(read: Callable[[str], bytes], uri: str) -> Future[bytes]:
    """Run a read in a daemon thread of its own, which a stalled store cannot make us wait for."""
    future: Future[bytes] = Future()

    def work() -> None:
        try:
            future.set_result(read(uri))
        except Exception as error:
            future.set_exception(error)

    Thread(target=work, daemon=True).start()
    return future


def _fetched(entry: ImageEntry, future: Future[bytes], timeout_s: float) -> FetchedImage:
    if not future.done():
        return FetchedImage(entry, None, f"timeout: not read within {timeout_s:g} s")
    try:
        return FetchedImage(entry, future.result(), None)
    except FileNotFoundError:
        return FetchedImage(entry, None, "there is no such file")
    except MissingPackageError:
        raise  # no fault of the image: all of them would end as failed rows, for good
    except NttRayError as error:
        return FetchedImage(entry, None, storage.printable(str(error)))


def write_units(batch: pa.Table, job: LabelJob) -> pa.Table:
    """Publish the shards of labelled units, then remove their notes."""
    done = []
    for index, shard_id in enumerate(batch["shard_id"].to_pylist()):
        started = time.perf_counter()
        rows = batch["rows"].combine_chunks()[index].values
        table = pa.Table.from_struct_array(rows)
        data = table_to_bytes(table, job.provenance)
        job.store.publish_bytes(shard_uri(job.output, shard_id), data)
        job.store.delete(journal_uri(job.output, shard_id))
        statuses = table["status"].to_pylist()
        done.append(
            {
                "shard_id": shard_id,
                "images": len(statuses),
                "failed": statuses.count("failed"),
                "detections": sum(len(item) for item in table["annotations"]),
                "fetch_s": batch["fetch_s"][index].as_py(),
                "begun_at": batch["begun_at"][index].as_py(),
                "label_s": batch["label_s"][index].as_py(),
                **{field.name: batch[field.name][index].as_py() for field in WORK_FIELDS},
                "write_s": time.perf_counter() - started,
            }
        )
    return pa.Table.from_pylist(done, schema=WRITTEN)


def _fetched_row(image: FetchedImage) -> dict[str, Any]:
    entry = image.entry
    return {
        "image_id": entry.image_id,
        "file_name": entry.file_name,
        "uri": entry.uri,
        "data": image.data,
        "error": image.error,
    }


def fetched_image(row: Mapping[str, Any]) -> FetchedImage:
    """An image out of a row of `FETCHED`."""
    entry = ImageEntry(row["image_id"], row["file_name"], row["uri"])
    return FetchedImage(entry, row["data"], row["error"])
