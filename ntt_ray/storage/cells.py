"""Addresses of cells of Parquet files that hold the bytes of images, and how cells are read.

``parquet://3-17-image/s3://bucket/train.parquet`` is row 17 of row group 3, both counted from 0, in
the column ``image``, whose name is escaped as in a URL. Cells hold bytes, or, as `datasets` writes
them, a struct of ``bytes`` and ``path``; where the bytes are null, the path names a file beside the
table. A row group is the least that Parquet can be read by.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any, NamedTuple
from urllib.parse import quote, unquote

from ntt_ray.errors import ImageError, InputError
from ntt_ray.storage.uris import below, redact

_CELL = re.compile(r"parquet://(\d+)-(\d+)-([^/]+)/(.+)", re.DOTALL)
MOST_AT_ONCE = 128 << 20  # of a row group in memory; more is gone through in steps
_STEP_BYTES = 16 << 20
_STEP_ROWS = 64
_FOOTERS = 8  # kept by a process


class Cell(NamedTuple):
    """A cell of a Parquet file.

    Attributes:
        group: the row group, from 0.
        row: the row in its group, from 0.
        column: the column's name.
        uri: the file.
    """

    group: int
    row: int
    column: str
    uri: str

    def address(self) -> str:
        """The cell as one text."""
        return f"parquet://{self.group}-{self.row}-{quote(self.column, safe='')}/{self.uri}"


class CellValue(NamedTuple):
    """What a cell holds: bytes, or only the name of a file, or nothing."""

    data: bytes | None
    path: str | None


def cell_of(address: str) -> Cell | None:
    """The cell that an address names; None where it names none."""
    if (found := _CELL.fullmatch(address)) is None:
        return None
    group, row, column, uri = found.groups()
    return Cell(int(group), int(row), unquote(column), uri)


def read_values(stream: IO[bytes], cells: Sequence[Cell]) -> list[CellValue]:
    """What cells of one column and row group hold, in the order of `cells`.

    The row group is read once. One of more than `MOST_AT_ONCE` bytes is gone through in steps, up
    to the last row that is asked for.

    Args:
        stream: the open file.
        cells: at least one, all of the same file, row group and column.

    Raises:
        ImageError: the row group is damaged, or has no such rows.
    """
    with _reading(cells[0]):
        return _values(stream, cells)


def value_bytes(value: CellValue, cell: Cell, read: Callable[[str], bytes]) -> bytes:
    """The bytes of an image, out of its cell or out of the file that the cell names.

    Args:
        value: what the cell holds.
        cell: its place.
        read: reads a file.

    Raises:
        ImageError: there are no bytes, and no file that may be read in their place.
    """
    if value.data is not None:
        return value.data
    if not value.path:
        raise ImageError(f"column {cell.column} is null here")
    try:
        beside = below(cell.uri.rsplit("/", 1)[0], value.path)
    except InputError:
        raise ImageError(
            f"column {cell.column} has no bytes here, and its path leads out of the table's folder"
        ) from None
    return read(beside)


def cell_bytes(stream: IO[bytes], cell: Cell) -> int:
    """About how many bytes of the file a cell takes: the mean of its row group.

    Raises:
        ImageError: the file is damaged, or has no such row group.
    """
    with _reading(cell):
        group = _footer(stream, cell.uri).row_group(cell.group)
        return int(chunk_bytes(group, cell.column) // max(1, group.num_rows))


def chunk_bytes(group: Any, column: str) -> int:
    """How many bytes of a row group a column takes in the file, with its fields."""
    chunks = (group.column(index) for index in range(group.num_columns))
    return sum(
        chunk.total_compressed_size
        for chunk in chunks
        if chunk.path_in_schema == column or chunk.path_in_schema.startswith(f"{column}.")
    )


@contextmanager
def _reading(cell: Cell) -> Iterator[None]:
    """Damage met while reading a row group becomes an error that names it."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, ValueError, LookupError) as error:
        if isinstance(error, ConnectionError | TimeoutError | FileNotFoundError):
            raise  # that is the store's
        where = f"row group {cell.group} of {redact(cell.uri)}"
        raise ImageError(f"{where} cannot be read ({error})") from None


def _values(stream: IO[bytes], cells: Sequence[Cell]) -> list[CellValue]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    first, wanted = cells[0], sorted({cell.row for cell in cells})
    footer = _footer(stream, first.uri)
    groups = footer.num_row_groups
    if first.group >= groups or wanted[-1] >= footer.row_group(first.group).num_rows:
        raise ValueError("it has fewer rows than when it was listed")
    large = chunk_bytes(footer.row_group(first.group), first.column) > MOST_AT_ONCE
    options = {"pre_buffer": not large, "buffer_size": _STEP_BYTES if large else 0}
    found, start = dict[int, CellValue](), 0
    with pq.ParquetFile(stream, metadata=footer, **options) as file:
        chosen = {"row_groups": [first.group], "columns": [first.column], "use_threads": False}
        for batch in file.iter_batches(_STEP_ROWS, **chosen):
            rows = [row for row in wanted if start <= row < start + len(batch)]
            places = pa.array([row - start for row in rows], pa.int64())
            part = batch.column(first.column).take(places)
            found |= zip(rows, _unpacked(part), strict=True)
            start += len(batch)
            if start > wanted[-1]:
                break
    return [found[cell.row] for cell in cells]


def _unpacked(column: Any) -> list[CellValue]:
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_struct(column.type):
        return [CellValue(data, None) for data in column.to_pylist()]
    names = {field.name for field in column.type}
    data = pc.struct_field(column, "bytes").to_pylist()
    paths = pc.struct_field(column, "path").to_pylist() if "path" in names else [None] * len(data)
    return [CellValue(*both) for both in zip(data, paths, strict=True)]


_footers: dict[tuple[str, int], Any] = {}  # by file and its length


def _footer(stream: IO[bytes], uri: str) -> Any:
    import pyarrow.parquet as pq

    key = (uri, stream.seek(0, 2))
    if (found := _footers.get(key)) is None:
        found = pq.read_metadata(stream)
        if len(_footers) >= _FOOTERS:
            _footers.clear()
        _footers[key] = found
    return found
