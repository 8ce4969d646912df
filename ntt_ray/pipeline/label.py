"""The Ray Data chain: plan -> fetch -> label -> write, one row per work unit.

A row is retried whole, and its shard is published in one step, so a unit is done or it is not.
Nothing here computes; the method is in `ntt_ray.labeler`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.data.exceptions import ExecutionTimeoutError

from ntt_ray import storage
from ntt_ray.errors import LabelError, NttRayError, RunIncompleteError
from ntt_ray.outputs.shards import labels_to_row
from ntt_ray.pipeline.metrics import ActorMetrics
from ntt_ray.pipeline.placement import TASK_CPUS, Resources
from ntt_ray.pipeline.resources import our_error, this_log
from ntt_ray.pipeline.stages import (
    LABELLED,
    LabelJob,
    UnitDone,
    fetch_units,
    fetched_image,
    write_units,
)
from ntt_ray.records import FetchedImage, ImageLabels, PromptWork

if TYPE_CHECKING:
    from ntt_ray.pipeline.unit import UnitLabeler

logger = logging.getLogger(__name__)

IMAGES_PER_GPU_STEP = 4  # through the encoders at once
STALL_S = 1800.0  # without anything moving, after which a run ends
SLOWEST_IMAGE_S = {"cpu": 300.0, "cuda": 15.0}  # a unit of many slow images is no stall
UNITS_IN_FLIGHT = 2  # per actor: the next unit is fetched while this one is labelled


def label_units(
    job: LabelJob,
    shard_ids: Sequence[int],
    bank: bytes,
    resources: Resources,
    images_per_unit: int,
) -> Iterator[UnitDone]:
    """Label units and publish their shards; yields each as it is done, in any order.

    Raises:
        RunIncompleteError: for longer than the slowest unit would take, nothing moved.
        LabelError: the method failed on an image; it and the unit are named.
        StorageError: a shard could not be written after all retries.
    """
    bank_ref = ray.put(bank)  # once; every actor of a node reads the same copy
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # for a statistic nobody reads, Ray would walk each worker's page tables every second
    context.memory_usage_poll_interval_s = None
    context.custom_execution_callback_classes = [_ForgetBlocks]
    # wrapped, our errors would reach the driver as text: their causes do not travel
    context.raise_original_map_exception = True
    stall_s = max(STALL_S, SLOWEST_IMAGE_S[resources.device] * images_per_unit)
    context.execution_no_progress_timeout_s = stall_s
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
            **resources.pool(len(shard_ids)),
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
        # not its rows: for them Ray would send the statistics of all units to an actor every few
        # seconds, which took a third of two cores with 100,000 units
        for bundle in written.iter_internal_ref_bundles():
            for block in bundle.blocks:
                yield from (UnitDone(**row) for row in ray.get(block.ref).to_pylist())
    except ExecutionTimeoutError as error:
        raise RunIncompleteError(
            f"nothing moved for {stall_s:.0f} s: workers find no room, or die as they start (a "
            "full disk, a broken GPU; Ray's logs say more). Start the same command again"
        ) from error
    except Exception as error:  # Ray wraps what our code raised in several layers
        raise our_error(error) from error


class _Forgetful(list[Any]):
    """A list that stays empty."""

    def extend(self, _: Iterable[Any]) -> None:
        """Take nothing in."""


class _ForgetBlocks(ExecutionCallback):
    """Lets Ray Data forget the statistics of each block: 3 kB of the driver's memory for a unit."""

    def before_execution_starts(self, executor: Any) -> None:
        """Replace the lists that would grow, where this version of Ray has them."""
        for operator in executor._topology or ():
            if hasattr(operator, "_output_blocks_stats"):
                operator._output_blocks_stats = _Forgetful()


class LabelActor:
    """A process with both models and the bank; labels one unit at a time."""

    def __init__(self, job: LabelJob, bank_ref: list[ray.ObjectRef[bytes]]) -> None:
        self._job = job
        self._metrics = ActorMetrics(storage.redact(job.output))
        self._loading_error: NttRayError | None = None
        try:
            self._units = self._load(ray.get(bank_ref[0]))
        except NttRayError as error:
            # raised here, Ray would pass it on as text only; the first unit raises it instead
            self._loading_error = error

    def _load(self, bank: bytes) -> UnitLabeler:
        # here, not above: the driver names this class, and would load what only actors need
        import torch

        from ntt_ray.matching.memory import MemoryBank
        from ntt_ray.pipeline.unit import UnitLabeler
        from ntt_ray.tiling import make_labeler

        job, on_cpu = self._job, self._job.models.device == "cpu"
        if on_cpu:
            torch.set_num_threads(1)  # results must not depend on the machine's cores
        else:
            torch.backends.cudnn.allow_tf32 = False  # fp32 means float32, in convolutions too
        encoder = job.models.load_encoder()
        memory = MemoryBank.from_bytes(bank, "the broadcast bank")
        memory.check_width(encoder.feature_dim)
        proposer = job.models.load_proposer(job.points_per_side)
        labeler = make_labeler(encoder, proposer, memory, job.settings)
        units = UnitLabeler(
            labeler,
            job.output,
            job.run_token,
            job.store,
            images_per_step=1 if on_cpu else IMAGES_PER_GPU_STEP,
            decode_threads=job.decode_threads,
            decode=job.decode,
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
            images = [fetched_image(image) for image in row["images"]]
            labels = self._label(row["shard_id"], images)
            label_s = time.perf_counter() - started
            work = self._units.take_work()
            self._measure(labels, row["fetch_s"], label_s, work)
            rows.append(
                {
                    "shard_id": row["shard_id"],
                    "fetch_s": row["fetch_s"],
                    "begun_at": begun_at,
                    "label_s": label_s,
                    **asdict(work),
                    "rows": [labels_to_row(item) for item in labels],
                }
            )
        return pa.Table.from_pylist(rows, schema=LABELLED)

    def _label(self, shard_id: int, images: Sequence[FetchedImage]) -> list[ImageLabels]:
        try:
            return self._units.label(shard_id, images)
        except LabelError as error:
            logger.exception("unit %d", shard_id)  # goes into this worker's log
            raise LabelError(f"{error}; {this_log()}") from error

    def _measure(
        self, labels: Sequence[ImageLabels], fetch_s: float, label_s: float, work: PromptWork
    ) -> None:
        self._metrics.unit(labels, fetch_s, label_s)
        self._metrics.prompts(work)
        if self._job.models.device != "cpu":
            from torch import cuda

            self._metrics.gpu_memory(cuda.memory_reserved(), cuda.max_memory_reserved())
