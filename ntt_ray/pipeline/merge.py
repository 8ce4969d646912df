"""Merging as a Ray job: the functions of `outputs.merge` over many processes, results in order.

The driver only passes fragments on to the store, from Ray's
shared memory and without a copy; how many may wait there is bounded.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from typing import Any, TypeVar

import ray

from ntt_ray.pipeline.resources import connect, our_error

T = TypeVar("T")
R = TypeVar("R")

STORE_BYTES = 512 << 20  # of shared memory, where Ray is started for the merge
MAX_IN_FLIGHT = 32  # fragments of some megabytes each


def map_on_ray(function: Callable[[T], R], items: Iterable[T]) -> Generator[R]:
    """Run a function over items in Ray tasks of one CPU each; results come in order.

    A `Mapper` of `outputs.rendering`. Joins or starts Ray.

    Args:
        function: picklable.
        items: read as results are taken, at most two for each CPU ahead.

    Raises:
        NttRayError: what the function raised.
    """
    connect(object_store_bytes=STORE_BYTES)
    total: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    ahead = min(MAX_IN_FLIGHT, 2 * max(1, int(total.get("CPU", 1.0))))
    shared = ray.put(function)
    waiting: deque[Any] = deque()
    try:
        for item in items:
            waiting.append(_run.remote(shared, item))
            if len(waiting) > ahead:
                yield _taken(waiting)
        while waiting:
            yield _taken(waiting)
    finally:
        for reference in waiting:
            ray.cancel(reference)


@ray.remote(num_cpus=1, max_retries=3)
def _run(function: Callable[[Any], Any], item: Any) -> Any:
    return function(item)


def _taken(waiting: deque[Any]) -> Any:
    try:
        return ray.get(waiting.popleft())
    except Exception as error:  # Ray wraps what our code raised in several layers
        raise our_error(error) from error
