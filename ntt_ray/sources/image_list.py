"""The images of a run: where they are listed, and what no list may hold.

A list may have a hundred million rows, so it lies in Arrow's columns, and is gone through a batch
at a time.
"""

from __future__ import annotations

import csv
import io
import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ntt_ray import storage
from ntt_ray.coco_input import CocoFile, ListedImage, Problem, read_coco, shown
from ntt_ray.errors import InputError
from ntt_ray.images import IMAGE_SUFFIXES, image_suffixes
from ntt_ray.sources.archives import ARCHIVE_SUFFIXES, archive_images, is_archive
from ntt_ray.sources.schema import SCHEMA, packed_schema
from ntt_ray.storage import LeftOut, Storage
from ntt_ray.storage.parts import part_of

logger = logging.getLogger(__name__)

BATCH = 65_536
_TABLE_SUFFIXES = (".parquet", ".csv", ".jsonl")
_SHOWN = 5
Row = tuple[int, str, str]  # image id, file name, uri
PackedRow = tuple[int, str, str, str | None, str | None]  # and key, source


def list_images(
    images: str, image_root: str | None, store: Storage, *, allow_local: bool = False
) -> pa.Table:
    """List the images of a run: a table of `SCHEMA`, sorted by image id.

    What a prefix holds and is no image of the run is counted in the log, with the reason.

    Args:
        images: a prefix (recursive) of images or else of archives, an archive (``.tar``,
            ``.tar.gz``, ``.zip``), a table (``.parquet``, ``.csv``, ``.jsonl`` with a column
            ``uri``, optionally ``file_name``), or a COCO ``.json``.
        image_root: where relative names of a table or COCO file live; default: its folder.
        store: access to files.
        allow_local: whether a table in a store may name files of this machine anywhere; else only
            below `image_root`. A table on a disk of this machine always may.

    Raises:
        InputError: nothing there, malformed, repeated, a name that leads out of its root, or a row
            of a table that cannot or may not be read.
    """
    lower = images.lower()
    if _is_in_archive(images):
        raise InputError(
            f"images: {storage.redact(images)} lies in an archive; unpack it, and name the folder"
        )
    if is_list(images) and _is_folder(images):
        raise InputError(f"images: {images} is a folder; name one table, with the rows of all")
    if lower.endswith(".json"):
        rows = _from_coco(read_coco(images, store), image_root or _folder(images))
        table = _collected(rows, images).sort_by("image_id")
    elif lower.endswith(_TABLE_SUFFIXES):
        allow_local = allow_local or not storage.is_uri(storage.absolute(images))
        rows = _from_table(images, image_root or _folder(images), store, allow_local)
        table = _collected(rows, images)
    elif is_archive(images) and not _is_folder(images):
        name = images.rsplit("/", 1)[-1]
        table = _packed([_Archive("", name, images)], store, images)
    else:
        left_out = LeftOut()
        table = _listed(store.list_files(images, image_suffixes(), left_out=left_out), images)
        for reason, count in left_out.counts.most_common():
            example = storage.printable(left_out.examples[reason])
            logger.info("images: left out %d files, as %r: %s", count, example, reason)
        if not len(table) and (packed := store.list_files(images, ARCHIVE_SUFFIXES)):
            root = images.rstrip("/")
            archives = [_Archive(f"{name}/", name, f"{root}/{name}") for name in packed]
            table = _packed(archives, store, images)
    if not len(table):
        kinds = ", ".join(image_suffixes())
        missing = storage.missing_folder(f"{images.rstrip('/')}/any").strip(" ()")
        hint = _what_else(images) or missing or f"looked for {kinds}"
        raise InputError(f"images: there is no image in {storage.redact(images)} ({hint})")
    _check_unique(table, images)
    return table


_ARCHIVES = ("zip", "tar", "libarchive")  # protocols of fsspec
# what is named instead of a folder or a list, by its ending, and what to do
_OTHERS: dict[tuple[str, ...], str] = {
    ARCHIVE_SUFFIXES: "an archive with no member whose ending is that of an image",
    (".tar.bz2", ".tar.xz", ".tar.zst", ".7z", ".rar"): (
        "it is an archive of another kind; write a .tar, .tar.gz or .zip, or unpack it"
    ),
    (".csv.gz", ".csv.zst", ".json.gz", ".jsonl.gz", ".parquet.gz"): "it is compressed; unpack it",
    (".tsv", ".txt", ".ndjson", ".xls", ".xlsx", ".arrow", ".feather"): (
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
    return images.lower().endswith((".json", *_TABLE_SUFFIXES))


def _folder(uri: str) -> str:
    return uri.rsplit("/", 1)[0]


def _listed(names: list[str], prefix: str) -> pa.Table:
    """What a store has listed, sorted: whatever a name looks like, it lies below the prefix.

    The names are taken out of their list.
    """
    root, batches, count = f"{prefix.rstrip('/')}/", [], 0
    names.reverse()  # a list gives memory back at its end
    while names:
        part = names[: -BATCH - 1 : -1]
        del names[-BATCH:]
        try:
            shown = pa.array(part, pa.string())
            uris = pc.binary_join_element_wise(root, shown, "")
        except UnicodeEncodeError:
            shown = pa.array([storage.printable(name) for name in part], pa.string())
            uris = pa.array([storage.local_uri(root + name) for name in part], pa.string())
        ids = pa.array(range(count + 1, count + 1 + len(part)), pa.int64())
        batches.append(pa.record_batch([ids, shown, uris], schema=SCHEMA))
        count += len(part)
    return pa.Table.from_batches(batches, schema=SCHEMA)


class _Archive(NamedTuple):
    """An archive: what stands before its members' paths, its name below `images`, its address."""

    before: str
    name: str
    uri: str


def _packed(archives: Sequence[_Archive], store: Storage, images: str) -> pa.Table:
    return _collected(_from_archives(archives, store), images, packed_schema())


def _from_archives(archives: Sequence[_Archive], store: Storage) -> Iterator[PackedRow]:
    """The images of archives, one archive after the other."""
    number = 0
    for archive in archives:
        source = storage.printable(storage.redact(archive.name))
        for name, address, key in archive_images(storage.absolute(archive.uri), store):
            number += 1
            yield number, archive.before + name, address, key, source


def _collected(
    rows: Iterator[Row] | Iterator[PackedRow], images: str, schema: pa.Schema = SCHEMA
) -> pa.Table:
    """Rows as a table; `InputError` for a name that is not valid Unicode."""
    batches = []
    while part := list(islice(rows, BATCH)):
        try:
            found = zip(zip(*part, strict=True), schema.types, strict=True)
            columns = [pa.array(column, kind) for column, kind in found]
        except UnicodeEncodeError:
            texts = (text for row in part for text in row if isinstance(text, str))
            odd = next(text for text in texts if storage.printable(text) != text)
            raise InputError(
                f"images: {storage.redact(images)}: the name {odd!r} is not valid Unicode"
            ) from None
        batches.append(pa.record_batch(columns, schema=schema))
    return pa.Table.from_batches(batches, schema=schema)


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


def _from_table(table: str, image_root: str, store: Storage, allow_local: bool) -> Iterator[Row]:
    shown_root = storage.redact(image_root).rstrip("/") + "/"
    check = _RowCheck(image_root, allow_local)
    for number, (uri, name) in enumerate(_table_rows(table, store), start=1):
        if not isinstance(uri, str) or not uri:
            raise InputError(f"images: row {number} of {storage.redact(table)} has no uri")
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
            where = f"images: row {number} of {storage.redact(table)}, {storage.redact(full)}"
            raise type(error)(f"{where}: {error}") from None
        file_name = name if isinstance(name, str) and name else default
        storage.join(image_root, file_name)  # refuses names that lead out
        yield number, file_name, full


class _RowCheck:
    """Whether the rows of a table may be read, and can be: it asks no store.

    A table may come from anybody, and workers read what it names with their own rights.
    """

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
        if (part := part_of(full)) is not None:
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


def _table_rows(table: str, store: Storage) -> Iterator[tuple[Any, Any]]:
    try:
        data = store.read_bytes(table)
        reader = _parquet_rows if table.lower().endswith(".parquet") else _text_rows
        yield from reader(table, data)
    except FileNotFoundError:
        where = storage.missing_folder(table)
        raise InputError(f"images: {storage.redact(table)}: no such file{where}") from None
    except (pa.ArrowException, OSError, ValueError, csv.Error, RecursionError) as error:
        raise InputError(f"images: {storage.redact(table)}: cannot be read ({error})") from None


def _parquet_rows(_: str, data: bytes) -> Iterator[tuple[Any, Any]]:
    columns = pq.read_table(pa.BufferReader(data))
    if "uri" not in columns.column_names:
        raise ValueError(_no_uri(columns.column_names))
    named = "file_name" in columns.column_names
    for batch in columns.to_batches(BATCH):
        names = batch["file_name"].to_pylist() if named else [None] * len(batch)
        yield from zip(batch["uri"].to_pylist(), names, strict=True)


def _text_rows(table: str, data: bytes) -> Iterator[tuple[Any, Any]]:
    text = data.decode("utf-8-sig")
    if table.lower().endswith(".csv"):
        rows: Iterator[Any] = csv.DictReader(io.StringIO(text))
    else:
        rows = (json.loads(line) for line in text.split("\n") if line.strip())
    for row in rows:
        if not isinstance(row, dict) or "uri" not in row:
            raise ValueError(_no_uri(row if isinstance(row, dict) else ()))
        yield row["uri"], row.get("file_name")


def _no_uri(columns: Iterable[Any]) -> str:
    there = [str(name)[:50] for name in islice(columns, _SHOWN)]
    if len(there) == 1 and ";" in there[0]:
        return "there is no column 'uri'; its columns are divided by ; and should be by a comma"
    if not there:
        return "there is no column 'uri'"
    names = ", ".join(map(repr, there))
    return f"there is no column 'uri'; it has {names}: name the one with the addresses uri"


def _check_unique(table: pa.Table, images: str) -> None:
    for what in ("image_id", "file_name"):
        column = table[what]
        if _rises(column):
            continue
        if pa.types.is_string(column.type):
            column = column.cast(pa.large_string())  # more than 2 GB of names may be told apart
        if pc.count_distinct(column).as_py() == len(column):
            continue
        counts = column.value_counts()
        repeated = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")
        shown = ", ".join(str(value) for value in repeated[:_SHOWN].to_pylist())
        raise InputError(
            f"images: {len(repeated)} {what} values are used more than once in "
            f"{storage.redact(images)}: {shown}{', ...' if len(repeated) > _SHOWN else ''}"
        )


def _rises(column: pa.ChunkedArray) -> bool:
    """Whether each value is above the one before, as in a listing; needs no memory."""
    last = None
    for chunk in column.chunks:
        below = pa.concat_arrays([pa.array([last], chunk.type), chunk.slice(0, len(chunk) - 1)])
        if not pc.all(pc.less(below, chunk)).as_py():  # the first is below nothing: null, skipped
            return False
        last = chunk[len(chunk) - 1].as_py()
    return True
