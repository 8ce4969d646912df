"""The process that labels: both models and the bank, one unit at a time, the next one taken up."""

from __future__ import annotations

import logging
import os
import platform
import threading
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import ray

from ntt_ray import storage
from ntt_ray.errors import (
    GivenBackError,
    LabelError,
    NttRayError,
    SickDeviceError,
    StorageError,
)
from ntt_ray.proposals.kept import ImageProposals
from ntt_ray.proposals.table import to_table
from ntt_ray.records import FetchedImage, ImageLabels, PromptWork
from ntt_ray.run.box_file import read_boxes
from ntt_ray.run.cluster.connect import see_reserved_gpus_only, this_log
from ntt_ray.run.cluster.metrics import ActorMetrics
from ntt_ray.run.fetch import read_later
from ntt_ray.run.fetched import fetched_image
from ntt_ray.run.job import LABELLED, LabelJob, LabelledUnit
from ntt_ray.run.proposal_shard import to_bytes
from ntt_ray.run.shard import labels_to_row

if TYPE_CHECKING:
    from ntt_ray.run.steps import AnyLabeler
    from ntt_ray.run.unit import UnitLabeler

logger = logging.getLogger(__name__)

IMAGES_PER_GPU_STEP = 8  # through the encoders at once


class LabelActor:
    """A process with both models and the bank; called in as many threads as units are at work.

    One thread of its own loads, warms up and labels. Ray makes an actor in another thread than it
    calls it in, and what torch records of a CUDA graph belongs to the thread that recorded it.
    """

    def __init__(self, job: LabelJob, bank_ref: list[ray.ObjectRef[bytes]]) -> None:
        see_reserved_gpus_only()
        self._job, self._name = job, uuid.uuid4().hex
        self._accelerator: str | None = None
        self._channels = 0
        self._metrics = ActorMetrics(storage.redact(job.output))
        self._lock, self._calls = threading.Lock(), list[threading.Event]()
        self._loading_error: NttRayError | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="device")
        try:
            self._units = self._thread.submit(self._load, ray.get(bank_ref[0])).result()
            if job.models.settings.compile:
                self._units.warm_up()
        except NttRayError as error:
            # raised here, Ray would pass it on as text only; the first unit raises it instead
            self._loading_error = error

    def _load(self, bank: bytes) -> UnitLabeler:
        # here, not above: the driver names this class, and would load what only actors need
        from ntt_ray.run.loading import loaded_keeper, loaded_labeler
        from ntt_ray.run.unit import UnitLabeler

        job, on_cpu = self._job, self._job.models.device == "cpu"
        job.models.set_up_torch()
        self._accelerator = _accelerator(on_cpu)
        if job.keeping is None:
            labeler: AnyLabeler = loaded_labeler(job.models, bank, job.method, job.boxes)
        else:
            labeler = loaded_keeper(job.models, bank, job.method, job.keeping.max_iou)
            self._channels = labeler.encoder.feature_dim
        return UnitLabeler(
            labeler,
            job.output,
            job.run_token,
            job.store,
            images_per_step=1 if on_cpu else IMAGES_PER_GPU_STEP,
            decoders=job.decoders,
            decode=job.decode,
            hang_s=job.hang_s,
            device=_device_name(on_cpu),
            labelling=self._thread,
            read=partial(read_later, job=job),
            boxes=None if job.boxes is None else partial(read_boxes, job=job),
        )

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Label the units of a batch (Ray Data's calling convention)."""
        if self._loading_error is not None:
            raise self._loading_error
        with self._lock:
            earlier, mine = list(self._calls), threading.Event()
            self._calls.append(mine)
        try:
            return self._labelled(batch, earlier)
        finally:
            with self._lock:
                self._calls.remove(mine)
            mine.set()

    def _labelled(self, batch: pa.Table, earlier: Sequence[threading.Event]) -> pa.Table:
        """See `__call__`.

        A unit that comes without its images waits for the calls before it: units end in the order
        in which they came, so that many of its kind in a row mean that nothing can be read.
        """
        rows = []
        for row in batch.to_pylist():
            images = [fetched_image(image) for image in row["images"]]
            given_back = row["given_back"]
            for call in earlier if given_back else ():
                call.wait()
            done = LabelledUnit([], time.time(), 0.0, PromptWork())
            try:
                done = done if given_back else self._label(row["shard_id"], images)
            except (GivenBackError, StorageError) as error:
                given_back = str(error)
            self._measure(done, row["fetch_s"])
            rows.append(
                {
                    "shard_id": row["shard_id"],
                    "again": row["again"],
                    "given_back": given_back,
                    "actor": self._name,
                    "accelerator": self._accelerator,
                    "fetch_s": row["fetch_s"],
                    "begun_at": done.begun_at,
                    "label_s": done.label_s,
                    **asdict(done.work),
                    **self._content(done.rows),
                }
            )
        return pa.Table.from_pylist(rows, schema=LABELLED)

    def _content(self, rows: Sequence[ImageLabels | ImageProposals]) -> dict[str, Any]:
        """The rows of a unit as they travel: labels as rows, proposals as the bytes of a file."""
        proposals = [row for row in rows if isinstance(row, ImageProposals)]
        labels = [labels_to_row(row) for row in rows if isinstance(row, ImageLabels)]
        if self._job.keeping is None:
            return {"rows": labels, "proposals": None}
        table = to_table(proposals, self._channels)
        return {"rows": [], "proposals": to_bytes(table, self._job.keeping.metadata)}

    def _label(self, shard_id: int, images: Sequence[FetchedImage]) -> LabelledUnit:
        try:
            return self._units.label(shard_id, images)
        except SickDeviceError:
            logger.exception("unit %d: this process ends, for its GPU cannot be used", shard_id)
            logging.shutdown()
            os._exit(1)  # Ray starts another one, and gives it the unit
        except LabelError as error:
            logger.exception("unit %d", shard_id)  # goes into this worker's log
            raise LabelError(f"{error}; {this_log()}") from error

    def _measure(self, done: LabelledUnit, fetch_s: float) -> None:
        with self._lock:
            self._metrics.unit(done.rows, fetch_s, done.label_s)
            self._metrics.prompts(done.work)
        if self._job.models.device != "cpu":
            from torch import cuda

            self._metrics.gpu_memory(cuda.memory_reserved(), cuda.max_memory_reserved())


def _device_name(on_cpu: bool) -> str:
    """The device by its machine, for messages about one that fails."""
    if on_cpu:
        return f"cpu of {platform.node()}"
    from torch import cuda

    return f"GPU {cuda.get_device_properties(0).uuid} of {platform.node()}"


def _accelerator(on_cpu: bool) -> str | None:
    """The model of the GPU, on which results depend; None on a CPU."""
    if on_cpu:
        return None
    from torch import cuda

    return cuda.get_device_name(0)
