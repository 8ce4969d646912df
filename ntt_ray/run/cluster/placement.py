"""How many labelling actors a cluster holds, and what each of them reserves; arithmetic only.

Ray places an actor where what it reserves is free, so the reservation decides: GPU actors go to GPU
nodes only, and every node keeps room for fetching and writing. It does not know Ray.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ntt_ray.config import ActorsRange, JobConfig
from ntt_ray.errors import ConfigError

logger = logging.getLogger(__name__)

TASK_CPUS = 0.25  # of a fetch or write task; they wait for the store most of the time
NODE_CPUS = 2 * TASK_CPUS  # kept free on every node, for one of each

# what a fetch task reserves: it has the images of a unit as they come and in one piece, and modules
FETCH_UNITS, FETCH_BYTES = 2, 128 << 20
NODE_SHARE = 4  # fetch tasks find room on any node, whatever a unit has


@dataclass(frozen=True)
class Node:
    """What a node offers.

    Attributes:
        cpus: how many CPUs Ray counts; 0 where nothing shall run (often the head).
        gpus: how many GPUs Ray counts.
        accelerator: Ray's name for the kind of its GPUs, as in ``L4``; None where it has none.
        free_cpus: how many of its CPUs nobody has reserved; None: all.
        free_gpus: how many of its GPUs nobody has reserved; None: all.
    """

    cpus: float
    gpus: float = 0.0
    accelerator: str | None = None
    free_cpus: float | None = None
    free_gpus: float | None = None

    def free(self) -> Node:
        """A node of what nobody has reserved of it."""
        cpus = self.cpus if self.free_cpus is None else self.free_cpus
        gpus = self.gpus if self.free_gpus is None else self.free_gpus
        return Node(cpus, gpus, self.accelerator)


@dataclass(frozen=True)
class Layout:
    """A cluster: its nodes now, and one of each kind that its autoscaler may add."""

    nodes: tuple[Node, ...]
    addable: tuple[Node, ...] = ()

    def with_gpus(self, per_actor: float, accelerator: str | None) -> Layout:
        """Only the nodes that a GPU actor fits on."""

        def fitting(nodes: Sequence[Node]) -> tuple[Node, ...]:
            chosen = (n for n in nodes if accelerator in (None, n.accelerator))
            return tuple(node for node in chosen if actors_by_gpu(node, per_actor))

        # what an autoscaler may add is known by its numbers only
        more = tuple(node for node in self.addable if actors_by_gpu(node, per_actor))
        return Layout(fitting(self.nodes), more)


@dataclass(frozen=True)
class Resources:
    """What the labelling actors get.

    Attributes:
        device: ``cpu`` or ``cuda``.
        actors: how many actors the pool has at the start.
        cpus_per_actor: CPUs that an actor reserves in Ray; where it computes on the CPU it does so
            with one thread whatever it reserves, because results must not depend on the machine.
        gpus_per_actor: GPUs that an actor reserves in Ray; 0 on the CPU.
        min_actors: how far the pool may shrink; None keeps it from shrinking below its start.
        max_actors: how far the pool may grow; None lets it grow as far as the cluster does.
        accelerator: the only kind of GPU to use, by Ray's name; None for any.
    """

    device: str
    actors: int
    cpus_per_actor: float
    gpus_per_actor: float
    min_actors: int | None = None
    max_actors: int | None = None
    accelerator: str | None = None

    def actor_options(self) -> dict[str, Any]:
        """Ray's names for what an actor, or a task that loads a model, reserves."""
        options = {"num_cpus": self.cpus_per_actor, "num_gpus": self.gpus_per_actor}
        return {**options, "accelerator_type": self.accelerator} if self.accelerator else options

    def pool(self, units: int) -> dict[str, Any]:
        """Sizes of the pool for so many units, by the names of Ray Data's ``ActorPoolStrategy``."""
        start = min(self.actors, units)
        least = start if self.min_actors is None else min(self.min_actors, start)
        most = units if self.max_actors is None else min(self.max_actors, units)
        return {"min_size": least, "max_size": max(start, most), "initial_size": start}


def fit(job: JobConfig, device: str, layout: Layout) -> Resources:
    """Fit the settings to a cluster, so that actors, fetching and writing all find room.

    The device is ``cpu``, ``cuda``, or ``auto``: GPUs where there are any, or may be.

    Raises:
        ConfigError: a GPU, or a kind of GPU, is asked for and the cluster has none.
    """
    gpu_nodes = layout.with_gpus(job.gpus_per_actor, job.accelerator)
    found = bool(gpu_nodes.nodes or gpu_nodes.addable)
    if not found and (device == "cuda" or (job.accelerator is not None and device != "cpu")):
        raise ConfigError("the cluster cannot run this config:", [_no_gpu(job, layout)])
    if device == "cpu" or not found:
        return _on_cpus(job, layout)
    return _on_gpus(job, gpu_nodes)


def fetch_memory(unit_bytes: int, nodes_bytes: Sequence[float]) -> int | None:
    """Bytes of memory that a fetch task reserves, so that Ray starts no more than a node can hold.

    Args:
        unit_bytes: how many bytes the images of a unit have at most.
        nodes_bytes: what Ray counts as the memory of each node on which tasks may run.

    Returns:
        None where Ray counts none: what no node offers would never be started.
    """
    least = min((int(have) for have in nodes_bytes if have > 0), default=0)
    return min(FETCH_UNITS * unit_bytes + FETCH_BYTES, least // NODE_SHARE) or None


def actors_by_gpu(node: Node, gpus_per_actor: float) -> int:
    """How many actors the GPUs of a node hold; a share of a GPU never spans two of them."""
    if gpus_per_actor >= 1:
        return int(node.gpus / gpus_per_actor)
    return int(node.gpus) * int(1 / gpus_per_actor + 1e-6)


def _on_gpus(job: JobConfig, layout: Layout) -> Resources:
    held = [(node, actors_by_gpu(node, job.gpus_per_actor)) for node in layout.nodes]
    free = sum(actors_by_gpu(node.free(), job.gpus_per_actor) for node in layout.nodes)
    least, start, most = _sizes(job, sum(count for _, count in held), free)
    kinds = held + [(node, actors_by_gpu(node, job.gpus_per_actor)) for node in layout.addable]
    room = min(_share(node, count) for node, count in kinds)
    if room < job.cpus_per_actor:
        logger.warning("job.cpus_per_actor: %g, room is for %g", job.cpus_per_actor, room)
    cpus = min(job.cpus_per_actor, room)
    return Resources("cuda", start, cpus, job.gpus_per_actor, least, most, job.accelerator)


def _on_cpus(job: JobConfig, layout: Layout) -> Resources:
    free = sum(int(node.free().cpus) for node in layout.nodes)
    least, start, most = _sizes(job, sum(int(node.cpus) for node in layout.nodes), free)
    working = [node for node in layout.nodes if node.cpus >= 1] or [
        node for node in (*layout.nodes, *layout.addable) if node.cpus > 0
    ]
    if not working:
        raise ConfigError("the cluster cannot run this config:", ["it has no CPUs to work with"])
    total = sum(node.cpus for node in working)
    held = [(node, math.ceil(start * node.cpus / total - 1e-6)) for node in working]
    room = min(_share(node, count) for node, count in held)
    return Resources("cpu", start, min(1.0, room), 0.0, least, most)


def _share(node: Node, actors: int) -> float:
    """CPUs for each of so many actors of a node; none where it counts none."""
    if node.cpus == 0:
        return 0.0
    # rounded down: were it up, the last actor would not fit
    return max(0.01, math.floor(100 * (node.cpus - NODE_CPUS) / max(1, actors)) / 100)


def _sizes(job: JobConfig, held: int, free: int) -> tuple[int | None, int, int | None]:
    """Least, first and most actors of the pool, where the cluster holds so many, so many now."""
    if job.actors == "auto":
        least, most, start = None, None, max(1, min(held, free))
    elif isinstance(job.actors, ActorsRange):
        least, most = job.actors.min, job.actors.max
        if job.actors.share is not None:
            share = max(least, int(job.actors.share * held + 1e-6))
            most = share if most is None else min(share, most)
        start = max(least, min(held, free), 1)
        start = start if most is None else min(start, most)
    else:
        return job.actors, job.actors, job.actors
    if start < min(held, held if most is None else most):
        logger.info(
            "%d labelling actors begin, the cluster could hold %d: others have reserved the rest, "
            "which is taken as it falls free, up to job.actors (max, share)",
            start,
            held,
        )
    return least, start, most


def _no_gpu(job: JobConfig, layout: Layout) -> str:
    gpus = sum(node.gpus for node in layout.nodes)
    if job.accelerator is not None:
        kinds = sorted({node.accelerator for node in layout.nodes if node.accelerator})
        there = ", ".join(kinds) or "none"
        return f"job.accelerator: no {job.accelerator}, there is {there}; null takes any kind"
    return (
        f"models.device: cuda is asked for, but the cluster has {gpus:g} GPUs, and no node of it "
        f"has the {job.gpus_per_actor:g} of an actor (job.gpus_per_actor). With models.device: "
        "auto CPUs are used; RAY_ADDRESS names a cluster"
    )
