"""Dividing a merge into fragments: which rows of which shards are rendered as one piece.

Fragments follow the order of the shards and are of about the same size, so that a process that
renders one needs little memory; each knows its first annotation id. It does not know formats.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from ntt_ray.merge.instances import ShardIndex
from ntt_ray.merge.thresholds import IntArray

FRAGMENT_BYTES = 8 << 20
ROW_BYTES, INSTANCE_BYTES = 60, 190  # of JSON around a file name, around the counts of a mask
EMBEDDING_BYTES = 4096  # of 1,024 channels
OUTLINE_TIMES = 18  # so much longer than the counts of a mask are its polygons, about
IMAGES_AT_ONCE = 256  # in a fragment, where each has a file of its own


@dataclass(frozen=True)
class Slice:
    """Rows ``start`` to ``stop`` (exclusive) of a shard."""

    shard_id: int
    start: int
    stop: int


@dataclass(frozen=True)
class Fragment:
    """Slices that are rendered as one piece.

    Attributes:
        slices: rows of shards, in order.
        first_id: id of the first item; ids count the items of a file from 1.
        items: how many items the slices have.
        size: about how many bytes of text they become.
    """

    slices: tuple[Slice, ...]
    first_id: int
    items: int
    size: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Measure:
    """How a kind of content is counted and weighed, row by row.

    Attributes:
        items: how many items that get an id each row of a shard has, ``(rows,)``.
        bytes: about how many bytes the text of each row will have, ``(rows,)``.
    """

    items: Callable[[ShardIndex], IntArray]
    bytes: Callable[[ShardIndex], npt.NDArray[np.floating[Any]]]


def _image_bytes(shard: ShardIndex) -> npt.NDArray[np.floating[Any]]:
    return np.full(shard.rows, ROW_BYTES + shard.names_bytes / max(1, shard.rows))


def _instance_bytes(
    shard: ShardIndex, items: IntArray, times: int = 1
) -> npt.NDArray[np.floating[Any]]:
    mean = shard.counts_bytes / max(1, int(shard.found.sum()))
    return np.asarray(items * (INSTANCE_BYTES + times * mean))


IMAGES = Measure(lambda shard: shard.readable, _image_bytes)
KEPT = Measure(lambda shard: shard.kept, lambda shard: _instance_bytes(shard, shard.kept))
FOUND = Measure(lambda shard: shard.found, lambda shard: _instance_bytes(shard, shard.found))
EMBEDDED = Measure(  # of tables: an embedding of a few kilobytes beside each mask
    lambda shard: shard.kept,
    lambda shard: np.asarray(shard.kept * (INSTANCE_BYTES + EMBEDDING_BYTES)),
)
OUTLINES = Measure(
    lambda shard: shard.kept, lambda shard: _instance_bytes(shard, shard.kept, OUTLINE_TIMES)
)
LABELLED = Measure(
    lambda shard: np.ones_like(shard.found),
    lambda shard: _image_bytes(shard) + _instance_bytes(shard, shard.kept),
)
BY_IMAGE = Measure(
    lambda shard: np.ones_like(shard.found),
    lambda shard: np.full(shard.rows, FRAGMENT_BYTES / IMAGES_AT_ONCE),
)


class Layout:
    """The rows of all shards in one line, and how to cut it."""

    def __init__(self, shards: Sequence[ShardIndex]) -> None:
        self._shards = shards
        self._starts = [0, *np.cumsum([shard.rows for shard in shards]).tolist()]
        self._kept: dict[int, int] | None = None

    @property
    def shard_ids(self) -> list[int]:
        """The ids of the shards, in order."""
        return [shard.shard_id for shard in self._shards]

    @property
    def rows(self) -> int:
        """Images of all shards."""
        return int(self._starts[-1])

    def size(self, measures: Iterable[Measure]) -> float:
        """About how many bytes of text all rows become."""
        return float(sum(one.bytes(shard).sum() for one in measures for shard in self._shards))

    def kept_before(self, piece: Slice) -> int:
        """How many instances that are kept lie before the first row of a slice, in all shards."""
        if self._kept is None:
            totals = np.cumsum([0, *(int(shard.kept.sum()) for shard in self._shards)]).tolist()
            ids = [shard.shard_id for shard in self._shards]
            self._kept = dict(zip(ids, totals, strict=False))
            self._by_id = {shard.shard_id: shard for shard in self._shards}
        shard = self._by_id[piece.shard_id]
        return self._kept[piece.shard_id] + int(shard.kept[: piece.start].sum())

    def fragments(self, measure: Measure, start: int, stop: int, first_id: int) -> list[Fragment]:
        """Cut rows ``start`` to ``stop`` (exclusive) into pieces of about `FRAGMENT_BYTES`."""
        done: list[Fragment] = []
        slices: list[Slice] = []
        size, next_id = 0.0, first_id
        for piece, weight, items in self._pieces(measure, start, stop):
            if slices and size + weight > FRAGMENT_BYTES:
                done.append(Fragment(tuple(slices), first_id, next_id - first_id, round(size)))
                slices, size, first_id = [], 0.0, next_id
            slices.append(piece)
            size, next_id = size + weight, next_id + items
        last = Fragment(tuple(slices), first_id, next_id - first_id, round(size))
        return [*done, last] if slices else done

    def _pieces(
        self, measure: Measure, start: int, stop: int
    ) -> Iterator[tuple[Slice, float, int]]:
        """Spans of shards, the large ones divided, with their bytes and items."""
        for shard, first, last in self._spans(start, stop):
            sizes = np.cumsum(measure.bytes(shard)[first:last])
            steps = np.flatnonzero(np.diff((sizes // FRAGMENT_BYTES).astype(np.int64))) + 1
            borders = [0, *steps.tolist(), last - first]
            items = measure.items(shard)[first:last]
            for a, b in pairwise(borders):
                weight = float(sizes[b - 1] - (sizes[a - 1] if a else 0))
                piece = Slice(shard.shard_id, first + a, first + b)
                yield piece, weight, int(items[a:b].sum())

    def _spans(self, start: int, stop: int) -> Iterator[tuple[ShardIndex, int, int]]:
        """The shards that rows ``start`` to ``stop`` lie in, with the rows of each."""
        number = max(0, bisect_right(self._starts, start) - 1)
        while number < len(self._shards) and self._starts[number] < stop:
            offset, shard = self._starts[number], self._shards[number]
            first, last = max(0, start - offset), min(shard.rows, stop - offset)
            if first < last:
                yield shard, first, last
            number += 1
