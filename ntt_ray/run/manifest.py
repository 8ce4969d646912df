"""The manifest: every image of a run, listed once. Defines ``manifest.parquet``.

Columns ``image_id`` int64, ``file_name`` string, ``uri`` string; sorted by image id, unique. Packed
images, and tables with keys, have also ``key`` and ``source``, strings that may be null, and the
columns of the table that are kept (`sources.schema`). A unit is the next ``images_per_unit`` rows,
or fewer, as the file's metadata say (`units`); a row group holds some whole units, so that a unit
is read with few other rows, and the footer, which every worker reads, stays small: 0.5 MB for 10
million images, where row groups of 256 would take 17 MB.

It is written (`manifest_writer`) and read in pieces: no process has all of it in memory.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ntt_ray import storage
from ntt_ray.errors import InputError
from ntt_ray.records import ImageEntry
from ntt_ray.run.layout import MANIFEST_FILE
from ntt_ray.run.local_manifest import ManifestFile, Source
from ntt_ray.run.units import UNIT_KEYS, Units
from ntt_ray.sources.schema import SCHEMA, entries_of, schema_of
from ntt_ray.storage import Storage

ROWS_AT_ONCE = 8192


def manifest_digest(source: Source) -> str:
    """SHA-256 of a manifest file, in hex."""
    return source.sha256 if isinstance(source, ManifestFile) else hashlib.sha256(source).hexdigest()


def recorded_unit_images(source: Source) -> int:
    """How many images each unit of a manifest but the last has, or has at most.

    Raises:
        InputError: the manifest is damaged.
    """
    with _reading():
        units = Units.of(_opened(source).metadata)
    return units.per_unit or max(units.sizes(), default=1)


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
        for batch in _opened(source).iter_batches(ROWS_AT_ONCE, columns=["file_name"]):
            yield batch["file_name"]


def column(source: Source, name: str) -> pa.ChunkedArray:
    """A column of all images, in the manifest's order, in memory.

    Raises:
        InputError: the manifest is damaged.
    """
    with _reading():
        return _opened(source).read([name])[name]


def division(source: Source) -> tuple[list[int], dict[bytes, bytes]]:
    """The images of each unit, and the metadata that say so; none where a row group is a unit.

    Raises:
        InputError: the manifest is damaged.
    """
    with _reading():
        footer = _opened(source).metadata
        said = {key: value for key, value in (footer.metadata or {}).items() if key in UNIT_KEYS}
        return Units.of(footer).sizes(), said


def name_batches(source: Source) -> Iterator[list[str]]:
    """As `name_columns`, in lists."""
    return (names.to_pylist() for names in name_columns(source))


def image_batches(source: Source) -> Iterator[pa.Table]:
    """All images, in the manifest's order, some at a time.

    Raises:
        InputError: the manifest is damaged.
    """
    with _reading():
        for batch in _opened(source).iter_batches(ROWS_AT_ONCE):
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
