"""An object of S3 read from its start to its end by one request, and by another where it breaks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fsspec.asyn import sync

from ntt_ray.errors import StorageError
from ntt_ray.storage.deadlines import METADATA_S, range_s, within
from ntt_ray.storage.publishing import Retried
from ntt_ray.storage.ranges import SizedStream
from ntt_ray.storage.retries import TruncatedReadError, statuses

PIECE_BYTES = 1 << 20  # what a reader of a stream keeps of it
SKIP_BYTES = 8 << 20  # what is skipped by reading it; a longer way is another request
_CHANGED = 412  # If-Match does not hold


class S3Stream:
    """The bytes of an object from a position on: one GET, answered bit by bit.

    Args:
        fs: an ``s3fs.S3FileSystem``.
        path: the path of the object in that file system.
        position: the position of the first byte that is wanted, from 0.
        version: the object's ETag; another object there is an error.
    """

    def __init__(self, fs: Any, path: str, position: int, version: str) -> None:
        bucket, key, _ = fs.split_path(path)
        where = {"Bucket": bucket, "Key": key, "Range": f"bytes={position}-", "IfMatch": version}
        answer = within(METADATA_S, fs, "call_s3", "get_object", **where)
        self._loop, self._body = fs.loop, answer["Body"]

    def read(self, size: int) -> bytes:
        """The next bytes: `size` of them, or fewer where the object ends."""

        async def read() -> bytes:
            pieces: list[bytes] = []
            while (left := size - sum(map(len, pieces))) and (piece := await self._body.read(left)):
                pieces.append(piece)
            return b"".join(pieces)

        data: bytes = sync(self._loop, read, timeout=range_s(size))
        return data

    def close(self) -> None:
        """Give up what is left of the answer."""
        self._loop.call_soon_threadsafe(self._body.close)


class ForwardReader(SizedStream):
    """A stream over an object of `size` bytes that is meant to be read forwards.

    `SKIP_BYTES` and less are skipped by reading them. A longer way, a way back and a failure that
    passes cost another request, which begins where the stream stands.

    Attributes:
        requests: how many there were.
    """

    def __init__(self, size: int, open_at: Callable[[int], S3Stream], retried: Retried) -> None:
        super().__init__(size)
        self.requests = 0
        self._open_at, self._retried = open_at, retried
        self._stream: S3Stream | None = None
        self._stream_at = 0  # position of the next byte of `_stream`

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def]  # a writable buffer
        """Fill a buffer from the position on, and return the number of bytes read."""
        size = min(self._size - self._position, len(buffer))
        if size <= 0:
            return 0
        data = self._retried(lambda: self._read(size))
        buffer[:size] = data
        self._position += size
        return size

    def close(self) -> None:
        """Give up what was not read."""
        self._give_up()
        super().close()

    def _read(self, size: int) -> bytes:
        if not 0 <= self._position - self._stream_at <= SKIP_BYTES:
            self._give_up()
        try:
            if self._stream is None:
                self.requests += 1
                self._stream, self._stream_at = self._open_at(self._position), self._position
            while self._stream_at < self._position:
                self._next(min(PIECE_BYTES, self._position - self._stream_at))
            return self._next(size)
        except Exception as error:
            self._give_up()
            if _CHANGED in statuses(error):
                raise StorageError("it was changed while it was read") from None
            raise

    def _next(self, size: int) -> bytes:
        assert self._stream is not None
        data = self._stream.read(size)
        self._stream_at += len(data)
        if len(data) != size:
            raise TruncatedReadError(f"{len(data)} of {size} bytes came")
        return data

    def _give_up(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()
