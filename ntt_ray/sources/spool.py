"""Tables on this machine's disk: what is too long for memory, in a file without a name.

The file lies in the folder for temporary files and is gone with the process, however that ends.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator

import pyarrow as pa

from ntt_ray.errors import StorageError

_OPTIONS = pa.ipc.IpcWriteOptions(compression="lz4")


class Spool:
    """Tables in the order in which they were added; any of them can be read, again and again.

    Attributes:
        rows: how many rows all tables have.
    """

    def __init__(self) -> None:
        self.rows = 0
        self._file = tempfile.TemporaryFile(prefix="ntt-ray-")  # noqa: SIM115  # closed with us
        self._places: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[pa.Table]:
        return map(self.read, range(len(self)))

    def add(self, table: pa.Table) -> None:
        """Write a table behind those that are there.

        Raises:
            StorageError: there is no room.
        """
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema, options=_OPTIONS) as writer:
            writer.write_table(table)
        data = sink.getvalue()
        start = sum(self._places[-1]) if self._places else 0
        try:
            self._file.write(memoryview(data))
            self._file.flush()
        except OSError as error:
            raise no_room(error) from error
        self._places.append((start, data.size))
        self.rows += len(table)

    def read(self, position: int) -> pa.Table:
        """A table by its position, from 0."""
        start, size = self._places[position]
        return pa.ipc.open_stream(os.pread(self._file.fileno(), size, start)).read_all()


def no_room(error: OSError) -> Exception:
    """The error itself, or if a disk is full, which one, and what to do."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return error
    return StorageError(
        f"writing temporary files in {tempfile.gettempdir()}: {error.strerror}; a run "
        "needs about 100 bytes there for each image: name another folder with TMPDIR"
    )
