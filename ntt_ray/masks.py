"""Masks and their run-length encoding (RLE): the only user of `pycocotools.mask`.

Owns the conversion between three forms:

* a mask: bool array ``(height, width)``;
* an RLE: COCO's compressed form ``{"size": [height, width], "counts": str}``, column-major;
* a COCO ``segmentation``: polygons, uncompressed RLE or compressed RLE.

It does not know images, classes or files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

BoolMask = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
MAX_PIXELS = 2**29  # in a mask; pycocotools counts in 32 bits
MAX_OUTLINE = 10_000_000  # pixels, of all polygons of a mask; see `segmentation_to_rle`
_MERGED_AT_ONCE = 16
MAX_NUMBER = 2**63
MAX_DIGITS = 6  # for a number in a compressed RLE: 30 bits, more than any image has pixels


class Rle(TypedDict):
    """COCO compressed RLE: ``size`` is [height, width], ``counts`` an ASCII string."""

    size: list[int]
    counts: str


def encode_mask(mask_hw: BoolMask) -> Rle:
    """Encode one bool mask ``(height, width)``; an empty mask is valid and has area 0."""
    return encode_masks(mask_hw[None])[0]


def encode_masks(masks_nhw: BoolMask) -> list[Rle]:
    """Encode bool masks ``(n, height, width)``."""
    # pycocotools wants uint8 in Fortran order with the masks along the last axis; viewing
    # (n, h, w) as its transpose (w, h, n) and swapping h and w costs one copy.
    stacked = np.asfortranarray(np.moveaxis(masks_nhw, 0, -1).astype(np.uint8, copy=False))
    return [_from_coco(rle) for rle in coco_mask.encode(stacked)]


def encode_part(part: BoolMask, x: int, y: int, height: int, width: int) -> Rle:
    """Encode a mask of which only a part can be filled.

    Args:
        part: bool ``(rows, columns)``, the pixels of the part.
        x: column of the part's left edge in the mask.
        y: row of the part's upper edge in the mask.
        height: height of the whole mask in pixels.
        width: width of the whole mask in pixels.
    """
    return runs_to_rle(part_changes(part, x, y, height), height, width)


def part_changes(part: BoolMask, x: int, y: int, height: int) -> Ints:
    """Where the pixels of a mask change, column by column; see `encode_part` and `runs_to_rle`.

    With the part transposed, `x` and `y` exchanged and the width for the height: row by row.
    """
    rows, columns = part.shape
    framed = np.zeros((columns, rows + 2), dtype=np.int8)
    framed[:, 1:-1] = part.T
    # every run of a column as the positions of its first pixel and of the one behind its last
    column, edge = np.nonzero(np.diff(framed, axis=1))
    changes = (x + column) * height + y + edge
    # where a run reaches the lower edge and the next column starts filled, they are one run
    joined = np.flatnonzero(changes[1:] == changes[:-1])
    return np.delete(changes, np.concatenate((joined, joined + 1)))


def runs_to_rle(changes: npt.NDArray[np.integer[Any]], height: int, width: int) -> Rle:
    """Encode a mask by the positions where its pixels change.

    Args:
        changes: rising column-major positions ``x * height + y`` of pixels that differ from the
            one before; the pixel before the first counts as outside. The last may be the position
            behind the last pixel.
        height: height of the mask in pixels.
        width: width of the mask in pixels.
    """
    if len(changes) and changes[-1] == height * width:
        changes = changes[:-1]
    edges = np.concatenate(([0], changes, [height * width]))
    runs = {"size": [height, width], "counts": np.diff(edges).tolist()}
    return _from_coco(coco_mask.frPyObjects(runs, height, width))


def decode_rle(rle: Rle) -> BoolMask:
    """Decode to a bool array ``(height, width)``."""
    return np.asarray(coco_mask.decode(_to_coco(rle))).astype(np.bool_)


def rasterise(polygons: Sequence[Sequence[float]], height: int, width: int) -> Rle:
    """The mask that COCO's tools see in polygons ``x, y, x, y, ...``, which are not checked."""
    rles = coco_mask.frPyObjects(list(polygons), height, width)
    while len(rles) > _MERGED_AT_ONCE:  # one by one, each would be merged with all before it
        groups = range(0, len(rles), _MERGED_AT_ONCE)
        rles = [coco_mask.merge(rles[start : start + _MERGED_AT_ONCE]) for start in groups]
    return _from_coco(coco_mask.merge(rles))


def mask_iou(rle: Rle, other: Rle) -> float:
    """Intersection over union of two masks of the same size."""
    if rle["counts"] == other["counts"]:
        return 1.0
    return float(mask_ious([rle], [other])[0, 0])


def rle_area(rle: Rle) -> int:
    """Number of pixels of the mask."""
    return int(coco_mask.area(_to_coco(rle)))


def rle_bbox_xywh(rle: Rle) -> list[float]:
    """Tight box ``[x, y, width, height]`` in pixels; width and height count the pixels covered."""
    return [float(value) for value in coco_mask.toBbox(_to_coco(rle))]


def overlap_shares(
    rles: Sequence[Rle], others: Sequence[Rle] | None = None
) -> npt.NDArray[np.float64]:
    """Share of each mask that lies inside each other one.

    Args:
        rles: n masks of the same image, none of them empty.
        others: m masks of that image; None compares `rles` with themselves.

    Returns:
        ``(n, m)`` float64, element ``[i, j]`` = ``|i and j| / |i|``. Exact: pycocotools'
        "crowd" IoU divides the intersection by the area of the first mask alone.
    """
    return _ious(rles, rles if others is None else others, crowd=True)


def mask_ious(first: Sequence[Rle], second: Sequence[Rle]) -> npt.NDArray[np.float64]:
    """Intersection over union of every pair, ``(len(first), len(second))`` float64."""
    return _ious(first, second, crowd=False)


def _ious(first: Sequence[Rle], second: Sequence[Rle], *, crowd: bool) -> npt.NDArray[np.float64]:
    if not first or not second:
        return np.zeros((len(first), len(second)))
    left, right = [_to_coco(rle) for rle in first], [_to_coco(rle) for rle in second]
    return np.asarray(coco_mask.iou(left, right, [int(crowd)] * len(right)), dtype=np.float64)


def segmentation_to_rle(segmentation: Any, height: int, width: int) -> Rle:
    """Convert a COCO ``segmentation`` to a compressed RLE, as ``COCO.annToRLE`` does.

    Polygons of one annotation are rasterised by pycocotools and merged. It walks along their
    outline, which takes about 50 bytes for each of its pixels, and counts in 32 bits: 0.6 MB of
    points that lie across a large image would be 37 GB, or end the process. So outlines of more
    than `MAX_OUTLINE` pixels in all are refused. That is 100 times around the largest image and
    takes 0.5 GB and some seconds; a polygon of 100,000 points has it if they are 100 pixels apart.

    Args:
        segmentation: list of polygons ``[x1, y1, x2, y2, ...]``, or an RLE with ``counts`` as a
            list (uncompressed) or a string (compressed).
        height: height of the image in pixels.
        width: width of the image in pixels.

    Raises:
        ValueError: the segmentation has no known form, a polygon has fewer than three points or
            a value that is not finite, the outline is too long, or the RLE is of another size or
            does not add up.
    """
    if height * width > MAX_PIXELS:
        raise ValueError(f"has an image of {height} x {width}, more pixels than {MAX_PIXELS}")
    if isinstance(segmentation, dict):
        return _rle_to_rle(segmentation, height, width)
    if isinstance(segmentation, list) and segmentation:
        polygons = [_checked_polygon(polygon, height, width) for polygon in segmentation]
        _check_outline(polygons)
        return rasterise(polygons, height, width)
    raise ValueError("has no mask (a list of polygons or an RLE is needed)")


def _rle_to_rle(segmentation: dict[str, Any], height: int, width: int) -> Rle:
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if not isinstance(size, list) or size != [height, width]:
        raise ValueError(f"has an RLE of size {size}, but its image is {[height, width]}")
    if isinstance(counts, list):
        if not all(is_finite_number(c) and c >= 0 and c == int(c) for c in counts):
            raise ValueError("has an RLE whose counts are not whole numbers of 0 or more")
        if sum(counts) != height * width:
            raise ValueError(f"has an RLE of {sum(counts)} pixels, not {height} x {width}")
        whole = {"size": [height, width], "counts": [int(c) for c in counts]}
        return _from_coco(coco_mask.frPyObjects(whole, height, width))
    if not isinstance(counts, str) or not counts.isascii():
        raise ValueError("has an RLE whose counts are neither a list nor an ASCII string")
    problem = measure_rles([counts], [height], [width]).problems.get(0)
    if problem is not None:
        raise ValueError(f"has an RLE {problem}")
    return {"size": [height, width], "counts": counts}


@dataclass(frozen=True)
class RleFigures:
    """What n compressed RLEs say, found without decoding them.

    Attributes:
        areas: ``(n,)`` int64, number of pixels of each mask.
        boxes_xywh: ``(n, 4)`` int64, the tight boxes in pixels; zero where a mask is empty.
        problems: for the position of each damaged RLE what is wrong with it; its area and box mean
            nothing.
    """

    areas: Ints
    boxes_xywh: Ints
    problems: Mapping[int, str]


def measure_rles(
    counts: Sequence[str], heights: Sequence[int], widths: Sequence[int]
) -> RleFigures:
    """Check compressed RLEs of any origin and measure them, all at once.

    Needed because pycocotools reads a damaged string past its end instead of refusing it.

    Args:
        counts: ``counts`` of n RLEs.
        heights: height of each mask in pixels.
        widths: width of each mask in pixels.
    """
    runs = _Runs.parse(counts)
    height = np.asarray(heights, dtype=np.int64)
    pixels = height * np.asarray(widths, dtype=np.int64)
    problems = dict(runs.problems)
    ends = runs.per_mask_cumsum(runs.lengths)
    totals = _sums(runs.mask, runs.lengths, len(counts))
    for index in np.unique(runs.mask[runs.lengths < 0]):
        problems.setdefault(int(index), "with a negative run")
    for index in np.flatnonzero(totals != pixels).tolist():
        text = f"of {totals[index]} pixels, not {heights[index]} x {widths[index]}"
        problems.setdefault(index, text)
    filled = (runs.position % 2 == 1) & (runs.lengths > 0)
    filled &= ~np.isin(runs.mask, list(problems))
    mask, length, end = runs.mask[filled], runs.lengths[filled], ends[filled]
    boxes = _boxes(mask, end - length, end - 1, height)
    return RleFigures(_sums(mask, length, len(counts)), boxes, problems)


def decode_in_boxes(
    counts: Sequence[str], heights: Sequence[int], widths: Sequence[int]
) -> Iterator[tuple[BoolMask, int, int]]:
    """Decode compressed RLEs, each only within its tight box; arguments as for `measure_rles`.

    Yields:
        The pixels ``(h, w)`` of the box, and its x and y.

    Raises:
        ValueError: an RLE is damaged or empty; the message says which of both.
    """
    figures, runs = measure_rles(counts, heights, widths), _Runs.parse(counts)
    firsts = np.searchsorted(runs.mask, np.arange(len(counts) + 1))
    for number, height in enumerate(heights):
        x, y, box_width, box_height = figures.boxes_xywh[number].tolist()
        if number in figures.problems or not box_width:
            raise ValueError(f"an RLE {figures.problems.get(number, 'without a pixel')}")
        lengths = runs.lengths[firsts[number] : firsts[number + 1]]
        ends = np.clip(np.cumsum(lengths) - x * height, 0, box_width * height)
        inside = (np.arange(len(ends)) % 2).astype(np.bool_)
        columns = np.repeat(inside, np.diff(ends, prepend=0)).reshape(box_width, height)
        yield columns[:, y : y + box_height].T, x, y


def placed_rles(rles: Sequence[Rle], x: int, y: int, height: int, width: int) -> list[Rle]:
    """Masks of a rectangle of an image as masks of the image; see `encode_part`.

    Raises:
        ValueError: a mask is empty.
    """
    counts = [rle["counts"] for rle in rles]
    own_height, own_width = zip(*(rle["size"] for rle in rles)) if rles else ((), ())
    return [
        encode_part(pixels, x + left, y + top, height, width)
        for pixels, left, top in decode_in_boxes(counts, own_height, own_width)
    ]


@dataclass(frozen=True)
class _Runs:
    """The runs of many RLEs one behind the other; even positions are outside, odd ones inside."""

    mask: Ints
    position: Ints
    lengths: Ints
    problems: Mapping[int, str]

    @classmethod
    def parse(cls, counts: Sequence[str]) -> _Runs:
        """Read COCO's compressed strings (maskApi.c, rleFrString).

        A number has 5 bits a character, lowest first, with a flag for more to come; from the
        fourth on, numbers are differences from the number two before.
        """
        problems: dict[int, str] = {}
        sound = [_checked_text(text, i, problems) for i, text in enumerate(counts)]
        codes = np.frombuffer("".join(sound).encode("ascii"), dtype=np.uint8).astype(np.int64) - 48
        owner = np.repeat(np.arange(len(counts)), [len(text) for text in sound])
        last = np.flatnonzero(codes & 0x20 == 0)
        size = np.diff(last, prepend=-1)
        digit = np.arange(len(codes)) - np.repeat(last - size + 1, size)
        bits = (codes & 0x1F) << (5 * digit)
        mask = owner[last]
        values = np.add.reduceat(bits, last - size + 1) if len(last) else bits
        values -= ((codes[last] & 0x10) != 0) * (1 << (5 * size))
        position = np.arange(len(mask)) - np.searchsorted(mask, np.arange(len(counts)))[mask]
        plain = cls(mask, position, values, problems)
        odd = plain.per_mask_cumsum(np.where(position % 2 == 1, values, 0))
        even = plain.per_mask_cumsum(np.where((position % 2 == 0) & (position > 0), values, 0))
        lengths = np.where(position % 2 == 1, odd, np.where(position > 0, even, values))
        return replace(plain, lengths=lengths)

    def per_mask_cumsum(self, values: Ints) -> Ints:
        """Running sums that begin anew with every mask."""
        sums = np.cumsum(values)
        first = np.arange(len(values)) - self.position
        return np.asarray(sums - (sums - values)[first])


_NUMBER = f"[P-o]{{0,{MAX_DIGITS - 1}}}[0-O]"
_COUNTS = re.compile(f"(?:{_NUMBER})+")


def _checked_text(counts: str, index: int, problems: dict[int, str]) -> str:
    """The string if it is made of whole numbers; else nothing, and the reason is noted."""
    if _COUNTS.fullmatch(counts):
        return counts
    odd = re.search("[^0-o]", counts)
    if odd:
        problems[index] = f"with the invalid character {odd[0]!r}"
    elif not counts:
        problems[index] = "without counts"
    elif counts[-1] >= "P":
        problems[index] = "whose counts end in the middle of a number"
    else:
        problems[index] = f"with a number of more than {MAX_DIGITS} characters"
    return ""


def _boxes(mask: Ints, first: Ints, last: Ints, height: Ints) -> Ints:
    """Tight boxes ``(n, 4)`` of runs from `first` to `last`, column-major positions, inclusive."""
    rows = height[mask]
    left, right = first // rows, last // rows
    whole = right > left  # such a run touches the lower and the upper edge
    top, bottom = np.where(whole, 0, first % rows), np.where(whole, rows - 1, last % rows)
    low = np.full((len(height), 2), np.iinfo(np.int64).max)
    high = np.full((len(height), 2), -1)
    for axis, (start, end) in enumerate(((left, right), (top, bottom))):
        np.minimum.at(low[:, axis], mask, start)
        np.maximum.at(high[:, axis], mask, end)
    boxes = np.concatenate((low, high - low + 1), axis=1)
    boxes[high[:, 0] < 0] = 0
    return boxes


def _sums(group: Ints, values: Ints, groups: int) -> Ints:
    """Sum of the values of each group, exact below 2^53."""
    return np.bincount(group, weights=values, minlength=groups).astype(np.int64)


def _checked_polygon(polygon: Any, height: int, width: int) -> list[float]:
    if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
        raise ValueError("has a polygon that is not a list of at least three x, y pairs")
    if not all(is_finite_number(value) for value in polygon):
        raise ValueError("has a polygon with a value that is not a finite number")
    for values, side in ((polygon[::2], width), (polygon[1::2], height)):
        if min(values) < -side or max(values) > 2 * side:  # its outline is walked pixel by pixel
            raise ValueError(f"has a polygon that lies far outside its image of {width} x {height}")
    return [float(value) for value in polygon]


def _check_outline(polygons: Sequence[Sequence[float]]) -> None:
    """Refuse polygons along which pycocotools would walk too long; see `segmentation_to_rle`."""
    length = 0.0
    for polygon in polygons:
        points = np.reshape(polygon, (-1, 2))
        steps = np.abs(points - np.roll(points, 1, axis=0)).max(axis=1)
        length += float(np.sum(steps)) + len(steps)
    if length > MAX_OUTLINE:
        count = sum(len(polygon) // 2 for polygon in polygons)
        raise ValueError(
            f"has polygons of {count:,} points whose outline is {length:,.0f} pixels long, more "
            f"than {MAX_OUTLINE:,}; simplify them, or give the mask as an RLE"
        )


def is_finite_number(value: Any) -> bool:
    """Whether parsed data is a number that can be reckoned with: no bool, NaN or giant."""
    return type(value) in (int, float) and -MAX_NUMBER <= value <= MAX_NUMBER


def _to_coco(rle: Rle) -> dict[str, Any]:
    return {"size": rle["size"], "counts": rle["counts"].encode("ascii")}


def _from_coco(rle: Any) -> Rle:
    return {"size": [int(v) for v in rle["size"]], "counts": rle["counts"].decode("ascii")}
