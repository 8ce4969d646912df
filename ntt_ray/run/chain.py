"""The Ray Data chain: plan -> fetch -> label -> write, one row per work unit.

A row is retried whole, and its shard is published in one step, so a unit is done or it is not.
Nothing here computes; the method is in `ntt_ray.method.labeler`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Generator, Iterable, Mapping
from functools import partial
from typing import Any

import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.data.exceptions import ExecutionTimeoutError

from ntt_ray.errors import RunIncompleteError
from ntt_ray.run.actor import LabelActor
from ntt_ray.run.cluster.connect import node_memory, our_error
from ntt_ray.run.cluster.fetch_limit import limit_fetches
from ntt_ray.run.cluster.placement import TASK_CPUS, Resources, fetch_memory
from ntt_ray.run.fetch import fetch_units
from ntt_ray.run.job import LabelJob, UnitDone
from ntt_ray.run.write import write_units

logger = logging.getLogger(__name__)

GPU_IMAGES_PER_S = 19.0  # of one GPU, as the sizes and costs of docs/cluster.md take it
LONG_RUN = 100_000  # images; of fewer, nobody waits long
STALL_S = 1800.0  # without anything moving, after which a run ends
SLOWEST_IMAGE_S = {"cpu": 300.0, "cuda": 15.0}  # a unit of many slow images is no stall
STAGES = 3  # each may wait for a store as long as the run has patience
UNITS_AT_WORK = 2  # per actor: the next unit is taken up while this one is labelled
# What Ray is handed costs the driver 14 to 20 ms, whatever is in it: where more actors ask than it
# can serve, units go out several at a time. Each actor still gets so many handouts, so that all end
# together, and a lost one costs little.
ACTORS_SERVED = 64
MOST_TOGETHER = 8
HANDOUTS = 32
# Ray grows a pool whose actors have this share of the units they may have, or shrinks it
BUSY, IDLE = 0.875, 0.25


def label_units(
    job: LabelJob,
    units: Mapping[int, bool],
    bank: bytes,
    resources: Resources,
    images_per_unit: int,
) -> Generator[UnitDone]:
    """Label units and publish their shards; yields each as it is done, in any order.

    Args:
        job: what every stage gets.
        units: the units by number; true where only those of its images are labelled that its shard
            says are to be tried again.
        bank: the bytes of the bank's file.
        resources: what the stages reserve.
        images_per_unit: how many images the largest unit has.

    Raises:
        RunIncompleteError: for longer than the slowest unit would take, nothing moved.
        LabelError: the method failed on an image; it and the unit are named.
    """
    bank_ref = ray.put(bank)  # once; every actor of a node reads the same copy
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # for a statistic nobody reads, Ray would walk each worker's page tables every second
    context.memory_usage_poll_interval_s = None
    # Ray's own mean that units wait at an actor, and at ours none does: it takes up what comes
    context.autoscaling_config.actor_pool_util_upscaling_threshold = BUSY
    context.autoscaling_config.actor_pool_util_downscaling_threshold = IDLE
    context.custom_execution_callback_classes = [_ForgetBlocks]
    limit_fetches(context)
    # wrapped, our errors would reach the driver as text: their causes do not travel
    context.raise_original_map_exception = True
    pool = resources.pool(len(units))
    together = units_together(len(units), resources.max_actors or resources.actors)
    slowest_s = SLOWEST_IMAGE_S[resources.device] * images_per_unit * together
    stall_s = max(STALL_S, slowest_s) + STAGES * job.patience_s
    context.execution_no_progress_timeout_s = stall_s
    planned: Dataset = ray.data.from_items(
        [{"shard_id": shard_id, "again": again} for shard_id, again in units.items()],
        override_num_blocks=-(-len(units) // together),
    )
    # Ray fuses neighbours that reserve the same; fetching must overlap labelling instead, so its
    # tasks reserve another share of a CPU than the actors.
    by_unit: dict[str, Any] = {"batch_size": 1, "batch_format": "pyarrow"}
    fetched = planned.map_batches(
        partial(fetch_units, job=job),
        num_cpus=TASK_CPUS,
        memory=fetch_memory(job.unit_bytes, node_memory()),
        **by_unit,
    )
    labelled = fetched.map_batches(
        LabelActor,
        fn_constructor_args=(job, [bank_ref]),  # in a list: Ray Data does not resolve it
        compute=ActorPoolStrategy(
            **pool,
            max_tasks_in_flight_per_actor=UNITS_AT_WORK,
            max_concurrent_calls_per_actor=UNITS_AT_WORK,
            enable_true_multi_threading=True,
        ),
        **by_unit,
        **resources.actor_options(),
    )
    # labels of kept proposals are made where they are written; Ray sends the bank there once
    writing = partial(write_units, job=job, bank=None if job.keeping is None else bank)
    written = labelled.map_batches(writing, num_cpus=TASK_CPUS, **by_unit)
    try:
        # not its rows: for them Ray would send the statistics of all units to an actor every few
        # seconds, which took a third of two cores with 100,000 units
        for bundle in written.iter_internal_ref_bundles():
            for block in bundle.blocks:
                for row in ray.get(block.ref).to_pylist():
                    yield UnitDone(**row, actors=pool["initial_size"])
    except ExecutionTimeoutError as error:
        raise RunIncompleteError(
            f"nothing moved for {stall_s:.0f} s: workers find no room, or die as they start (a "
            "full disk, a broken GPU; Ray's logs say more). Start the same command again"
        ) from error
    except Exception as error:  # Ray wraps what our code raised in several layers
        raise our_error(error) from error


def units_together(units: int, actors: int) -> int:
    """How many units the driver hands out as one task, to be fetched and labelled in turn.

    Those that are handed out together are done again together when their worker dies. Ray divides
    them where their images fill more than a block of 128 MiB.

    >>> [units_together(400_000, actors) for actors in (8, 64, 100, 400, 1_000)]
    [1, 1, 2, 7, 8]
    >>> units_together(4_000, 100)
    1
    """
    asked = -(-actors // ACTORS_SERVED)
    return max(1, min(asked, MOST_TOGETHER, units // (HANDOUTS * actors)))


def driver_units_per_s(together: int) -> float:
    """Units a second of one driver, through those measured on two cores: 29.7 alone, 74.9 by eight.

    >>> [round(driver_units_per_s(together), 1) for together in (1, 2, 8)]
    [29.7, 45.4, 74.9]
    """
    return 1 / (0.0104 + 0.0233 / together)


def check_pace(units: int, images: int, resources: Resources) -> None:
    """Say at the start where GPUs would wait for the driver; CPUs are too slow for that.

    Args:
        units: how many units are to be labelled.
        images: how many images they have.
        resources: the labelling actors.
    """
    actors = min(units, resources.max_actors or resources.actors)
    if resources.device == "cpu" or images < LONG_RUN:
        return
    asked = actors * GPU_IMAGES_PER_S * units / images
    given = driver_units_per_s(units_together(units, actors))
    if asked > given:
        larger = 2 ** math.ceil(math.log2(images / units * asked / given))
        logger.warning(
            "%d GPU actors may label %.0f units of %.0f images a second (%g images/s each, as "
            "planned), and one driver hands out about %.0f: some would wait. Divide the run among "
            "drivers (label --part I/N), or begin it anew with larger units: a higher job.unit_mb, "
            "where bytes end them, and job.images_per_unit: %d",
            *(actors, asked, images / units, GPU_IMAGES_PER_S, given, larger),
        )


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
