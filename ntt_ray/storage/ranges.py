"""Random access to an object in a store: each range is one request, checked and tried again."""

from __future__ import annotations

import io
from collections.abc import Callable

from ntt_ray.storage.retries import TruncatedReadError

BUFFER_BYTES = 64 << 10


class SizedStream(io.RawIOBase):
    """A stream with a position over an object of `size` bytes; who inherits it reads."""

    def __init__(self, size: int) -> None:
        self._size, self._position = size, 0

    def readable(self) -> bool:
        """True: the stream can always be read."""
        return True

    def seekable(self) -> bool:
        """True: the stream can always be moved in."""
        return True

    def tell(self) -> int:
        """The position in bytes from the start."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position, which is returned; one before the start becomes the start."""
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, origin + offset)
        return self._position


class RangeReader(SizedStream):
    """A seekable stream over an object of `size` bytes.

    fsspec's own would read far ahead, which costs more than it gives for the footer and one row
    group of a Parquet file. `read_range` gives the bytes from a start to an end, the end excluded.

    Attributes:
        requests: how many ranges were read.
    """

    def __init__(self, size: int, read_range: Callable[[int, int], bytes]) -> None:
        super().__init__(size)
        self.requests = 0
        self._read_range = read_range

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def]  # a writable buffer
        """Fill a buffer from the position on, and return the number of bytes read."""
        end = min(self._size, self._position + len(buffer))
        if end <= self._position:
            return 0
        self.requests += 1
        data = self._read_range(self._position, end)
        buffer[: len(data)] = data
        self._position = end
        return len(data)


def checked(data: bytes, expected: int) -> bytes:
    """The data, when it has the expected length in bytes.

    Raises:
        TruncatedReadError: it has another length; the read is worth another attempt.
    """
    if len(data) != expected:
        raise TruncatedReadError(f"{len(data)} of {expected} bytes came")
    return data
