"""How long a store may take for an answer, from the request to the last byte of it.

The time-outs of the clients limit silence only: a server that sends a byte now and then would keep
a request for ever.
"""

from __future__ import annotations

from typing import Any

from fsspec.asyn import AsyncFileSystem, sync

METADATA_S = 60.0  # of a size, a page of a listing
LONGEST_S = 3600.0  # of a whole object, and of listings that a store gives in one piece
_SLOWEST = 100_000  # bytes per second


def range_s(size: int) -> float:
    """Seconds for a range of an object of so many bytes."""
    return METADATA_S + size / _SLOWEST


def within(seconds: float, fs: Any, method: str, *arguments: Any, **options: Any) -> Any:
    """Call a method of a file system; a request to a server is ended after so many seconds.

    Raises:
        TimeoutError: the answer was not whole by then.
    """
    if not isinstance(fs, AsyncFileSystem):
        return getattr(fs, method)(*arguments, **options)
    try:
        # the coroutine itself: not every file system passes a time-out on to it
        return sync(fs.loop, getattr(fs, f"_{method}"), *arguments, timeout=seconds, **options)
    except TimeoutError as error:
        # fsspec drops the text of a time-out of the client's own
        text = str(error) or str(error.__cause__ or "")
        raise TimeoutError(text or f"no whole answer within {seconds:g} s") from error
