"""Where the units of a manifest lie in it: so many images each, or fewer where they are large.

The metadata of the file say how many images a unit has (``images_per_unit``). Where a unit ended
earlier, because of its bytes, that text says it too, so that versions which know nothing of it
refuse the file, and ``unit_sizes`` has the images of each unit: numbers of 32 bits, lowest byte
first, compressed by zlib, in base64. Files without metadata have a row group for each unit.
"""

from __future__ import annotations

import base64
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ntt_ray.sources.schema import schema_of

UNIT_KEY = b"images_per_unit"
SIZES_KEY = b"unit_sizes"
UNIT_KEYS = frozenset((UNIT_KEY, SIZES_KEY))
_BYTES = b" images or "  # between the numbers of images and bytes that a unit has at most
MOST_BYTES = 1 << 40  # of one image, as far as dividing goes

Numbers = npt.NDArray[np.int64]


def unit_ends(sizes: Numbers, per_unit: int, most_bytes: int) -> list[int]:
    """How many images there are up to the end of each unit; the last one may not be whole.

    A unit ends after `per_unit` images, or before the image with which it would have more than
    `most_bytes`; it has one image at least.

    >>> unit_ends(np.array([5, 5, 5, 1, 90, 1]), 3, 12)
    [2, 4, 5, 6]
    """
    total = np.concatenate([[0], np.cumsum(np.clip(sizes, 0, MOST_BYTES))])
    ends, start = list[int](), 0
    while start < len(sizes):
        fit = int(np.searchsorted(total, total[start] + most_bytes, side="right")) - 1
        start = min(start + per_unit, max(fit, start + 1), len(sizes))
        ends.append(start)
    return ends


def metadata_of(sizes: list[int], per_unit: int, most_bytes: int) -> dict[bytes, bytes]:
    """What the metadata of a manifest say of units of these sizes."""
    if all(size == per_unit for size in sizes[:-1]) and max(sizes, default=0) <= per_unit:
        return {UNIT_KEY: str(per_unit).encode()}
    packed = zlib.compress(np.array(sizes, "<u4").tobytes(), 9)
    said = str(per_unit).encode() + _BYTES + str(most_bytes).encode()
    return {UNIT_KEY: said, SIZES_KEY: base64.b64encode(packed)}


@dataclass(frozen=True, eq=False)
class Units:
    """Where the units of a manifest lie in it.

    Attributes:
        footer: the footer of the Parquet file.
        per_unit: how many images each unit but the last has, or has at most; None where a row group
            is a unit.
        ends: how many images there are up to the end of each unit, with a 0 before.
        groups: how many rows there are up to the end of each row group, with a 0 before.
    """

    footer: Any
    per_unit: int | None
    ends: Numbers
    groups: Numbers

    @classmethod
    def of(cls, footer: Any) -> Units:
        """Read what the footer says.

        Raises:
            ValueError: it contradicts itself.
        """
        rows = [footer.row_group(i).num_rows for i in range(footer.num_row_groups)]
        groups = np.cumsum([0, *rows])
        metadata = footer.metadata or {}
        if (said := metadata.get(UNIT_KEY)) is None:
            return cls(footer, None, groups, groups)
        per_unit, _, most_bytes = said.partition(_BYTES)
        ends = _ends(int(per_unit), metadata[SIZES_KEY] if most_bytes else None, footer.num_rows)
        if not np.isin(groups, ends).all():
            raise ValueError(f"its row groups do not hold units of {said.decode()}")
        return cls(footer, int(per_unit), ends, groups)

    def sizes(self) -> list[int]:
        """Images of each unit, in order; the position is the shard id."""
        sizes: list[int] = np.diff(self.ends).tolist()
        return sizes

    def place(self, unit: int) -> tuple[int, int, int]:
        """The row group that holds a unit, its first row there, and the row after its last one."""
        start, end = self.ends[unit], self.ends[unit + 1]
        group = int(np.searchsorted(self.groups, start, side="right")) - 1
        first = int(start - self.groups[group])
        return group, first, first + int(end - start)

    def read(self, file: pq.ParquetFile, unit: int) -> pa.Table:
        """The images of a unit, with all columns.

        Raises:
            ValueError, OSError, pa.ArrowException: its part of the file is damaged.
        """
        group, first, end = self.place(unit)
        table = file.read_row_group(group).slice(first, end - first)
        table = table.cast(schema_of(table.schema))
        table.validate(full=True)
        return table


def _ends(per_unit: int, packed: bytes | None, rows: int) -> Numbers:
    if per_unit < 1:
        raise ValueError(f"it has units of {per_unit} images")
    if packed is None:
        return np.array([*range(0, rows, per_unit), rows], np.int64)
    try:
        sizes = np.frombuffer(zlib.decompress(base64.b64decode(packed)), "<u4").astype(np.int64)
    except (zlib.error, ValueError) as error:
        raise ValueError(f"the sizes of its units cannot be read ({error})") from None
    if sizes.sum() != rows or not ((sizes >= 1) & (sizes <= per_unit)).all():
        raise ValueError("the sizes of its units are not those of its images")
    return np.concatenate([[0], np.cumsum(sizes)])
