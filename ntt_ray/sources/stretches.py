"""Few requests for many members: parts that lie together in a file are read by one request.

Cells of Parquet files are read by row groups. It knows no archive: only addresses of
`storage.parts` and `storage.cells`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from threading import Lock
from typing import Protocol

from ntt_ray.storage.cells import Cell, CellValue, cell_of, value_bytes
from ntt_ray.storage.parts import MOST_UNPACKED_BYTES, Part, inflated, part_of

MOST_BYTES = 128 << 20  # of one request
GAP_BYTES = 256 << 10  # read in vain between two members, rather than asking twice


ReadCells = Callable[[Sequence[Cell]], list[CellValue]]


class _Shared(Protocol):
    def take(self, uri: str, read: Callable[[str], bytes]) -> bytes: ...


class Stretches:
    """Reads images by address; the first of a stretch reads it, the others wait and find it there.

    Each member is found there once: who reads one again asks for it alone. A request that fails
    fails for the image that asked; the next image of the stretch asks again.

    Args:
        uris: addresses of all images.
        read: reads one address.
        read_cells: reads cells of one row group; without it each cell is read alone.
    """

    def __init__(
        self,
        uris: Iterable[str],
        read: Callable[[str], bytes],
        read_cells: ReadCells | None = None,
    ) -> None:
        uris = list(uris)
        self._read, self._stretch = read, dict[str, _Shared]()
        if read_cells is not None:
            cells = sorted({cell for uri in uris if (cell := cell_of(uri))}, key=_group)
            for _, rows in groupby(cells, _group):
                shared = _RowGroup(list(rows), read_cells)
                self._stretch |= dict.fromkeys(shared.cells, shared)
        parts = sorted({part for uri in uris if (part := part_of(uri))}, key=_place)
        for _, group in groupby(parts, lambda part: (part.uri, part.kind == "gunzip")):
            for stretch in _divided(list(group)):
                self._stretch |= {part.address(): stretch for part in stretch.parts}

    def __call__(self, uri: str) -> bytes:
        """The bytes of an image; raises what the store raises."""
        if (stretch := self._stretch.get(uri)) is None:
            return self._read(uri)
        data = stretch.take(uri, self._read)
        self._stretch.pop(uri, None)
        return data


class _RowGroup:
    """Some cells of one row group, and what they hold once it is read."""

    def __init__(self, cells: Sequence[Cell], read_cells: ReadCells) -> None:
        self.cells = {cell.address(): cell for cell in cells}
        self._read_cells, self._lock = read_cells, Lock()
        self._values: dict[str, CellValue] = {}

    def take(self, uri: str, read: Callable[[str], bytes]) -> bytes:
        with self._lock:
            if not self._values:
                values = self._read_cells(list(self.cells.values()))
                self._values = dict(zip(self.cells, values, strict=True))
        return value_bytes(self._values[uri], self.cells[uri], read)


class _Stretch:
    """Some parts of one file, and their bytes once they are read, until each has been taken."""

    def __init__(self, parts: list[Part]) -> None:
        self.parts, self._lock, self._data = parts, Lock(), memoryview(b"")
        self._parts = {part.address(): part for part in parts}
        self._left: set[str] | None = None

    def take(self, uri: str, read: Callable[[str], bytes]) -> bytes:
        first, end = self.parts[0], max(part.end for part in self.parts)
        with self._lock:
            if self._left is None:
                kind = "gunzip" if first.kind == "gunzip" else "range"
                self._data = memoryview(read(Part(kind, first.start, end, first.uri).address()))
                self._left = set(self._parts)
            data = self._data
            self._left.discard(uri)
            if not self._left:
                self._data = memoryview(b"")
        part = self._parts[uri]
        own = bytes(data[part.start - first.start : part.end - first.start])
        return inflated(own) if part.kind == "deflate" else own


def _group(cell: Cell) -> tuple[str, str, int]:
    return cell.uri, cell.column, cell.group


def _place(part: Part) -> tuple[str, bool, int, int, str]:
    return part.uri, part.kind == "gunzip", part.start, part.end, part.kind


def _divided(parts: list[Part]) -> Iterable[_Stretch]:
    """Parts of one file, in order, as stretches; a gzip file is one, it is read whole anyway."""
    some: list[Part] = []
    for part in parts:
        if some and not _together(some, part):
            yield _Stretch(some)
            some = []
        some.append(part)
    yield _Stretch(some)


def _together(some: list[Part], part: Part) -> bool:
    if part.kind == "gunzip":
        return part.end - some[0].start <= MOST_UNPACKED_BYTES
    near = part.start - some[-1].end <= GAP_BYTES
    return near and part.end - some[0].start <= MOST_BYTES
