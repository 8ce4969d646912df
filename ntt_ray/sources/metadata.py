"""Folders of images with ``metadata.jsonl``, ``.csv`` or ``.parquet``: Hugging Face's imagefolder.

Its column ``file_name`` is relative to the folder that it lies in. It is only read where keys or
kept columns are asked for; the images are those of the folder all the same.
"""

from __future__ import annotations

import logging
import posixpath
from collections.abc import Sequence

import pyarrow as pa

from ntt_ray import storage
from ntt_ray.errors import InputError
from ntt_ray.settings import TableColumns
from ntt_ray.sources import kept
from ntt_ray.sources.tables import TABLE_SUFFIXES, table_rows
from ntt_ray.storage import Storage

logger = logging.getLogger(__name__)

METADATA = tuple(f"metadata{suffix}" for suffix in TABLE_SUFFIXES)


def with_metadata(
    images: pa.Table,
    prefix: str,
    described: Sequence[str],
    columns: TableColumns,
    store: Storage,
) -> pa.Table:
    """A list of loose images with the keys and kept columns of its metadata files.

    Images that no row names have nulls; they, and rows of images that are not there, are counted.

    Args:
        images: the list of images, with the columns of `SCHEMA`.
        prefix: where they lie.
        described: names of files below it that may be metadata files.
        columns: what is asked for.
        store: access to files.

    Raises:
        InputError: there is no such file, it is malformed, names an image twice, or lacks a column.
    """
    where = storage.redact(prefix)
    names = [name for name in described if posixpath.basename(name).lower() in METADATA]
    if not names or columns.image is not None:
        kept.refuse_columns(
            columns, f"images of {where} are files, without any of {', '.join(METADATA)}"
        )
    parts, found = list[pa.Table](), list[str]()
    for name in names:
        file, folder = f"{prefix.rstrip('/')}/{name}", posixpath.dirname(name)
        for rows in table_rows(file, "file_name", columns, store):
            parts.append(rows.carried)
            found += [_named(place, folder, storage.redact(file)) for place in rows.places]
    table = kept.concatenated(parts, where)
    places = {name: place for place, name in enumerate(found)}
    if len(places) < len(found):
        raise InputError(f"images: the metadata files of {where} name an image more than once")
    wanted = [places.pop(name, None) for name in images["file_name"].to_pylist()]
    without = sum(place is None for place in wanted)
    if without or places:
        logger.warning(
            "images: %d images of %s have no row in its metadata, and %d of its rows no image",
            *(without, where, len(places)),
        )
    own = table.take(pa.array(wanted, pa.int64()))
    return kept.with_carried(images, [own], columns, where)


def _named(name: object, folder: str, where: str) -> str:
    if not isinstance(name, str) or not name:
        raise InputError(f"images: a row of {where} has no file_name")
    return posixpath.normpath(storage.join(folder, name))
