"""Listed names in the order of their code points, in bounded memory.

Names are sorted so many at a time; what is more than that waits on the disk (`spool`), and is
merged from there. Names on a disk need not be Unicode, so they are bytes here, in the form that
`encoded` gives; such bytes have the order of the texts.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator, Mapping, Sequence

import pyarrow as pa

from ntt_ray.sources.spool import Spool

SORTED_ROWS = 1 << 20  # at once
PIECE_ROWS = 1 << 15  # of what waits on the disk, and of what is given
NAMES = pa.schema([("name", pa.binary()), ("size", pa.int64())])


def in_name_order(pages: Iterable[Mapping[str, int | None]]) -> Iterator[pa.Table]:
    """Names and sizes of all pages as tables of `NAMES`, sorted by name; no name may be twice.

    Args:
        pages: sizes in bytes by name, in no order; they are read to their end before anything is
            given.
    """
    spool, runs, waiting, count = Spool(), list[_Run](), list[pa.Table](), 0
    names, sizes = list[str](), list[int | None]()
    for page in pages:
        names += page
        sizes += page.values()
        if len(names) >= PIECE_ROWS:
            waiting.append(_table(names, sizes))
            names, sizes, count = [], [], count + len(names)
        if count >= SORTED_ROWS:
            runs.append(_Run(_sorted(waiting), spool))
            waiting, count = [], 0
    last = _sorted([*waiting, _table(names, sizes)])
    if not runs:
        yield from _pieces(last)
        return
    runs.append(_Run(last, spool))
    yield from _merged(runs)


def encoded(name: str) -> bytes:
    """A name as bytes that sort as it does, whatever stands in it."""
    return name.encode("utf-8", "surrogatepass")


def decoded(name: bytes) -> str:
    """The inverse of `encoded`."""
    return name.decode("utf-8", "surrogatepass")


def _table(names: Sequence[str], sizes: Sequence[int | None]) -> pa.Table:
    try:
        column = pa.array(names, pa.string()).cast(pa.binary())
    except UnicodeEncodeError:
        column = pa.array(map(encoded, names), pa.binary())
    return pa.table([column, pa.array(sizes, pa.int64())], schema=NAMES)


def _sorted(tables: Sequence[pa.Table]) -> pa.Table:
    return pa.concat_tables(tables).sort_by("name").combine_chunks()


def _pieces(table: pa.Table) -> Iterator[pa.Table]:
    """The table in pieces; at least one, which may be empty."""
    for start in range(0, max(1, len(table)), PIECE_ROWS):
        yield table.slice(start, PIECE_ROWS)


class _Run:
    """A sorted run on the disk, of which the next piece is in memory."""

    def __init__(self, table: pa.Table, spool: Spool) -> None:
        self._spool, start = spool, len(spool)
        for piece in _pieces(table):
            spool.add(piece)
        self._left = iter(range(start, len(spool)))
        self.piece = NAMES.empty_table()
        self.refill()

    def refill(self) -> None:
        """Read the next piece once the last one is used up; it stays empty at the end."""
        if not len(self.piece) and (position := next(self._left, None)) is not None:
            self.piece = self._spool.read(position)

    @property
    def last(self) -> bytes:
        name: bytes = self.piece["name"][-1].as_py()
        return name

    def take(self, end: bytes) -> pa.Table:
        """The rows of the piece up to a name, which are gone from it then."""
        names = self.piece["name"]
        count = bisect.bisect_right(range(len(names)), end, key=lambda row: names[row].as_py())
        taken, self.piece = self.piece.slice(0, count), self.piece.slice(count)
        self.refill()
        return taken


def _merged(runs: Sequence[_Run]) -> Iterator[pa.Table]:
    while left := [run for run in runs if len(run.piece)]:
        # nothing on the disk is before the least of these
        end = min(run.last for run in left)
        yield from _pieces(_sorted([run.take(end) for run in left]))
