"""The manifest: every image of a run, listed once. Defines ``manifest.parquet``.

Columns ``image_id`` int64, ``file_name`` string, ``uri`` string; sorted by image id, unique; one
row group per unit, so that a unit reads only its own rows.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ntt_ray import storage
from ntt_ray.errors import InputError
from ntt_ray.images import IMAGE_SUFFIXES
from ntt_ray.records import ImageEntry
from ntt_ray.references.dataset import read_json
from ntt_ray.storage import Storage

FILE = "manifest.parquet"
SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.int64(), nullable=False),
        pa.field("file_name", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
    ]
)
_TABLE_SUFFIXES = (".parquet", ".csv", ".jsonl")
_SHOWN = 5


def list_images(images: str, image_root: str | None, store: Storage) -> list[ImageEntry]:
    """List the images of a run, sorted by image id.

    Args:
        images: a prefix (recursive), a table (``.parquet``, ``.csv``, ``.jsonl`` with a column
            ``uri``, optionally ``file_name``), or a COCO ``.json``.
        image_root: where relative names of a table or COCO file live; default: its folder.
        store: access to files.

    Raises:
        InputError: nothing there, malformed, repeated, or a name that leads out of its root.
    """
    lower = images.lower()
    if lower.endswith(".json"):
        entries = _from_coco(read_json(images, store), image_root or _folder(images))
    elif lower.endswith(_TABLE_SUFFIXES):
        entries = _from_table(images, image_root or _folder(images), store)
    else:
        names = store.list_files(images, IMAGE_SUFFIXES)
        entries = [_listed(number, name, images) for number, name in enumerate(names, start=1)]
    if not entries:
        kinds = ", ".join(IMAGE_SUFFIXES)
        raise InputError(
            f"images: there is no image in {storage.redact(images)} (looked for {kinds})"
        )
    _check_unicode(entries, images)
    _check_unique(entries, images)
    return sorted(entries, key=lambda entry: entry.image_id)


def manifest_bytes(entries: Sequence[ImageEntry], images_per_unit: int) -> bytes:
    """The manifest file; the same entries give the same bytes."""
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, SCHEMA, compression="zstd") as writer:
        for start in range(0, len(entries), images_per_unit):
            part = entries[start : start + images_per_unit]
            columns = [
                [e.image_id for e in part],
                [e.file_name for e in part],
                [e.uri for e in part],
            ]
            writer.write_table(pa.table(columns, schema=SCHEMA), row_group_size=len(part))
    return sink.getvalue()


def manifest_digest(data: bytes) -> str:
    """SHA-256 of a manifest file, in hex."""
    return hashlib.sha256(data).hexdigest()


def file_names(data: bytes) -> dict[int, str]:
    """File name of every image by its id.

    Raises:
        InputError: the manifest is damaged.
    """
    with _reading():
        table = pq.read_table(pa.BufferReader(data), schema=SCHEMA)
        table.validate(full=True)
    return dict(zip(table["image_id"].to_pylist(), table["file_name"].to_pylist(), strict=True))


def unit_sizes(data: bytes) -> list[int]:
    """Images of each unit, in order; the position is the shard id.

    Raises:
        InputError: the manifest is damaged.
    """
    with _reading():
        metadata = pq.read_metadata(pa.BufferReader(data))
    return [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]


def read_manifest(output: str, store: Storage) -> bytes:
    """The manifest file of a run.

    Raises:
        InputError: it is missing.
    """
    uri = storage.join(output, FILE)
    try:
        return store.read_bytes(uri)
    except FileNotFoundError:
        raise InputError(f"{storage.redact(uri)}: the manifest is missing from the run") from None


def read_unit(output: str, shard_id: int, digest: str, store: Storage) -> list[ImageEntry]:
    """The images of one unit; reads only their rows.

    Raises:
        InputError: the manifest is damaged.
    """
    uri = storage.join(output, FILE)
    with store.open_read(uri) as stream, _reading():
        metadata = _cached_metadata(uri, digest, store)
        table = pq.ParquetFile(stream, metadata=metadata).read_row_group(shard_id)
        table = table.cast(SCHEMA)
        table.validate(full=True)
    return [ImageEntry(**row) for row in table.to_pylist()]


@contextlib.contextmanager
def _reading() -> Iterator[None]:
    """Damage met while reading the manifest becomes an error that says so."""
    try:
        yield
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, ConnectionError | TimeoutError | FileNotFoundError):
            raise  # that is the store's
        raise InputError(f"{FILE} is damaged ({error}); restore it, or start anew") from None


_footers: dict[tuple[str, str], Any] = {}  # they grow with the units; a process reads one once


def _cached_metadata(uri: str, digest: str, store: Storage) -> Any:
    if (uri, digest) not in _footers:
        _footers.clear()
        with store.open_read(uri) as stream:
            _footers[uri, digest] = pq.read_metadata(stream)
    return _footers[uri, digest]


def _folder(uri: str) -> str:
    return uri.rsplit("/", 1)[0]


def _listed(image_id: int, name: str, prefix: str) -> ImageEntry:
    """An image that a store has listed: whatever its name looks like, it lies below the prefix."""
    uri = storage.local_uri(f"{prefix.rstrip('/')}/{name}")
    return ImageEntry(image_id, storage.printable(name), uri)


def _from_coco(coco: Any, image_root: str) -> list[ImageEntry]:
    images = coco.get("images") if isinstance(coco, dict) else None
    if not isinstance(images, list):
        raise InputError("images: the COCO file has no list 'images'")
    entries = []
    for position, image in enumerate(images):
        identity = image.get("id") if isinstance(image, dict) else None
        name = image.get("file_name") if isinstance(image, dict) else None
        if type(identity) is not int or not 0 <= identity < 2**53 or not isinstance(name, str):
            raise InputError(
                f"images: images[{position}] of the COCO file needs a file_name and a "
                "whole-number id from 0 to 2^53"
            )
        entries.append(ImageEntry(identity, name, storage.below(image_root, name)))
    return entries


def _from_table(table: str, image_root: str, store: Storage) -> list[ImageEntry]:
    try:
        data = store.read_bytes(table)
        rows = _table_rows(table, data)
    except FileNotFoundError:
        raise InputError(f"images: {storage.redact(table)}: no such file") from None
    except (pa.ArrowException, OSError, ValueError, csv.Error, RecursionError) as error:
        raise InputError(f"images: {storage.redact(table)}: cannot be read ({error})") from None
    entries = []
    for number, (uri, name) in enumerate(rows, start=1):
        if not isinstance(uri, str) or not uri:
            raise InputError(f"images: row {number} of {storage.redact(table)} has no uri")
        if storage.is_uri(uri) or uri.startswith("/"):
            full = storage.local_uri(storage.absolute(uri))
            # the file name goes into COCO files: a signed URL's signature must not
            shown = storage.redact(full)
            relative = shown.removeprefix(storage.redact(image_root).rstrip("/") + "/")
            default = relative if relative != shown else shown.split("://", 1)[-1].lstrip("/")
        else:
            full, default = storage.join(image_root, uri), uri
        file_name = name if isinstance(name, str) and name else default
        storage.join(image_root, file_name)  # refuses names that lead out
        entries.append(ImageEntry(number, file_name, full))
    return entries


def _table_rows(table: str, data: bytes) -> Iterable[tuple[Any, Any]]:
    if table.lower().endswith(".parquet"):
        columns = pq.read_table(pa.BufferReader(data))
        if "uri" not in columns.column_names:
            raise ValueError("there is no column 'uri'")
        names = columns["file_name"].to_pylist() if "file_name" in columns.column_names else None
        uris = columns["uri"].to_pylist()
        return zip(uris, names or [None] * len(uris), strict=True)
    text = data.decode("utf-8-sig")
    if table.lower().endswith(".csv"):
        rows: list[Any] = list(csv.DictReader(io.StringIO(text)))
    else:
        rows = [json.loads(line) for line in text.split("\n") if line.strip()]
    if not all(isinstance(row, dict) and "uri" in row for row in rows):
        raise ValueError("there is no column 'uri'")
    return [(row["uri"], row.get("file_name")) for row in rows]


def _check_unicode(entries: Sequence[ImageEntry], images: str) -> None:
    for entry in entries:
        for text in (entry.file_name, entry.uri):
            if storage.printable(text) != text:
                raise InputError(
                    f"images: {storage.redact(images)}: the name {text!r} is not valid Unicode"
                )


def _check_unique(entries: Sequence[ImageEntry], images: str) -> None:
    for what in ("image_id", "file_name"):
        counts = Counter(getattr(entry, what) for entry in entries)
        repeated = [str(value) for value, count in counts.items() if count > 1]
        if repeated:
            shown = ", ".join(repeated[:_SHOWN]) + (", ..." if len(repeated) > _SHOWN else "")
            raise InputError(
                f"images: {len(repeated)} {what} values are used more than once in "
                f"{storage.redact(images)}: {shown}"
            )
