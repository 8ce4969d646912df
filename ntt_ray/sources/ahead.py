"""Many files of a store looked into at once, in their order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

FILES_AT_ONCE = 8  # each may take `archives.STEP_BYTES` of memory, on S3 `streams.PIECE_BYTES`


def in_order(look: Callable[[T], R], files: Iterable[T]) -> Iterator[R]:
    """What a function gives for each file, in order; at most `FILES_AT_ONCE` are in work.

    An error is raised in its turn; what was not begun by then is not.
    """
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(FILES_AT_ONCE, thread_name_prefix="index") as pool:
        try:
            for file in files:
                waiting.append(pool.submit(look, file))
                if len(waiting) == FILES_AT_ONCE:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
