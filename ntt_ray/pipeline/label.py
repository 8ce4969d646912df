"""The Ray Data chain: plan -> fetch -> label -> write, one row per work unit.

A row is retried whole, and its shard is published in one step, so a unit is done or it is not.
Nothing here computes; the method is in `ntt_ray.labeler`.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from functools import partial
from threading import Thread
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset

from ntt_ray.errors import NttRayError
from ntt_ray.labeler import Labeler, MatchSettings
from ntt_ray.outputs.shards import ROW_FIELDS, labels_to_row, shard_uri, table_to_bytes
from ntt_ray.pipeline.journal import journal_uri
from ntt_ray.pipeline.manifest import read_unit
from ntt_ray.pipeline.models import ModelSpec
from ntt_ray.pipeline.resources import TASK_CPUS, Resources
from ntt_ray.pipeline.unit import UnitLabeler
from ntt_ray.records import FetchedImage, ImageEntry
from ntt_ray.storage import Storage

logger = logging.getLogger(__name__)

FETCH_THREADS = 16
IMAGES_PER_GPU_STEP = 4  # through the encoders at once
UNITS_IN_FLIGHT = 2  # per actor: the next unit is fetched while this one is labelled
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
    """

    shard_id: int
    images: int
    failed: int
    detections: int
    fetch_s: float
    begun_at: float
    label_s: float
    write_s: float


@dataclass(frozen=True)
class LabelJob:
    """Plain values that every stage of the chain gets.

    Attributes:
        output: the run's prefix.
        store: access to files.
        manifest_digest: of the manifest that the units refer to.
        models: how to load both models.
        settings: the method's thresholds.
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
    points_per_side: int
    image_timeout_s: float
    decode_threads: int
    run_token: str
    provenance: Mapping[str, str]


def label_units(
    job: LabelJob, shard_ids: Sequence[int], bank: bytes, resources: Resources
) -> Iterator[UnitDone]:
    """Label units and publish their shards; yields each as it is done, in any order.

    Raises:
        LabelError: the method failed on an image; it and the unit are named.
        StorageError: a shard could not be written after all retries.
    """
    bank_ref = ray.put(bank)  # once; every actor of a node reads the same copy
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    units: Dataset = ray.data.from_items(
        [{"shard_id": shard_id} for shard_id in shard_ids], override_num_blocks=len(shard_ids)
    )
    # Ray fuses neighbours that reserve the same; fetching must overlap labelling instead, so its
    # tasks reserve another share of a CPU than the actors.
    fetched = units.map_batches(
        partial(fetch_units, job=job),
        batch_size=1,
        batch_format="pyarrow",
        num_cpus=TASK_CPUS,
    )
    labelled = fetched.map_batches(
        LabelActor,
        fn_constructor_args=(job, [bank_ref]),  # in a list: Ray Data does not resolve it
        batch_size=1,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(
            size=min(resources.actors, len(shard_ids)),
            max_tasks_in_flight_per_actor=UNITS_IN_FLIGHT,
        ),
        **resources.actor_options(),
    )
    written = labelled.map_batches(
        partial(write_units, job=job),
        batch_size=1,
        batch_format="pyarrow",
        num_cpus=TASK_CPUS,
    )
    try:
        for row in written.iter_rows():
            yield UnitDone(**row)
    except Exception as error:  # Ray wraps what our code raised in several layers
        raise _our_error(error) from error


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
    except NttRayError as error:
        return FetchedImage(entry, None, str(error))


class LabelActor:
    """A process with both models and the bank; labels one unit at a time."""

    def __init__(self, job: LabelJob, bank_ref: list[ray.ObjectRef[bytes]]) -> None:
        self._job = job
        self._loading_error: NttRayError | None = None
        try:
            self._units = self._load(ray.get(bank_ref[0]))
        except NttRayError as error:
            # raised here, Ray would pass it on as text only; the first unit raises it instead
            self._loading_error = error

    def _load(self, bank: bytes) -> UnitLabeler:
        import torch

        from ntt_ray.matching.memory import MemoryBank

        job, on_cpu = self._job, self._job.models.device == "cpu"
        if on_cpu:
            torch.set_num_threads(1)  # results must not depend on the machine's cores
        labeler = Labeler(
            job.models.load_encoder(),
            job.models.load_proposer(job.points_per_side),
            MemoryBank.from_bytes(bank, "the broadcast bank"),
            job.settings,
        )
        units = UnitLabeler(
            labeler,
            job.output,
            job.run_token,
            job.store,
            images_per_step=1 if on_cpu else IMAGES_PER_GPU_STEP,
            decode_threads=job.decode_threads,
        )
        if job.models.settings.compile:
            units.warm_up()
        return units

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Label the units of a batch (Ray Data's calling convention)."""
        if self._loading_error is not None:
            raise self._loading_error
        rows = []
        for row in batch.to_pylist():
            started, begun_at = time.perf_counter(), time.time()
            images = [_fetched_image(image) for image in row["images"]]
            labels = self._units.label(row["shard_id"], images)
            rows.append(
                {
                    "shard_id": row["shard_id"],
                    "fetch_s": row["fetch_s"],
                    "begun_at": begun_at,
                    "label_s": time.perf_counter() - started,
                    "rows": [labels_to_row(item) for item in labels],
                }
            )
        return pa.Table.from_pylist(rows, schema=LABELLED)


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


def _fetched_image(row: Mapping[str, Any]) -> FetchedImage:
    entry = ImageEntry(row["image_id"], row["file_name"], row["uri"])
    return FetchedImage(entry, row["data"], row["error"])


def _our_error(error: BaseException) -> BaseException:
    """The error of this package inside what Ray raises, or the outermost one."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, NttRayError):
            return seen
        cause = getattr(seen, "cause", None)
        seen = cause if isinstance(cause, BaseException) else seen.__cause__ or seen.__context__
    return error
