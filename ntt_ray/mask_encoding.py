"""Many masks at once from the positions where their pixels change to COCO's compressed RLE.

What `masks.runs_to_rle`, `rle_area` and `rle_bbox_xywh` give one by one, in a fraction of the time,
most of which leaves the interpreter to other threads. It does not know images, classes or files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from ntt_ray.masks import Ints, Rle

# half as much to move as int64, and enough for `masks.MAX_PIXELS`
_Short = npt.NDArray[np.int32]


@dataclass(frozen=True)
class EncodedMasks:
    """Masks of one image, encoded and measured.

    Attributes:
        rles: N masks.
        areas: ``(N,)`` int64, number of pixels of each mask.
        boxes_xywh: ``(N, 4)`` int64, the tight boxes in pixels; zero where a mask is empty.
    """

    rles: tuple[Rle, ...]
    areas: Ints
    boxes_xywh: Ints


def encode_changes(changes: Sequence[Ints], height: int, width: int) -> EncodedMasks:
    """Encode masks by the positions where their pixels change.

    Args:
        changes: of N masks, each as for `masks.runs_to_rle`.
        height: height of the masks in pixels.
        width: width of the masks in pixels.
    """
    areas, boxes = np.zeros(len(changes), np.int64), np.zeros((len(changes), 4), np.int64)
    if not changes:
        return EncodedMasks((), areas, boxes)
    last = np.array([height * width])
    inner = [own[:-1] if len(own) and own[-1] == last else own for own in changes]
    ends = _joined([part for own in inner for part in (own, last)])
    sizes = np.array([len(own) + 1 for own in inner])
    rles = tuple(
        Rle(size=[height, width], counts=text) for text in _compressed(ends, sizes.cumsum() - sizes)
    )
    filled = np.flatnonzero(sizes > 1)
    if len(filled):
        even = [part for own in inner for part in (own, last[: len(own) % 2])]
        pairs = _joined(even).reshape(-1, 2)
        runs = sizes[filled] // 2
        measured = _measured(pairs[:, 0], pairs[:, 1], runs.cumsum() - runs, height)
        areas[filled], boxes[filled] = measured
    return EncodedMasks(rles, areas, boxes)


def _joined(parts: Sequence[Ints]) -> _Short:
    return np.concatenate(parts, dtype=np.int32, casting="same_kind")


def _measured(starts: _Short, stops: _Short, firsts: Ints, height: int) -> tuple[Ints, Ints]:
    """Areas ``(n,)`` and boxes ``(n, 4)`` of masks with a pixel.

    Args:
        starts: first pixels of the runs of all masks, one mask behind the other, column-major.
        stops: the pixels behind their last ones.
        firsts: ``(n,)``, position of the first run of each mask.
        height: height of the masks in pixels.
    """
    areas = np.add.reduceat(stops - starts, firsts, dtype=np.int64)
    left, right = starts // height, (stops - 1) // height
    top, bottom = starts - left * height, stops - 1 - right * height
    whole = np.flatnonzero(right > left)  # such a run touches the lower and the upper edge
    top[whole], bottom[whole] = 0, height - 1
    x1, y1 = left[firsts], np.minimum.reduceat(top, firsts)
    x2, y2 = right[[*firsts[1:] - 1, -1]], np.maximum.reduceat(bottom, firsts)
    return areas, np.stack((x1, y1, x2 - x1 + 1, y2 - y1 + 1), axis=1).astype(np.int64)


def _compressed(ends: _Short, firsts: Ints) -> list[str]:
    """COCO's strings (maskApi.c, rleToString).

    From the fourth run of a mask on, the difference to the run two before is written. A number has
    5 bits a character, lowest first, with a flag for more to come; the highest is its sign.

    Args:
        ends: ends of all runs, empty and filled in turn, one mask behind the other.
        firsts: ``(N,)``, position of the first run of each mask.
    """
    lengths = ends.copy()
    lengths[1:] -= ends[:-1]
    lengths[firsts] = ends[firsts]
    values = lengths.copy()
    values[2:] -= lengths[:-2]
    plain = (firsts[:, None] + np.arange(3)).ravel()
    plain = plain[plain < np.repeat([*firsts[1:], len(ends)], 3)]
    values[plain] = lengths[plain]

    magnitude = values ^ (values >> 31)
    digits = np.ones(len(values), np.int8)
    for bits in range(4, 31, 5):
        is_longer = magnitude >> bits > 0
        if not is_longer.any():
            break
        digits += is_longer
    after = digits.cumsum(dtype=np.int64)
    text, at = np.empty(after[-1], np.uint8), after - digits
    borders = [*at[firsts].tolist(), len(text)]
    while len(at):
        has_more = digits > 1
        text[at] = (values & 0x1F).astype(np.uint8) + (48 + has_more * np.uint8(0x20))
        longer = np.flatnonzero(has_more)
        at, values, digits = at[longer] + 1, values[longer] >> 5, digits[longer] - 1
    whole = text.tobytes().decode("ascii")
    return [whole[start:end] for start, end in pairwise(borders)]
