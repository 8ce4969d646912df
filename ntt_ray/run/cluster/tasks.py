"""Functions as Ray tasks: one, several as they end, or very many in order.

Whatever a function raises comes back as itself, not in Ray's wrapping. Nobody but the chain needs
to know more of Ray than this.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import Any, TypeVar, cast

import ray

from ntt_ray.run.cluster.connect import connect, our_error, see_reserved_gpus_only
from ntt_ray.run.cluster.interrupts import release_logging

T = TypeVar("T")
R = TypeVar("R")

STORE_BYTES = 512 << 20  # of shared memory, where Ray is started for the merge
MAX_IN_FLIGHT, MAX_LARGE = 4096, 32  # tasks; those that give some megabytes each


def run_task(
    function: Callable[..., R], *arguments: Any, options: Mapping[str, Any] | None = None
) -> R:
    """Run a picklable function as one Ray task and wait for it; `options` as Ray's take them.

    With ``max_calls`` 1 its process ends with it: what it loaded would stay there for nothing.

    Raises:
        NttRayError: what the function raised.
    """
    task = ray.remote(**options)(_call) if options else ray.remote(_call)
    return cast(R, _result(task.remote(function, *arguments)))


def run_tasks(
    function: Callable[[T], R], items: Iterable[T], options: Mapping[str, Any] | None = None
) -> Iterator[R]:
    """Run a function over a few items in Ray tasks; results come as they end, in any order.

    The function is sent to the cluster once, and all items are handed out at once.

    Raises:
        NttRayError: what the function raised.
    """
    shared = ray.put(function)
    task = ray.remote(_call).options(**(options or {}))
    waiting = [task.remote(shared, item) for item in items]
    while waiting:
        done, waiting = ray.wait(waiting, num_returns=1)
        yield _result(done[0])


def map_on_ray(
    function: Callable[[T], R], items: Iterable[T], *, large: bool = False
) -> Generator[R]:
    """Run a function over items in Ray tasks of one CPU each; results come in order.

    A `Mapper` of `merge.rendering`. Joins or starts Ray; items are read as results are taken, at
    most two for each CPU ahead, and fewer where the results are `large`: they lie in shared memory.

    Raises:
        NttRayError: what the function raised.
    """
    connect(object_store_bytes=STORE_BYTES)
    total: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    ahead = min(MAX_LARGE if large else MAX_IN_FLIGHT, 2 * max(1, int(total.get("CPU", 1.0))))
    shared = ray.put(function)
    task = ray.remote(_call).options(num_cpus=1, max_retries=3)
    waiting: deque[Any] = deque()
    try:
        for item in items:
            waiting.append(task.remote(shared, item))
            if len(waiting) > ahead:
                yield _result(waiting.popleft())
        while waiting:
            yield _result(waiting.popleft())
    finally:
        for reference in waiting:
            ray.cancel(reference)


def _call(function: Callable[..., Any], *arguments: Any) -> Any:  # Ray takes no bound methods
    release_logging()
    see_reserved_gpus_only()
    return function(*arguments)


def _result(reference: Any) -> Any:
    try:
        return ray.get(reference)
    except Exception as error:  # Ray wraps what our code raised in several layers
        raise our_error(error) from error
