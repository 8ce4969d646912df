"""The columns of every list of images, and their rows as records; it knows no place of images.

Lists of loose files have the columns of `SCHEMA`. Where images are packed, or a table has keys,
there are `PACKED` too, and after them the columns of a table that were asked for (`columns.keep`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ntt_ray import storage
from ntt_ray.errors import InputError
from ntt_ray.records import ImageEntry

Row = tuple[int, str, str]  # image id, file name, uri


class PackedFile(NamedTuple):
    """A file with images in it: its name below `images`, and its address."""

    name: str
    uri: str


class Piece(NamedTuple):
    """Some rows of a list of images.

    Attributes:
        images: the rows, with the columns of the list.
        sizes: bytes of each image's file as int64; null where they are not known.
    """

    images: pa.Table
    sizes: pa.ChunkedArray


SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.int64(), nullable=False),
        pa.field("file_name", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
    ]
)
BATCH = 65_536  # rows that are gone through at once
PACKED = (pa.field("key", pa.string()), pa.field("source", pa.string()))
_NAMES = frozenset((*SCHEMA.names, *(field.name for field in PACKED)))


def packed_schema(kept: tuple[pa.Field, ...] = ()) -> pa.Schema:
    """The columns of a list of packed images, with those that are kept of a table."""
    return pa.schema([*SCHEMA, *PACKED, *kept])


def schema_of(found: pa.Schema) -> pa.Schema:
    """What a list with these columns must look like.

    Raises:
        ValueError: a column that is not of `SCHEMA` may not be null, or only one of `PACKED` is
            there.
    """
    others = [field for field in found if field.name not in SCHEMA.names]
    if not others:
        return SCHEMA
    kept = tuple(field for field in others if field.name not in _NAMES)
    if len(others) != len(PACKED) + len(kept) or not all(field.nullable for field in kept):
        raise ValueError("it has other columns than a list of images")
    return packed_schema(kept)


def collected(rows: Iterator[Row], images: str) -> pa.Table:
    """Rows as a table of `SCHEMA`.

    Raises:
        InputError: a name is not valid Unicode; `images` says where.
    """
    batches = []
    while part := list(islice(rows, BATCH)):
        try:
            columns = [pa.array(column) for column in zip(*part, strict=True)]
        except UnicodeEncodeError:
            raise _no_text(images, (text for _, *names in part for text in names)) from None
        batches.append(pa.record_batch(columns, schema=SCHEMA))
    return pa.Table.from_batches(batches, schema=SCHEMA)


def _no_text(images: str, texts: Iterator[str]) -> InputError:
    odd = next(text for text in texts if storage.printable(text) != text)
    return InputError(f"images: {storage.redact(images)}: the name {odd!r} is not valid Unicode")


def without_sizes(images: pa.Table) -> Piece:
    """A list of images of whose files no size is known."""
    return Piece(images, pa.chunked_array([pa.nulls(len(images), pa.int64())]))


def numbered(packed: pa.Table, first: int = 1) -> pa.Table:
    """A list of packed images without ids as one with ids, which are numbers from `first` on."""
    ids = pa.array(np.arange(first, first + len(packed)))
    known = len(packed_schema()) - 1
    kept = tuple(pa.field(field.name, field.type) for field in list(packed.schema)[known:])
    return pa.table([ids, *packed.columns], schema=packed_schema(kept))


def carried(found: pa.Schema) -> list[str]:
    """The columns of a list that shards get too: those of `PACKED`, and those that are kept."""
    return [name for name in found.names if name not in SCHEMA.names]


def entries_of(images: pa.Table) -> list[ImageEntry]:
    """The rows of a table with the columns of `SCHEMA`, and perhaps others."""
    known = [name for name in images.column_names if name in _NAMES]
    return [ImageEntry(**row) for row in images.select(known).to_pylist()]


def repeated(columns: Callable[[], Iterable[Any]]) -> dict[Any, int]:
    """The values of a column without nulls that are there more than once, in their order.

    It takes 16 bytes of memory for each value, and none where the values rise, as in a listing.

    Args:
        columns: gives the column in Arrow's arrays; called up to three times.
    """
    count, rises, last = 0, True, None
    for column in columns():
        rises, last = rises and _rises(column, last), column[-1].as_py() if len(column) else last
        count += len(column)
    if rises:
        return {}
    hashes, start = np.empty(count, np.int64), 0
    for column in columns():
        hashes[start : start + len(column)] = _hashes(column.to_pylist())
        start += len(column)
    hashes.sort()
    twice = np.unique(hashes[1:][hashes[1:] == hashes[:-1]])
    if not len(twice):
        return {}
    found = Counter[Any]()
    for column in columns():
        values = column.to_pylist()
        suspect = np.flatnonzero(np.isin(_hashes(values), twice))
        found.update(values[place] for place in suspect)
    return {value: times for value, times in found.items() if times > 1}


def _hashes(values: list[Any]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """64 bits of each value; they mean something in this process alone."""
    return np.fromiter(map(hash, values), np.int64, len(values))


def _rises(column: Any, last: Any) -> bool:
    """Whether each value is above the one before it, as in a listing."""
    for chunk in column.chunks if isinstance(column, pa.ChunkedArray) else [column]:
        below = pa.concat_arrays([pa.array([last], chunk.type), chunk.slice(0, len(chunk) - 1)])
        if not pc.all(pc.less(below, chunk)).as_py():  # the first is below nothing: null, skipped
            return False
        last = chunk[len(chunk) - 1].as_py() if len(chunk) else last
    return True
