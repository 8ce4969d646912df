"""Ray's core without the lines that frighten and say nothing.

The core of Ray in this process writes its errors onto the terminal, beside what reaches us as an
exception. With each pool of actors there is one that warns of constructor arguments in the object
store, though Ray Data itself put them there and this process keeps them as long as the pool
(github.com/ray-project/ray/issues/57733).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

LEVEL = "RAY_BACKEND_LOG_LEVEL"


@contextmanager
def quiet_core() -> Iterator[None]:
    """While Ray is joined or started here: its core in this process says only what ends it.

    The processes that Ray starts keep their logs as they are. Somebody who has set the level wins.
    """
    worker: Any = ray._private.worker
    join = getattr(worker, "connect", None)
    if join is None or LEVEL in os.environ:
        yield
        return

    def joined_quietly(*arguments: Any, **options: Any) -> Any:
        os.environ[LEVEL] = "fatal"  # read once, as the core of this process begins
        try:
            return join(*arguments, **options)
        finally:
            del os.environ[LEVEL]

    worker.connect = joined_quietly
    try:
        yield
    finally:
        worker.connect = join
