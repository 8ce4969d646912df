"""The images of a run: where they are listed, and what no list may hold.

A list may have a hundred million rows, so it lies in Arrow's columns, and is gone through a piece
at a time; what must be sorted waits on the disk of this machine.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ntt_ray import storage
from ntt_ray.coco_input import CocoFile, ListedImage, Problem, read_coco, shown
from ntt_ray.errors import InputError
from ntt_ray.images import IMAGE_SUFFIXES, image_suffixes
from ntt_ray.settings import TableColumns
from ntt_ray.sources.archives import ARCHIVE_SUFFIXES, archive_pieces, is_archive
from ntt_ray.sources.kept import NO_COLUMNS, refuse_columns
from ntt_ray.sources.metadata import METADATA, with_metadata
from ntt_ray.sources.name_order import decoded, in_name_order
from ntt_ray.sources.parquet_images import PARQUET, holds_images, parquet_images
from ntt_ray.sources.schema import (
    SCHEMA,
    PackedFile,
    Piece,
    Row,
    collected,
    repeated,
    without_sizes,
)
from ntt_ray.sources.tables import TABLE_SUFFIXES, table_pieces
from ntt_ray.storage import LeftOut, Storage

logger = logging.getLogger(__name__)

PACKED_SUFFIXES = (*ARCHIVE_SUFFIXES, PARQUET)
_SHOWN = 5


def list_images(
    images: str,
    image_root: str | None,
    store: Storage,
    *,
    allow_local: bool = False,
    columns: TableColumns = NO_COLUMNS,
) -> pa.Table:
    """The images of a run in one table; arguments and errors as for `image_pieces`.

    Raises:
        InputError: also where an id or a name is there twice.
    """
    pieces = image_pieces(images, image_root, store, allow_local=allow_local, columns=columns)
    table = pa.concat_tables([piece.images for piece in pieces])
    check_names(lambda: [table["file_name"]], images)
    return table


def image_pieces(
    images: str,
    image_root: str | None,
    store: Storage,
    *,
    allow_local: bool = False,
    columns: TableColumns = NO_COLUMNS,
) -> Iterator[Piece]:
    """List the images of a run: tables as in `schema`, sorted by image id, with their sizes.

    What a prefix holds and is no image of the run is counted in the log, with the reason. Whether
    all names differ is left to `check_names`.

    Args:
        images: a prefix (recursive) of images, or else of archives, or else of Parquet files with
            the bytes of images; an archive (``.tar``, ``.tar.gz``, ``.zip``), such a Parquet file,
            a table (``.parquet``, ``.csv``, ``.jsonl`` with a column ``uri``, optionally
            ``file_name`` and ``size``), or a COCO ``.json``.
        image_root: where relative names of a table or COCO file live; default: its folder.
        store: access to files.
        allow_local: whether a table in a store may name files of this machine anywhere; else only
            below `image_root`. A table on a disk of this machine always may.
        columns: which columns of a table mean what, and which travel with the images.

    Raises:
        InputError: nothing there, malformed, an id twice, a name that leads out of its root, a row
            of a table that cannot or may not be read, or a column that is missing or cannot travel.
        StorageError: there is no room for temporary files.
    """
    count = 0
    for piece in _pieces(images, image_root, store, allow_local, columns):
        count += len(piece.images)
        yield piece
    if not count:
        kinds = ", ".join(image_suffixes())
        missing = storage.missing_folder(f"{images.rstrip('/')}/any").strip(" ()")
        hint = _what_else(images) or missing or f"looked for {kinds}"
        raise InputError(f"images: there is no image in {storage.redact(images)} ({hint})")


def _pieces(
    images: str, image_root: str | None, store: Storage, allow_local: bool, columns: TableColumns
) -> Iterator[Piece]:
    lower = images.lower()
    if _is_in_archive(images):
        raise InputError(
            f"images: {storage.redact(images)} lies in an archive; unpack it, and name the folder"
        )
    if is_list(images) and _is_folder(images):
        raise InputError(f"images: {images} is a folder; name one table, with the rows of all")
    name = images.rsplit("/", 1)[-1]
    if lower.endswith(".json"):
        refuse_columns(columns, "a COCO file has no columns")
        rows = _from_coco(read_coco(images, store), image_root or _folder(images))
        table = collected(rows, images).sort_by("image_id")
        _check_unique("image_id", lambda: [table["image_id"]], images)
        yield without_sizes(table)
    elif lower.endswith(TABLE_SUFFIXES) and holds_images(images, columns, store):
        yield parquet_images([PackedFile(name, images)], columns, store)
    elif lower.endswith(TABLE_SUFFIXES):
        refuse_columns(TableColumns(image=columns.image), "only Parquet files hold images")
        allow_local = allow_local or not storage.is_uri(storage.absolute(images))
        root = image_root or _folder(images)
        yield from table_pieces(images, root, store, allow_local=allow_local, columns=columns)
    elif is_archive(images) and not _is_folder(images):
        refuse_columns(columns, "an archive has no columns")
        yield from archive_pieces([PackedFile(name, images)], store, alone=True)
    else:
        yield from _below(images, columns, store)


def _below(prefix: str, columns: TableColumns, store: Storage) -> Iterator[Piece]:
    """The images of a folder or prefix: loose ones, or else those in archives or Parquet files."""
    left_out, suffixes = LeftOut(), image_suffixes()
    asked, described = columns != NO_COLUMNS, list[str]()

    def loose() -> Iterator[dict[str, int | None]]:
        for page in store.list_sizes(prefix, suffixes + METADATA * asked, left_out=left_out):
            own = {name: size for name, size in page.items() if name.lower().endswith(suffixes)}
            described.extend(name for name in page if name not in own)
            yield own

    found = _listed(in_name_order(loose()), prefix)
    first = next(found)
    for reason, count in left_out.counts.most_common():
        example = storage.printable(left_out.examples[reason])
        logger.info("images: left out %d files, as %r: %s", count, example, reason)
    if len(first.images):
        pieces = chain([first], found)
        yield from (
            _described(pieces, prefix, sorted(described), columns, store) if asked else pieces
        )
        return
    packed = store.list_files(prefix, PACKED_SUFFIXES)
    root = prefix.rstrip("/")
    files = [PackedFile(name, f"{root}/{name}") for name in packed]
    if archives := [file for file in files if is_archive(file.name)]:
        refuse_columns(columns, "archives have no columns")
        yield from archive_pieces(archives, store, alone=False)
        return
    if not files and store.list_files(prefix, (".arrow",)):
        raise InputError(f"images: {storage.redact(prefix)}: {_ARROW}")
    if files:
        yield parquet_images(files, columns, store)


def _described(
    pieces: Iterable[Piece],
    prefix: str,
    described: Sequence[str],
    columns: TableColumns,
    store: Storage,
) -> Iterator[Piece]:
    """The images of a folder with what its metadata files say of them."""
    parts = list(pieces)
    images = pa.concat_tables([part.images for part in parts])
    sizes = pa.chunked_array([chunk for part in parts for chunk in part.sizes.chunks])
    yield Piece(with_metadata(images, prefix, described, columns, store), sizes)


_ARROW = "Arrow files, as of save_to_disk, are not read; write them by ds.to_parquet(...)"
_ARCHIVES = ("zip", "tar", "libarchive")  # protocols of fsspec
# what is named instead of a folder or a list, by its ending, and what to do
_OTHERS: dict[tuple[str, ...], str] = {
    ARCHIVE_SUFFIXES: "an archive with no member whose ending is that of an image",
    (".tar.bz2", ".tar.xz", ".tar.zst", ".7z", ".rar"): (
        "it is an archive of another kind; write a .tar, .tar.gz or .zip, or unpack it"
    ),
    (".csv.gz", ".csv.zst", ".json.gz", ".jsonl.gz", ".parquet.gz"): "it is compressed; unpack it",
    (".arrow",): _ARROW,
    (".tsv", ".txt", ".ndjson", ".xls", ".xlsx", ".feather"): (
        "it is a list of another format; write it as .csv, .jsonl or .parquet with a column uri"
    ),
    (*IMAGE_SUFFIXES, ".heic", ".heif"): "it is one image; name its folder, or a table",
}


def _what_else(images: str) -> str | None:
    """What somebody named who named no folder of images; None where its name does not tell."""
    if any(letter in images for letter in "*["):
        return "patterns are not filled in; name the folder, or a table of addresses"
    return next((text for ends, text in _OTHERS.items() if images.lower().endswith(ends)), None)


def _is_in_archive(images: str) -> bool:
    return storage.is_uri(images) and images.split("://", 1)[0] in _ARCHIVES


def _is_folder(images: str) -> bool:
    return not storage.is_uri(images) and Path(images).is_dir()


def is_list(images: str) -> bool:
    """Whether `images` names a table or a COCO file, and not a prefix."""
    return images.lower().endswith((".json", *TABLE_SUFFIXES))


def _folder(uri: str) -> str:
    return uri.rsplit("/", 1)[0]


def _listed(names: Iterable[pa.Table], prefix: str) -> Iterator[Piece]:
    """What a store has listed, in order: whatever a name looks like, it lies below the prefix."""
    root, count = f"{prefix.rstrip('/')}/", 0
    for part in names:
        try:
            shown = part["name"].cast(pa.string())
            uris = pc.binary_join_element_wise(root, shown, "")
        except (pa.ArrowInvalid, UnicodeEncodeError):
            own = [decoded(name) for name in part["name"].to_pylist()]
            shown = pa.array([storage.printable(name) for name in own], pa.string())
            uris = pa.array([storage.local_uri(root + name) for name in own], pa.string())
        ids = pa.array(range(count + 1, count + 1 + len(part)), pa.int64())
        yield Piece(pa.table([ids, shown, uris], schema=SCHEMA), part["size"])
        count += len(part)


def _from_coco(coco: CocoFile, image_root: str) -> Iterator[Row]:
    images = coco.items("images", ListedImage)
    if images is None:
        raise InputError("images: the COCO file has no list 'images'")
    if images.problems:
        problems = [_coco_problem(n, found) for n, found in images.problems.items()]
        raise InputError(f"images: {shown(problems)}")
    for _, image in images.sound():
        yield image.id, image.file_name, storage.below(image_root, image.file_name)


def _coco_problem(position: int, problems: Sequence[Problem]) -> str:
    name = f"images[{position}] of the COCO file"
    if odd := [p.text for p in problems if p.text.endswith("Unicode")]:
        return f"{name}: {odd[0]}"
    return f"{name} needs a file_name and a whole-number id from 0 to 2^53"


def check_names(names: Callable[[], Iterable[Any]], images: str) -> None:
    """Whether all file names differ.

    Args:
        names: gives the column of names in Arrow's arrays; called up to three times.
        images: where they were listed.

    Raises:
        InputError: some do not.
    """
    _check_unique("file_name", names, images)


def _check_unique(what: str, column: Callable[[], Iterable[Any]], images: str) -> None:
    if found := repeated(column):
        shown = ", ".join(str(value) for value in list(found)[:_SHOWN])
        raise InputError(
            f"images: {len(found)} {what} values are used more than once in "
            f"{storage.redact(images)}: {shown}{', ...' if len(found) > _SHOWN else ''}"
        )
