"""Ray itself: starting or joining a cluster, how many actors it will hold, what its errors hide."""

from __future__ import annotations

import logging
import os
import re
import signal
import threading
from dataclasses import dataclass
from typing import Any

import ray

from ntt_ray.config import JobConfig
from ntt_ray.errors import ConfigError, NttRayError

logger = logging.getLogger(__name__)

# A machine with as many actors as cores has no room for idle workers in Ray's eyes: it would end
# them after a second, and start a process anew for every unit that is fetched or written.
# Nobody reads the metrics of a Ray that lives as long as one command.
_LOCAL_SYSTEM = {
    "idle_worker_killing_time_threshold_ms": 120_000,
    "enable_metrics_collection": False,
}
# Ray Data appends how to make it try again, which it shall not
_RAY_ADVICE = re.compile(r"\nFailed to [^\n]* after \d+/\d+ attempts .*", re.DOTALL)
TASK_CPUS = 0.25  # of a fetch or write task; they wait for the store most of the time


@dataclass(frozen=True)
class Resources:
    """What the labelling actors get.

    Attributes:
        device: ``cpu`` or ``cuda``.
        actors: size of the pool.
        cpus_per_actor: reserved in Ray; on the CPU an actor computes with one thread whatever it
            reserves, because results must not depend on the size of the machine.
        gpus_per_actor: reserved in Ray, 0 on the CPU.
    """

    device: str
    actors: int
    cpus_per_actor: float
    gpus_per_actor: float

    def actor_options(self) -> dict[str, Any]:
        """Ray's names for what an actor, or a task that loads a model, reserves."""
        return {"num_cpus": self.cpus_per_actor, "num_gpus": self.gpus_per_actor}


def connect(object_store_bytes: int | None = None) -> None:
    """Join the cluster that ``RAY_ADDRESS`` names, or start Ray on this machine; quietly.

    Args:
        object_store_bytes: shared memory of a Ray that is started here; None: Ray's own choice.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if not ray.is_initialized():
        here = not os.environ.get("RAY_ADDRESS")
        on_sigterm = signal.getsignal(signal.SIGTERM)
        ray.init(
            log_to_driver=False,
            logging_level=logging.ERROR,
            include_dashboard=False if here else None,
            object_store_memory=object_store_bytes if here else None,
            _system_config=_LOCAL_SYSTEM if here else None,
        )
        # Ray's own handler drains the node for up to half a minute before anything else ends
        if callable(on_sigterm) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)
    # the traceback of what a worker raised; the error itself is ours to say
    said = logging.ERROR if logger.isEnabledFor(logging.DEBUG) else logging.CRITICAL
    logging.getLogger("ray.data").setLevel(said)


def decide(job: JobConfig, device: str) -> Resources:
    """Fit the settings to the cluster, so that actors, fetching and writing all find room.

    Raises:
        ConfigError: a GPU is asked for and the cluster has none.
    """
    total: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    gpus, cpus = total.get("GPU", 0.0), max(total.get("CPU", 1.0), 1.0)
    if device == "cuda" and gpus < job.gpus_per_actor:
        problem = f"models.device: cuda is asked for, but the cluster has {gpus:g} GPUs"
        raise ConfigError("the cluster cannot run this config:", [problem])
    if device == "cpu" or gpus < job.gpus_per_actor:
        actors = int(cpus) if job.actors == "auto" else job.actors
        room = (cpus - 2 * TASK_CPUS) / actors
        return Resources("cpu", actors, min(1.0, max(0.01, round(room, 2))), 0.0)
    actors = max(1, int(gpus / job.gpus_per_actor)) if job.actors == "auto" else job.actors
    room = max(0.01, round((cpus - 2 * TASK_CPUS) / actors, 2))
    if room < job.cpus_per_actor:
        logger.warning("job.cpus_per_actor: %g, room is for %g", job.cpus_per_actor, room)
    return Resources("cuda", actors, min(job.cpus_per_actor, room), job.gpus_per_actor)


def our_error(error: BaseException) -> BaseException:
    """The error of this package inside what Ray raises, or the outermost one."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, NttRayError) and not isinstance(seen, ray.exceptions.RayError):
            if seen.args and isinstance(seen.args[0], str):
                seen.args = (_RAY_ADVICE.sub("", seen.args[0]), *seen.args[1:])
            return seen
        cause = getattr(seen, "cause", None)
        seen = cause if isinstance(cause, BaseException) else seen.__cause__ or seen.__context__
    return error
