"""Parquet files with the bytes of images in them, as Hugging Face's data sets have.

Listed without the bytes: of each file the footer is read, and of its rows the paths, keys and kept
columns, a small request for each row group. Each image gets an address of `storage.cells`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ntt_ray import storage
from ntt_ray.errors import InputError
from ntt_ray.images import image_suffixes
from ntt_ray.settings import TableColumns
from ntt_ray.sources import kept
from ntt_ray.sources.ahead import in_order
from ntt_ray.sources.schema import PackedFile, Piece, numbered, repeated
from ntt_ray.sources.tables import carried_fields, no_column
from ntt_ray.storage import Storage
from ntt_ray.storage.cells import MOST_AT_ONCE, chunk_bytes

logger = logging.getLogger(__name__)

PARQUET = ".parquet"
DEFAULT = "image"  # the column of several that hold bytes, unless one is named
# what is no name below a root: absolute, with a protocol, or with .. as a part
_LEADS_OUT = r"^[/\\]|^[a-zA-Z][a-zA-Z0-9+.-]*://|(^|[/\\])\.\.([/\\]|$)"


def holds_images(images: str, columns: TableColumns, store: Storage) -> bool:
    """Whether a name is that of a Parquet file with the bytes of images, not with addresses.

    A column ``uri`` makes it a table of addresses, unless the config names a column of bytes.

    Raises:
        InputError: there is no such file, or it cannot be read.
    """
    if not images.lower().endswith(PARQUET):
        return False
    with _reading(images), store.open_read(images) as stream:
        found = pq.read_schema(stream)
    return columns.image is not None or ("uri" not in found.names and bool(_of_bytes(found)))


def parquet_images(files: Sequence[PackedFile], columns: TableColumns, store: Storage) -> Piece:
    """The images of Parquet files, file by file, row by row, numbered from 1.

    The size of an image is the mean of its row group.

    ``file_name`` is the path that stands beside the bytes, if every row has one, all differ and
    none leads out of a folder; else the name of the file, the row from 0, and its path's ending.

    Raises:
        InputError: a file is missing or damaged, or it lacks a column that is needed.
    """
    listed = list(in_order(lambda file: _listed(file, columns, store), files))
    tables = [table for table, _ in listed]
    where = storage.redact(files[0].uri if len(files) == 1 else "the Parquet files")
    whole = kept.concatenated(tables, where)
    if large := _large_groups(tables):
        logger.warning(
            "images: %d row groups have more than %d MiB of images, and each unit reads its own "
            "from their start; write them with row_group_size=100",
            *(large, MOST_AT_ONCE >> 20),
        )
    names = whole["path"]
    if not _are_names(names):
        names = pa.chunked_array([_places(table) for table in tables], pa.string())
    carried = ("key", "source", *columns.keep)
    own = {"file_name": names, "uri": whole["address"], **{name: whole[name] for name in carried}}
    return Piece(numbered(pa.table(own)), pa.chunked_array([sizes for _, sizes in listed]))


@contextmanager
def _reading(uri: str) -> Iterator[None]:
    shown = storage.redact(uri)
    try:
        yield
    except FileNotFoundError:
        where = storage.missing_folder(uri)
        raise InputError(f"images: {shown}: no such file{where}") from None
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(f"images: {shown}: cannot be read ({error})") from None


def _listed(file: PackedFile, columns: TableColumns, store: Storage) -> tuple[pa.Table, pa.Array]:
    """Path, address, key, source and kept columns of the rows of a file, and their sizes in bytes.

    The metadata say which column holds the images, and how many row groups are large.
    """
    shown = storage.redact(file.uri)
    with _reading(file.uri), store.open_read(file.uri) as stream:
        opened = pq.ParquetFile(stream, pre_buffer=True)
        found = opened.schema_arrow
        column = _image_column(found, columns, shown)
        fields = carried_fields(found, columns, shown)
        paths = _path_column(found.field(column))
        rows = _columns(opened, [*paths, *(field.name for field in fields)])
        footer = opened.metadata
    groups = [footer.row_group(index) for index in range(footer.num_row_groups)]
    sizes = [group.num_rows for group in groups]
    if paths:
        path = pc.struct_field(rows[column], "path").cast(pa.string())
    else:
        path = pa.nulls(footer.num_rows, pa.string())
    source = storage.printable(file.name)
    key = kept.key_name(columns)
    means = [chunk_bytes(group, column) // max(1, group.num_rows) for group in groups]
    table = pa.table(
        {
            "path": path,
            "address": _addresses(sizes, column, storage.local_uri(storage.absolute(file.uri))),
            "key": kept.keys_of(rows[key]) if key in rows else pa.nulls(len(path), pa.string()),
            "source": pa.array([source] * len(path), pa.string()),
            **{name: rows[name] for name in columns.keep},
        }
    ).replace_schema_metadata({"column": column, "large": str(_large(groups, column))})
    return table, pa.array(np.repeat(np.array(means, np.int64), sizes))


def _image_column(found: pa.Schema, columns: TableColumns, shown: str) -> str:
    """The column with the bytes of images.

    Raises:
        InputError: there is none, or several, of which none is named.
    """
    there = _of_bytes(found)
    if columns.image is not None:
        if columns.image not in found.names:
            raise InputError(f"columns.image: {shown}: {no_column(columns.image, found.names)}")
        if columns.image not in there:
            kind = found.field(columns.image).type
            raise InputError(
                f"columns.image: {columns.image!r} of {shown} is {kind}; bytes, or a struct of "
                "bytes and path, are needed"
            )
        return columns.image
    if len(there) > 1 and DEFAULT not in there:
        raise InputError(
            f"images: {shown}: {', '.join(map(repr, there))} hold bytes; name the one with the "
            "images in columns.image"
        )
    if not there:
        names = ", ".join(repr(name[:50]) for name in found.names[:5])
        raise InputError(
            f"images: {shown}: no column holds bytes of images (it has {names}); of a table with "
            "addresses name the one file"
        )
    return DEFAULT if DEFAULT in there else there[0]


def _of_bytes(found: pa.Schema) -> list[str]:
    return [field.name for field in found if _is_image(field.type)]


def _is_image(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(field.name == "bytes" and _is_binary(field.type) for field in kind)
    return _is_binary(kind)


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _path_column(image: pa.Field) -> list[str]:
    """The column of paths beside the bytes, as Parquet names it; none where there is none."""
    if not pa.types.is_struct(image.type):
        return []
    paths = [field for field in image.type if field.name == "path"]
    return [f"{image.name}.path"] if paths and kept.is_text(paths[0].type) else []


def _columns(file: pq.ParquetFile, names: Sequence[str]) -> dict[str, pa.ChunkedArray]:
    """Some columns of all rows, dictionaries as their values."""
    if not names:
        return {}
    table = file.read(columns=list(dict.fromkeys(names)), use_threads=False)
    found = zip(table.column_names, table.columns, strict=True)
    return {name: kept.decoded(column) for name, column in found}


def _addresses(sizes: Sequence[int], column: str, uri: str) -> pa.Array:
    """See `storage.cells.Cell.address`; for all rows at once."""
    groups = pa.array(np.repeat(np.arange(len(sizes)), sizes)).cast(pa.string())
    rows = pa.array(np.concatenate([np.zeros(0, np.int64), *map(np.arange, sizes)]))
    end = f"-{quote(column, safe='')}/{uri}"
    return pc.binary_join_element_wise("parquet://", groups, "-", rows.cast(pa.string()), end, "")


def _are_names(paths: pa.ChunkedArray) -> bool:
    """Whether the paths of all rows can be their names; says why not where some are there."""
    missing = pc.sum(pc.fill_null(pc.equal(paths, ""), True)).as_py() or 0
    if missing == len(paths):
        return not missing
    outside = pc.sum(pc.match_substring_regex(paths, _LEADS_OUT)).as_py() or 0
    if not missing and not outside and not repeated(lambda: [paths]):
        return True
    logger.info(
        "images: named by file and row: of %d paths in the Parquet files %d are missing, %d lead "
        "out of a folder, or some are there twice",
        *(len(paths), missing, outside),
    )
    return False


def _places(rows: pa.Table) -> pa.Array:
    """The name of the file, the row from 0, and the ending of the row's path, or of the column."""
    suffixes = pa.array(image_suffixes())
    found = pc.struct_field(pc.extract_regex(rows["path"], r"(?P<end>\.[^./\\]+)$"), "end")
    ending = pc.utf8_lower(found)
    of_column = f".{rows.schema.metadata[b'column'].decode().lower()}"
    own = of_column if of_column in image_suffixes() else ""
    ending = pc.if_else(pc.fill_null(pc.is_in(ending, suffixes), False), ending, own)
    number = pc.utf8_lpad(pa.array(np.arange(len(rows))).cast(pa.string()), 6, "0")
    names = pc.binary_join_element_wise(rows["source"], "/", number, ending, "")
    return names.combine_chunks()


def _large(groups: Sequence[Any], column: str) -> int:
    return sum(chunk_bytes(group, column) > MOST_AT_ONCE for group in groups)


def _large_groups(tables: Sequence[pa.Table]) -> int:
    return sum(int(table.schema.metadata[b"large"]) for table in tables)
