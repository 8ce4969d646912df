"""The manifest: every image of a run, listed once. Defines ``manifest.parquet``.

Columns ``image_id`` int64, ``file_name`` string, ``uri`` string; sorted by image id, unique. Packed
images, and tables with keys, have also ``key`` and ``source``, strings that may be null, and the
columns of the table that are kept (`sources.schema`). A unit is the next ``images_per_unit`` rows,
or fewer, as the file's metadata say (`units`); a row group holds some whole units, so that a unit
is read with few other rows, and the footer, which every worker reads, stays small: 0.5 MB for 10
million images, where row groups of 256 would take 17 MB.

It is written and read in pieces: no process has all of it in memory. Its digest is that of the
file's bytes, which takes one pass over them.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain
from typing import IO, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ntt_ray import storage
from ntt_ray.errors import InputError, StorageError
from ntt_ray.records import ImageEntry
from ntt_ray.run.layout import MANIFEST_FILE
from ntt_ray.run.units import Units, metadata_of, unit_ends
from ntt_ray.sources.schema import SCHEMA, Piece, entries_of, schema_of, without_sizes
from ntt_ray.sources.spool import no_room
from ntt_ray.storage import Storage
from ntt_ray.storage.ranges import RangeReader

ROWS_PER_GROUP = 8192
# what `auto` makes of a number of images: enough units for every actor and for progress to be seen,
# but none so small that starting it counts, and none larger than a shard should be
UNITS_WANTED, LEAST, MOST = 64, 4, 256
_CHUNK_BYTES = 8 << 20
_NO_LIMIT = 1 << 60


class ManifestFile:
    """A manifest on this machine, in a file that nobody else changes.

    Attributes:
        sha256: SHA-256 of its bytes, in hex.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file, digest = file, hashlib.sha256()
        for chunk in self.chunks():
            digest.update(chunk)
        self.sha256 = digest.hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ManifestFile) and self.sha256 == other.sha256

    def __hash__(self) -> int:
        return hash(self.sha256)

    def chunks(self) -> Iterator[bytes]:
        """Its bytes, some at a time."""
        start = 0
        while chunk := os.pread(self._file.fileno(), _CHUNK_BYTES, start):
            yield chunk
            start += len(chunk)

    def stream(self) -> IO[bytes]:
        """Its bytes as a stream with a place of its own."""
        file = self._file  # lives as long as the stream
        size = os.fstat(file.fileno()).st_size
        raw = RangeReader(size, lambda start, end: os.pread(file.fileno(), end - start, start))
        return io.BufferedReader(raw)


Source = ManifestFile | bytes


def unit_images(images: int, wanted: int | Literal["auto"]) -> int:
    """How many images a unit of a new run gets; with ``auto`` a matter of their number alone.

    >>> [unit_images(images, "auto") for images in (37, 1_000, 1_000_000)]
    [4, 16, 256]
    """
    if wanted != "auto":
        return wanted
    return min(MOST, max(LEAST, -(-images // UNITS_WANTED)))


def manifest_bytes(images: pa.Table, images_per_unit: int) -> bytes:
    """The manifest file of a list of images, in its order; the same images give the same bytes.

    The last unit may have fewer images.
    """
    sink = io.BytesIO()
    _write(iter([without_sizes(images)]), images_per_unit, None, sink)
    return sink.getvalue()


def write_manifest(
    pieces: Iterator[Piece], wanted: int | Literal["auto"], unit_bytes: int | None
) -> ManifestFile:
    """The manifest of a list of images, in a temporary file that is gone with the process.

    Args:
        pieces: the list, in its order; at least one piece.
        wanted: how many images a unit has at most.
        unit_bytes: how many bytes the files of a unit's images have at most, as far as their sizes
            are known; None: as many as they have.

    Raises:
        StorageError: there is no room for temporary files.
    """
    file = tempfile.TemporaryFile(prefix="ntt-ray-")  # noqa: SIM115  # closed with its owner
    try:
        _write(pieces, wanted, unit_bytes, file)
        file.flush()
    except OSError as error:
        raise no_room(error) from error
    return ManifestFile(file)


def _write(
    pieces: Iterator[Piece], wanted: int | Literal["auto"], unit_bytes: int | None, sink: IO[bytes]
) -> None:
    pieces, per_unit = _with_unit_images(pieces, wanted)
    first = next(pieces)
    # as long as no unit is cut by its bytes; what is written first cannot know it
    metadata = metadata_of([], per_unit, 0)
    schema = schema_of(first.images.schema).with_metadata(metadata)
    sizes, most_bytes = list[int](), unit_bytes or _NO_LIMIT
    with pq.ParquetWriter(sink, schema, compression="zstd") as writer:
        for rows, own in _row_groups(chain([first], pieces), per_unit, most_bytes):
            # in one piece, so that the bytes do not depend on how the list is divided
            part = rows.combine_chunks().cast(schema)
            writer.write_table(part, row_group_size=len(part))
            sizes += own
        if (found := metadata_of(sizes, per_unit, most_bytes)) != metadata:
            writer.add_key_value_metadata(found)


def _with_unit_images(
    pieces: Iterator[Piece], wanted: int | Literal["auto"]
) -> tuple[Iterator[Piece], int]:
    """The pieces, and how many images a unit has; no more of them are read than that takes."""
    some, count = list[Piece](), 0
    while count < UNITS_WANTED * MOST and (piece := next(pieces, None)) is not None:
        some.append(piece)
        count += len(piece.images)
    return chain(some, pieces), unit_images(count, wanted)


def _row_groups(
    pieces: Iterable[Piece], per_unit: int, most_bytes: int
) -> Iterator[tuple[pa.Table, list[int]]]:
    """Row groups of whole units, and how many images each of these has."""
    most = max(1, ROWS_PER_GROUP // per_unit) * per_unit
    held, sizes = list[pa.Table](), np.zeros(0, np.int64)
    for piece in chain(pieces, [None]):
        if piece is not None:
            held.append(piece.images)
            sizes = np.concatenate([sizes, _known(piece.sizes)])
        groups, start, rows = _groups(unit_ends(sizes, per_unit, most_bytes), most), 0, _one(held)
        for ends in groups if piece is None else groups[:-1]:  # the last one may go on
            yield rows.slice(start, ends[-1] - start), np.diff([start, *ends]).tolist()
            start = ends[-1]
        held, sizes = [rows.slice(start)], sizes[start:]


def _groups(ends: Sequence[int], most: int) -> list[list[int]]:
    """The ends of units, as many together as have at most so many rows."""
    groups, start = list[list[int]](), 0
    for end in ends:
        if not groups or end - start > most:
            start = groups[-1][-1] if groups else 0
            groups.append([])
        groups[-1].append(end)
    return groups


def _one(tables: Sequence[pa.Table]) -> pa.Table:
    return tables[0] if len(tables) == 1 else pa.concat_tables(tables)


def _known(sizes: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    return np.asarray(pc.fill_null(sizes, 0).to_numpy(), np.int64)


def recorded_unit_images(source: Source) -> int:
    """How many images each unit of a manifest but the last has, or has at most.

    Raises:
        InputError: the manifest is damaged.
    """
    with _reading():
        units = Units.of(_opened(source).metadata)
    return units.per_unit or max(units.sizes(), default=1)


def manifest_digest(source: Source) -> str:
    """SHA-256 of a manifest file, in hex."""
    return source.sha256 if isinstance(source, ManifestFile) else hashlib.sha256(source).hexdigest()


def _opened(source: Source) -> pq.ParquetFile:
    own = source.stream() if isinstance(source, ManifestFile) else pa.BufferReader(source)
    return pq.ParquetFile(own)


def file_names(source: Source) -> dict[int, str]:
    """File name of every image by its id.

    Raises:
        InputError: the manifest is damaged.
    """
    with _reading():
        table = _opened(source).read(SCHEMA.names)
        table.validate(full=True)
    return dict(zip(table["image_id"].to_pylist(), table["file_name"].to_pylist(), strict=True))


def name_columns(source: Source) -> Iterator[pa.Array]:
    """File names of all images, in the manifest's order, some at a time.

    Raises:
        InputError: the manifest is damaged.
    """
    with _reading():
        for batch in _opened(source).iter_batches(ROWS_PER_GROUP, columns=["file_name"]):
            yield batch["file_name"]


def name_batches(source: Source) -> Iterator[list[str]]:
    """As `name_columns`, in lists."""
    return (names.to_pylist() for names in name_columns(source))


def image_batches(source: Source) -> Iterator[pa.Table]:
    """All images, in the manifest's order, some at a time.

    Raises:
        InputError: the manifest is damaged.
    """
    with _reading():
        for batch in _opened(source).iter_batches(ROWS_PER_GROUP):
            yield pa.Table.from_batches([batch])


class UnitIds:
    """The image ids of each unit of a manifest; a row group of it is in memory at a time.

    Raises:
        InputError: the manifest is damaged.
    """

    def __init__(self, source: Source) -> None:
        with _reading():
            self._file = _opened(source)
            self._units = Units.of(self._file.metadata)
        self._read = lru_cache(maxsize=1)(self._column)

    def __call__(self, unit: int) -> list[int]:
        """The ids of a unit's images, in order."""
        group, first, end = self._units.place(unit)
        ids: list[int] = self._read(group)[first:end].tolist()
        return ids

    def _column(self, group: int) -> npt.NDArray[np.int64]:
        with _reading():
            ids = self._file.read_row_group(group, ["image_id"])["image_id"]
        return np.asarray(ids.to_numpy())


def entries_at(source: Source, rows: Sequence[int]) -> list[ImageEntry]:
    """The images in some rows of a manifest, each once.

    Raises:
        InputError: the manifest is damaged.
    """
    found = []
    with _reading():
        file, start = _opened(source), 0
        for group in range(file.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            own = sorted({row - start for row in rows if start <= row < start + count})
            if own:
                part = file.read_row_group(group).take(own)
                found += entries_of(part.cast(schema_of(part.schema)))
            start += count
    return found


def unit_sizes(source: Source) -> list[int]:
    """Images of each unit, in order; the position is the shard id.

    Raises:
        InputError: the manifest is damaged.
    """
    with _reading():
        return Units.of(_opened(source).metadata).sizes()


def read_manifest(output: str, store: Storage) -> bytes:
    """The manifest file of a run.

    Raises:
        InputError: it is missing.
    """
    uri = storage.join(output, MANIFEST_FILE)
    try:
        return store.read_bytes(uri)
    except FileNotFoundError:
        raise InputError(f"{storage.redact(uri)}: the manifest is missing from the run") from None


def local_manifest(output: str, store: Storage) -> ManifestFile:
    """The manifest file of a run on this machine; one in a store is copied into a temporary file.

    Raises:
        FileNotFoundError: it is missing.
        StorageError: it cannot be read, or there is no room for temporary files.
    """
    uri = storage.join(output, MANIFEST_FILE)
    if not storage.is_uri(uri):
        try:
            return ManifestFile(open(uri, "rb"))  # closed with its owner
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StorageError(f"reading {uri}: {error}") from error
    file = tempfile.TemporaryFile(prefix="ntt-ray-")  # noqa: SIM115
    with store.open_read(uri, _CHUNK_BYTES) as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            try:
                file.write(chunk)
                file.flush()
            except OSError as error:
                raise no_room(error) from error
    return ManifestFile(file)


def manifest_schema(source: Source) -> pa.Schema:
    """The columns of a manifest file.

    Raises:
        InputError: the manifest is damaged.
    """
    with _reading():
        return schema_of(_opened(source).schema_arrow)


def read_unit(output: str, shard_id: int, digest: str, store: Storage) -> list[ImageEntry]:
    """The images of one unit; reads little else.

    Raises:
        InputError: the manifest is damaged.
    """
    return entries_of(read_unit_table(output, shard_id, digest, store))


def read_unit_table(output: str, shard_id: int, digest: str, store: Storage) -> pa.Table:
    """As `read_unit`, with all columns of the manifest."""
    uri = storage.join(output, MANIFEST_FILE)
    with store.open_read(uri) as stream, _reading():
        units = _cached_units(uri, digest, store)
        return units.read(pq.ParquetFile(stream, metadata=units.footer), shard_id)


@contextlib.contextmanager
def _reading() -> Iterator[None]:
    """Damage met while reading the manifest becomes an error that says so."""
    try:
        yield
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, ConnectionError | TimeoutError | FileNotFoundError):
            raise  # that is the store's
        raise InputError(
            f"{MANIFEST_FILE} is damaged ({error}); restore it, or start anew"
        ) from None


_units: dict[tuple[str, str], Units] = {}  # they grow with the run; a process reads them once


def _cached_units(uri: str, digest: str, store: Storage) -> Units:
    if (uri, digest) not in _units:
        _units.clear()
        with store.open_read(uri) as stream:
            _units[uri, digest] = Units.of(pq.read_metadata(stream))
    return _units[uri, digest]
