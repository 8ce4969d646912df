"""Final masks without their small parts, an option beyond the paper.

SAM2's masks have stray parts on neighbours, which make their boxes too large. Of each mask that
became a detection the connected parts stay that are large enough beside its largest one. Two pixels
are connected where they touch by a side or a corner. All masks of an image are worked on at once,
as runs of pixels in their columns: a mask of an image has some hundred of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ntt_ray.mask_encoding import EncodedMasks, encode_changes
from ntt_ray.masks import Ints, decode_rle, part_changes
from ntt_ray.method.masks_at_size import EncodedMask
from ntt_ray.settings import ComponentSettings


def without_small_parts(
    masks: Sequence[EncodedMask], size_hw: tuple[int, int], settings: ComponentSettings
) -> EncodedMasks:
    """The masks of an image, each with its large parts only, encoded and measured.

    Args:
        masks: N masks at the image's size.
        size_hw: height and width of the image.
        settings: how large a part must be to stay.
    """
    height, width = size_hw
    changes = [
        mask if isinstance(mask, np.ndarray) else part_changes(decode_rle(mask), 0, 0, height)
        for mask in masks
    ]
    return encode_changes(large_parts(changes, height, width, settings.min_share), height, width)


def large_parts(changes: Sequence[Ints], height: int, width: int, min_share: float) -> list[Ints]:
    """Masks without the parts that have less than a share of the pixels of their largest part.

    Args:
        changes: the column-major positions where the pixels of each of N masks change, in the
            form that `masks.runs_to_rle` takes.
        height: height of the masks in pixels.
        width: width of the masks in pixels.
        min_share: 0 to 1; at 1 the largest part stays, and others of just its size.

    Returns:
        The positions where each mask changes now, in the same form.
    """
    if not changes:
        return []
    runs = _runs_of(changes, height, width)
    part = _parts(len(runs.top), *_touching(runs, height, width))
    pixels = np.bincount(part, weights=runs.end - runs.top, minlength=len(part))
    most = np.zeros(len(changes))
    np.maximum.at(most, runs.mask, pixels[part])
    kept = pixels[part] >= min_share * most[runs.mask]
    if kept.all():
        return list(changes)
    return _changes_of(_Runs(*(field[kept] for field in runs)), len(changes), height)


class _Runs(NamedTuple):
    """Runs of pixels in columns, by rising mask, column and row; each field is ``(R,)`` int64.

    Attributes:
        mask: which mask a run is of.
        x: its column.
        top: its first row.
        end: the row behind its last.
    """

    mask: Ints
    x: Ints
    top: Ints
    end: Ints


def _runs_of(changes: Sequence[Ints], height: int, width: int) -> _Runs:
    last = np.array([height * width])  # a mask that reaches the last pixel need not say so
    pairs = [np.append(own, last[: len(own) % 2]).reshape(-1, 2) for own in changes]
    start, stop = np.concatenate(pairs).astype(np.int64).T
    mask = np.repeat(np.arange(len(pairs)), [len(own) for own in pairs])
    # a run that reaches the lower edge goes on in the next column
    first = start // height
    columns = (stop - 1) // height - first + 1
    mask, first, start, stop = (np.repeat(a, columns) for a in (mask, first, start, stop))
    x = first + np.arange(len(first)) - np.repeat(columns.cumsum() - columns, columns)
    top = np.maximum(start - x * height, 0)
    return _Runs(mask, x, top, np.minimum(stop - x * height, height))


def _touching(runs: _Runs, height: int, width: int) -> tuple[Ints, Ints]:
    """Positions of each two runs of neighbouring columns of a mask that touch."""
    column = runs.mask * (width + 1) + runs.x  # between two masks lies a column without runs
    step = height + 2
    tops, ends = column * step + runs.top, column * step + runs.end
    # runs of the next column whose end is not above this one's top, nor their top below its end
    low = np.searchsorted(ends, tops + step, side="left")
    high = np.searchsorted(tops, ends + step, side="right")
    count = np.maximum(high - low, 0)
    left = np.repeat(np.arange(len(count)), count)
    within = np.arange(len(left)) - np.repeat(count.cumsum() - count, count)
    return left, np.repeat(low, count) + within


def _parts(count: int, left: Ints, right: Ints) -> Ints:
    """The part of each of so many runs: the position of the first run that is connected to it."""
    part = np.arange(count)
    while True:
        low, high = np.minimum(part[left], part[right]), np.maximum(part[left], part[right])
        if (low == high).all():
            return part
        np.minimum.at(part, high, low)
        while not np.array_equal(further := part[part], part):
            part = further


def _changes_of(runs: _Runs, masks: int, height: int) -> list[Ints]:
    changes = np.stack((runs.x * height + runs.top, runs.x * height + runs.end), axis=1)
    same_mask = runs.mask[1:] == runs.mask[:-1]
    joined = np.flatnonzero(same_mask & (changes[1:, 0] == changes[:-1, 1]))
    flat = np.delete(changes.ravel(), np.concatenate((2 * joined + 1, 2 * joined + 2)))
    count = 2 * np.bincount(runs.mask, minlength=masks)
    count -= 2 * np.bincount(runs.mask[joined], minlength=masks)
    return np.split(flat, count.cumsum()[:-1])
