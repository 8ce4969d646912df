"""The manifest: every image of a run, listed once. Defines ``manifest.parquet``.

Columns ``image_id`` int64, ``file_name`` string, ``uri`` string; sorted by image id, unique. Packed
images, and tables with keys, have also ``key`` and ``source``, strings that may be null, and the
columns of the table that are kept (`sources.schema`). A unit is the next ``images_per_unit`` rows,
as the file's metadata says; a row group holds some whole units, so that a unit is read with few
other rows, and the footer, which every worker reads, stays small: 0.5 MB for 10 million images,
where row groups of 256 would take 17 MB. Files without that metadata have a row group for each
unit.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ntt_ray import storage
from ntt_ray.errors import InputError
from ntt_ray.records import ImageEntry
from ntt_ray.run.layout import MANIFEST_FILE
from ntt_ray.sources.schema import SCHEMA, entries_of, schema_of
from ntt_ray.storage import Storage

UNIT_KEY = b"images_per_unit"
ROWS_PER_GROUP = 8192
# what `auto` makes of a number of images: enough units for every actor and for progress to be seen,
# but none so small that starting it counts, and none larger than a shard should be
UNITS_WANTED, LEAST, MOST = 64, 4, 256


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
    schema = schema_of(images.schema).with_metadata({UNIT_KEY: str(images_per_unit)})
    per_group = max(1, ROWS_PER_GROUP // images_per_unit) * images_per_unit
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, schema, compression="zstd") as writer:
        for start in range(0, len(images), per_group):
            # in one piece, so that the bytes do not depend on how the table is divided
            part = images.slice(start, per_group).combine_chunks().cast(schema)
            writer.write_table(part, row_group_size=per_group)
    return sink.getvalue()


@dataclass(frozen=True)
class Units:
    """Where the units of a manifest lie in it.

    Attributes:
        footer: the footer of the Parquet file.
        per_unit: how many images each unit but the last has; None where a row group is a unit.
    """

    footer: Any
    per_unit: int | None

    @classmethod
    def of(cls, footer: Any) -> Units:
        """Read what the footer says.

        Raises:
            ValueError: it contradicts itself.
        """
        said = (footer.metadata or {}).get(UNIT_KEY)
        if said is None:
            return cls(footer, None)
        per_unit = int(said)
        full = {footer.row_group(i).num_rows for i in range(footer.num_row_groups - 1)}
        if per_unit < 1 or len(full) > 1 or any(rows % per_unit for rows in full):
            raise ValueError(f"its row groups do not hold units of {per_unit} images")
        return cls(footer, per_unit)

    def sizes(self) -> list[int]:
        """Images of each unit, in order; the position is the shard id."""
        if self.per_unit is None:
            groups = range(self.footer.num_row_groups)
            return [self.footer.row_group(i).num_rows for i in groups]
        full, rest = divmod(self.footer.num_rows, self.per_unit)
        return [self.per_unit] * full + ([rest] if rest else [])

    def read(self, file: pq.ParquetFile, unit: int) -> pa.Table:
        """The images of a unit, with all columns.

        Raises:
            ValueError, OSError, pa.ArrowException: its part of the file is damaged.
        """
        group, start = unit, 0
        if self.per_unit is not None:
            group, start = divmod(unit * self.per_unit, self._rows_per_group())
        table = file.read_row_group(group).slice(start, self.per_unit)
        table = table.cast(schema_of(table.schema))
        table.validate(full=True)
        return table

    def _rows_per_group(self) -> int:
        only = self.footer.num_row_groups == 1
        rows: int = self.footer.num_rows + 1 if only else self.footer.row_group(0).num_rows
        return rows


def recorded_unit_images(data: bytes) -> int:
    """How many images each unit of a manifest but the last has.

    Raises:
        InputError: the manifest is damaged.
    """
    with _reading():
        units = Units.of(pq.read_metadata(pa.BufferReader(data)))
    return units.per_unit or max(units.sizes(), default=1)


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


def name_batches(data: bytes) -> Iterator[list[str]]:
    """File names of all images, in the manifest's order, a row group at a time.

    Raises:
        InputError: the manifest is damaged.
    """
    with _reading():
        file = pq.ParquetFile(pa.BufferReader(data))
        for batch in file.iter_batches(ROWS_PER_GROUP, columns=["file_name"]):
            yield batch["file_name"].to_pylist()


class UnitIds:
    """The image ids of each unit of a manifest; a row group of it is in memory at a time.

    Raises:
        InputError: the manifest is damaged.
    """

    def __init__(self, data: bytes) -> None:
        with _reading():
            self._file = pq.ParquetFile(pa.BufferReader(data))
            self._sizes = Units.of(self._file.metadata).sizes()
        self._groups = np.cumsum([0, *(self._rows(g) for g in range(self._file.num_row_groups))])
        self._ends = np.cumsum([0, *self._sizes])
        self._read = lru_cache(maxsize=1)(self._column)

    def __call__(self, unit: int) -> list[int]:
        """The ids of a unit's images, in order."""
        start, end = self._ends[unit], self._ends[unit + 1]
        group = int(np.searchsorted(self._groups, start, side="right")) - 1
        first = start - self._groups[group]
        ids: list[int] = self._read(group)[first : first + end - start].tolist()
        return ids

    def _rows(self, group: int) -> int:
        rows: int = self._file.metadata.row_group(group).num_rows
        return rows

    def _column(self, group: int) -> npt.NDArray[np.int64]:
        with _reading():
            ids = self._file.read_row_group(group, ["image_id"])["image_id"]
        return np.asarray(ids.to_numpy())


def entries_at(data: bytes, rows: Sequence[int]) -> list[ImageEntry]:
    """The images in some rows of a manifest, each once.

    Raises:
        InputError: the manifest is damaged.
    """
    found = []
    with _reading():
        file, start = pq.ParquetFile(pa.BufferReader(data)), 0
        for group in range(file.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            own = sorted({row - start for row in rows if start <= row < start + count})
            if own:
                part = file.read_row_group(group).take(own)
                found += entries_of(part.cast(schema_of(part.schema)))
            start += count
    return found


def unit_sizes(data: bytes) -> list[int]:
    """Images of each unit, in order; the position is the shard id.

    Raises:
        InputError: the manifest is damaged.
    """
    with _reading():
        return Units.of(pq.read_metadata(pa.BufferReader(data))).sizes()


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


def manifest_schema(data: bytes) -> pa.Schema:
    """The columns of a manifest file.

    Raises:
        InputError: the manifest is damaged.
    """
    with _reading():
        return schema_of(pq.read_schema(pa.BufferReader(data)))


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
