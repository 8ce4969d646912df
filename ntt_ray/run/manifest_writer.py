"""Writing a manifest: a list of images in pieces becomes row groups of whole units.

The same images, however the list is divided, give the same bytes. Where no unit ends at its bytes,
they are those of a list of which no size is known.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import IO, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ntt_ray.run.local_manifest import ManifestFile, written_here
from ntt_ray.run.units import metadata_of, unit_ends
from ntt_ray.sources.schema import Piece, schema_of, without_sizes

ROWS_PER_GROUP = 8192
# what `auto` makes of a number of images: enough units for every actor and for progress to be seen,
# but none so small that starting it counts, and none larger than a shard should be
UNITS_WANTED, LEAST, MOST = 64, 4, 256
_NO_LIMIT = 1 << 60


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
    return written_here(lambda sink: _write(pieces, wanted, unit_bytes, sink))


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
