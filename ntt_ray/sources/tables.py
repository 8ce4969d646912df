"""Tables of images: ``.parquet``, ``.csv`` or ``.jsonl`` with a column of addresses.

A table may come from anybody, and workers read what it names with their own rights; so each row is
checked. Of a Parquet file only the columns that are needed are read. A table is read in pieces,
which wait on the disk of this machine until it is known whether any row has a key.
"""

from __future__ import annotations

import csv
import io
import json
import logging
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from itertools import islice
from typing import IO, Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ntt_ray import storage
from ntt_ray.errors import InputError
from ntt_ray.settings import TableColumns
from ntt_ray.sources import kept, schema
from ntt_ray.sources.plain_rows import plain_rows
from ntt_ray.sources.schema import SCHEMA, Piece, Row, collected
from ntt_ray.sources.spool import Spool
from ntt_ray.storage import Storage
from ntt_ray.storage.cells import cell_of
from ntt_ray.storage.parts import part_of

logger = logging.getLogger(__name__)

TABLE_SUFFIXES = (".parquet", ".csv", ".jsonl")
SIZE = "size"  # the column of sizes in bytes, if there is one
_SHOWN = 5
_MOST_BYTES = 1 << 40  # that a file may have; what is more is no size
_CHUNK_BYTES = 1 << 20  # of a column that is read at once
_TEXT_BYTES = 8 << 20


class TableRows(NamedTuple):
    """Some rows of a table.

    Attributes:
        places: what the column of addresses holds; in a bad table anything at all.
        names: what the column ``file_name`` holds; None where there is none.
        carried: keys, perhaps null, and kept columns, by the names that they have in the table.
        sizes: bytes of each file as int64; null where they are not known.
    """

    places: list[Any]
    names: list[Any]
    carried: pa.Table
    sizes: pa.Array


def table_pieces(
    table: str, image_root: str, store: Storage, *, allow_local: bool, columns: TableColumns
) -> Iterator[Piece]:
    """The images that a table names, in its order, numbered from 1.

    Args:
        table: the table, with a column ``uri``.
        image_root: where relative addresses lie.
        store: access to files.
        allow_local: whether rows may name files of this machine outside `image_root`.
        columns: what of the table travels with the images.

    Raises:
        InputError: there is no such table, it is malformed, or a row cannot or may not be read.
        StorageError: there is no room for temporary files.
    """
    shown, check = storage.redact(table), _RowCheck(image_root, allow_local)
    spool, kinds, keyed, unsized = Spool(), dict[pa.Schema, None](), False, 0
    for rows in table_rows(table, "uri", columns, store):
        images = _checked(rows, spool.rows, table, image_root, check)
        keyed = keyed or kept.some_keys(rows.carried, columns)
        kinds[rows.carried.schema.remove_metadata()] = None
        unsized += rows.sizes.null_count
        # one table on the disk; no two columns of it have one name
        spool.add(pa.table([*images.columns, rows.sizes, *rows.carried.columns], _numbers(rows)))
    if 0 < unsized < spool.rows:
        logger.info("images: %d rows of %s have no whole number as their size", unsized, shown)
    whole = kept.concatenated([kind.empty_table() for kind in kinds], shown)
    known = len(SCHEMA)
    for part in spool:
        images = pa.table(part.columns[:known], schema=SCHEMA)
        own = pa.table(part.columns[known + 1 :], whole.column_names)
        images = kept.with_carried(images, [whole, own], columns, shown, keyed=keyed)
        yield Piece(images, part.column(known))


def _numbers(rows: TableRows) -> list[str]:
    return [str(number) for number in range(len(SCHEMA) + 1 + rows.carried.num_columns)]


def _checked(
    rows: TableRows, before: int, table: str, image_root: str, check: _RowCheck
) -> pa.Table:
    """Rows as a list of images; `before` of them were before these."""
    shown = storage.redact(table)
    if rows.places and (found := plain_rows(rows.places, rows.names, image_root)) is not None:
        # they differ in nothing that is checked
        first = list(zip(rows.places[:1], rows.names, strict=False))
        collected(_checked_rows(first, before, shown, image_root, check), table)
        ids = pa.array(range(before + 1, before + 1 + len(rows.places)), pa.int64())
        return pa.table([ids, *found], schema=SCHEMA)
    pairs = zip(rows.places, rows.names, strict=True)
    return collected(_checked_rows(pairs, before, shown, image_root, check), table)


def _checked_rows(
    pairs: Iterable[tuple[Any, Any]], before: int, table: str, image_root: str, check: _RowCheck
) -> Iterator[Row]:
    shown_root = storage.redact(image_root).rstrip("/") + "/"
    for number, (uri, name) in enumerate(pairs, start=before + 1):
        if not isinstance(uri, str) or not uri:
            raise InputError(f"images: row {number} of {table} has no uri")
        if storage.is_uri(uri) or uri.startswith("/"):
            full = storage.local_uri(storage.absolute(uri))
            # the file name goes into COCO files: a signed URL's signature must not
            shown = storage.redact(full)
            relative = shown.removeprefix(shown_root)
            default = relative if relative != shown else shown.split("://", 1)[-1].lstrip("/")
        else:
            full, default = storage.join(image_root, uri), uri
        try:
            check(uri, full)
        except InputError as error:
            where = f"images: row {number} of {table}, {storage.redact(full)}"
            raise type(error)(f"{where}: {error}") from None
        file_name = name if isinstance(name, str) and name else default
        storage.join(image_root, file_name)  # refuses names that lead out
        yield number, file_name, full


class _RowCheck:
    """Whether the rows of a table may be read, and can be: it asks no store."""

    def __init__(self, image_root: str, allow_local: bool) -> None:
        self._root = storage.absolute(image_root).rstrip("/") + "/"
        self._allow_local = allow_local
        self._sound = set[tuple[bool, str]]()

    def __call__(self, uri: str, full: str) -> None:
        """Check a row by what stands in it, and by where that lies.

        Raises:
            InputError: the row's own protocol is not allowed, its package is missing, or it names
                a file that it may not name.
        """
        if (part := part_of(full) or cell_of(full)) is not None:
            uri = full = part.uri
        protocol = full.split("://", 1)[0] if storage.is_uri(full) else "file"
        named = storage.is_uri(uri)  # else the protocol is that of image_root, which is trusted
        if (named, protocol) not in self._sound:
            (storage.check_protocol if named else storage.check_package)(protocol)
            self._sound.add((named, protocol))
        if protocol != "file" or self._allow_local:
            return
        if not storage.absolute(full).startswith(self._root):
            raise InputError(
                "a table in a store may name files of this machine below image_root only; set "
                "images_allow_local: true if it may name any"
            )


def table_rows(
    table: str, places: str, columns: TableColumns, store: Storage
) -> Iterator[TableRows]:
    """The rows of a table, some at a time.

    Args:
        table: the table.
        places: the column of addresses, which must be there.
        columns: what else is read.
        store: access to files.

    Raises:
        InputError: there is no such table, it cannot be read, or a column is missing.
    """
    shown = storage.redact(table)
    try:
        if table.lower().endswith(".parquet"):
            with store.open_read(table) as stream:
                file = pq.ParquetFile(stream, buffer_size=_CHUNK_BYTES)
                yield from _parquet_rows(file, places, columns, shown)
        else:
            with _text(table, store) as stream:
                lines = io.TextIOWrapper(stream, "utf-8-sig", newline="\n")
                yield from _text_rows(table, lines, places, columns, shown)
    except FileNotFoundError:
        where = storage.missing_folder(table)
        raise InputError(f"images: {shown}: no such file{where}") from None
    except (pa.ArrowException, OSError, ValueError, csv.Error, RecursionError) as error:
        raise InputError(f"images: {shown}: cannot be read ({error})") from None


def _text(table: str, store: Storage) -> AbstractContextManager[IO[bytes]]:
    """A text table as a stream; whole where a server need not know ranges, or sizes."""
    if table.lower().startswith(("http://", "https://")):
        return io.BytesIO(store.read_bytes(table))
    return store.open_read(table, _TEXT_BYTES)


def _parquet_rows(
    file: pq.ParquetFile, places: str, columns: TableColumns, shown: str
) -> Iterator[TableRows]:
    found = file.schema_arrow
    if places not in found.names:
        raise ValueError(no_column(places, found.names))
    fields = carried_fields(found, columns, shown)
    named = [name for name in ("file_name",) if name in found.names]
    sized = [name for name in (SIZE,) if name in found.names and _is_size(found.field(name).type)]
    wanted = list(dict.fromkeys([places, *named, *sized, *(field.name for field in fields)]))
    for batch in file.iter_batches(schema.BATCH, columns=wanted):
        names = batch.column("file_name").to_pylist() if named else [None] * len(batch)
        own = {kept.key_name(columns): pa.nulls(len(batch), pa.string())}
        own |= {field.name: kept.decoded(batch.column(field.name)) for field in fields}
        sizes = _sizes(batch.column(SIZE)) if sized else pa.nulls(len(batch), pa.int64())
        yield TableRows(batch.column(places).to_pylist(), names, pa.table(own), sizes)


def _is_size(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind))


def _sizes(found: Any) -> pa.Array:
    """Whole numbers as sizes; what cannot be one is none."""
    possible = pc.and_(pc.greater_equal(found, 0), pc.less_equal(found, _MOST_BYTES))
    return pc.if_else(possible, found, None).cast(pa.int64())


def _size_of(value: Any) -> int | None:
    """The size that a cell of a text table holds, if it holds one."""
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 16:
        value = int(value)
    is_size = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST_BYTES
    return value if is_size else None


def carried_fields(found: pa.Schema, columns: TableColumns, shown: str) -> list[pa.Field]:
    """The columns of a Parquet file that travel with its images; errors as for `kept`."""
    names = kept.carried_names(columns, found.names, shown)
    fields = [kept.checked_field(found.field(name), columns, shown) for name in names]
    return [field for field in fields if field is not None]


def _text_rows(
    table: str, lines: Iterable[str], places: str, columns: TableColumns, shown: str
) -> Iterator[TableRows]:
    if table.lower().endswith(".csv"):
        rows: Iterator[Any] = csv.DictReader(lines)
    else:
        rows = (json.loads(line) for line in lines if line.strip())
    key, found, number = kept.key_name(columns), dict[Any, None](), 1
    while some := list(islice(rows, schema.BATCH)):
        for row in some:
            if not isinstance(row, dict) or places not in row:
                raise ValueError(no_column(places, row if isinstance(row, dict) else ()))
            found |= dict.fromkeys(row)
        keys = [row.get(key) for row in some]
        own = {key: kept.key_values(keys, columns, number, shown)}
        for name in columns.keep:
            own[name] = kept.of_values(name, [row.get(name) for row in some], number, shown)
        names = [row.get("file_name") for row in some]
        sizes = pa.array([_size_of(row.get(SIZE)) for row in some], pa.int64())
        yield TableRows([row[places] for row in some], names, pa.table(own), sizes)
        number += len(some)
    if number > 1:
        kept.carried_names(columns, list(found), shown)


def no_column(wanted: str, columns: Iterable[Any]) -> str:
    """Why a table without a column cannot be read, and what it has in its place."""
    there = [str(name)[:50] for name in islice(columns, _SHOWN)]
    missing = f"there is no column {wanted!r}"
    if len(there) == 1 and ";" in there[0]:
        return f"{missing}; its columns are divided by ; and should be by a comma"
    if not there:
        return missing
    names = ", ".join(map(repr, there))
    return f"{missing}; it has {names}: name the one with the addresses {wanted}"
