"""What a task leaves behind that Ray has ended in its middle, in the process that goes on.

Ray ends a task by an interrupt in the main thread of its process, wherever that thread is. Between
the call that takes a lock of `logging` and the block that releases it again, the lock stays taken:
the main thread may take it again, every other thread waits for ever as soon as it logs, or asks
whether it shall. Ray Data sets up logging at the start of each data set's first task in a process,
so a run that is stopped early can meet this (seen in one of 131 tries), and images of the next run
in the same session are not read within their time.
"""

from __future__ import annotations

import logging
from typing import Any


def release_logging() -> None:
    """Release the locks of `logging` that this thread holds: as a task begins, it holds none."""
    handlers = [reference() for reference in logging._handlerList]  # type: ignore[attr-defined]
    locks: list[Any] = [logging._lock, *(handler.lock for handler in handlers if handler)]  # type: ignore[attr-defined]
    for lock in locks:
        while hasattr(lock, "_is_owned") and lock._is_owned():
            lock.release()
