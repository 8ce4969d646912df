"""Masks and their run-length encoding (RLE): the only user of `pycocotools.mask`.

Owns the conversion between three forms:

* a mask: bool array ``(height, width)``;
* an RLE: COCO's compressed form ``{"size": [height, width], "counts": str}``, column-major;
* a COCO ``segmentation``: polygons, uncompressed RLE or compressed RLE.

It does not know images, classes or files.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

BoolMask = npt.NDArray[np.bool_]


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
        part: bool ``(rows, columns)``.
        x: column of the part's left edge in the mask.
        y: row of its upper edge.
        height: of the whole mask in pixels.
        width: of the whole mask in pixels.
    """
    rows, columns = part.shape
    framed = np.zeros((columns, rows + 2), dtype=np.int8)
    framed[:, 1:-1] = part.T
    # every run of a column as the positions of its first pixel and of the one behind its last
    column, edge = np.nonzero(np.diff(framed, axis=1))
    changes = (x + column) * height + y + edge
    # where a run reaches the lower edge and the next column starts filled, they are one run
    joined = np.flatnonzero(changes[1:] == changes[:-1])
    return runs_to_rle(np.delete(changes, np.concatenate((joined, joined + 1))), height, width)


def runs_to_rle(changes: npt.NDArray[np.integer[Any]], height: int, width: int) -> Rle:
    """Encode a mask by the positions where its pixels change.

    Args:
        changes: rising column-major positions ``x * height + y`` of pixels that differ from the
            one before; the pixel before the first counts as outside. The last may be the position
            behind the last pixel.
        height: of the mask in pixels.
        width: of the mask in pixels.
    """
    if len(changes) and changes[-1] == height * width:
        changes = changes[:-1]
    edges = np.concatenate(([0], changes, [height * width]))
    runs = {"size": [height, width], "counts": np.diff(edges).tolist()}
    return _from_coco(coco_mask.frPyObjects(runs, height, width))


def decode_rle(rle: Rle) -> BoolMask:
    """Decode to a bool array ``(height, width)``."""
    return np.asarray(coco_mask.decode(_to_coco(rle))).astype(np.bool_)


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
        others: m masks of that image; the same ones when not given.

    Returns:
        ``(n, m)`` float64, element ``[i, j]`` = ``|i and j| / |i|``. Exact: pycocotools'
        "crowd" IoU divides the intersection by the area of the first mask alone.
    """
    others = rles if others is None else others
    if not rles or not others:
        return np.zeros((len(rles), len(others)))
    left, right = [_to_coco(rle) for rle in rles], [_to_coco(rle) for rle in others]
    return np.asarray(coco_mask.iou(left, right, [1] * len(right)), dtype=np.float64)


def mask_ious(first: Sequence[Rle], second: Sequence[Rle]) -> npt.NDArray[np.float64]:
    """Intersection over union of every pair, ``(len(first), len(second))`` float64."""
    if not first or not second:
        return np.zeros((len(first), len(second)))
    left, right = [_to_coco(rle) for rle in first], [_to_coco(rle) for rle in second]
    return np.asarray(coco_mask.iou(left, right, [0] * len(right)), dtype=np.float64)


def segmentation_to_rle(segmentation: Any, height: int, width: int) -> Rle:
    """Convert a COCO ``segmentation`` to a compressed RLE, as ``COCO.annToRLE`` does.

    Polygons of one annotation are rasterised by pycocotools and merged.

    Args:
        segmentation: list of polygons ``[x1, y1, x2, y2, ...]``, or an RLE with ``counts`` as a
            list (uncompressed) or a string (compressed).
        height: height of the image in pixels.
        width: width of the image in pixels.

    Raises:
        ValueError: the segmentation has no known form, a polygon has fewer than three points or
            a value that is not finite, or the RLE is of another size or does not add up.
    """
    if isinstance(segmentation, dict):
        return _rle_to_rle(segmentation, height, width)
    if isinstance(segmentation, list) and segmentation:
        polygons = [_checked_polygon(polygon) for polygon in segmentation]
        merged = coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
        return _from_coco(merged)
    raise ValueError("has no mask (a list of polygons or an RLE is needed)")


def _rle_to_rle(segmentation: dict[str, Any], height: int, width: int) -> Rle:
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if not isinstance(size, list) or [int(v) for v in size if _is_number(v)] != [height, width]:
        raise ValueError(f"has an RLE of size {size}, but its image is {[height, width]}")
    if isinstance(counts, list):
        if not all(_is_number(c) and c >= 0 and c == int(c) for c in counts):
            raise ValueError("has an RLE whose counts are not whole numbers of 0 or more")
        if sum(counts) != height * width:
            raise ValueError(f"has an RLE of {sum(counts)} pixels, not {height} x {width}")
        whole = {"size": [height, width], "counts": [int(c) for c in counts]}
        return _from_coco(coco_mask.frPyObjects(whole, height, width))
    if not isinstance(counts, str) or not counts.isascii():
        raise ValueError("has an RLE whose counts are neither a list nor an ASCII string")
    total = sum(_compressed_counts(counts))
    if total != height * width:
        raise ValueError(f"has an RLE of {total} pixels, not {height} x {width}")
    return {"size": [height, width], "counts": counts}


def _compressed_counts(counts: str) -> list[int]:
    """Run lengths of COCO's compressed string (maskApi.c, rleFrString).

    Needed because pycocotools reads a damaged string past its end instead of refusing it.
    """
    runs: list[int] = []
    position = 0
    while position < len(counts):
        value = shift = 0
        more = True
        while more:
            if position >= len(counts):
                raise ValueError("has an RLE whose counts end in the middle of a number")
            code = ord(counts[position]) - 48
            if not 0 <= code < 64:
                raise ValueError(f"has an RLE with the invalid character {counts[position]!r}")
            value |= (code & 0x1F) << (5 * shift)
            more = bool(code & 0x20)
            position += 1
            shift += 1
            if not more and code & 0x10:
                value |= -1 << (5 * shift)
        if len(runs) > 2:
            value += runs[-2]
        if value < 0:
            raise ValueError("has an RLE with a negative run")
        runs.append(value)
    return runs


def _checked_polygon(polygon: Any) -> list[float]:
    if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
        raise ValueError("has a polygon that is not a list of at least three x, y pairs")
    if not all(_is_number(value) for value in polygon):
        raise ValueError("has a polygon with a value that is not a finite number")
    return [float(value) for value in polygon]


def _is_number(value: Any) -> bool:
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))
    )


def _to_coco(rle: Rle) -> dict[str, Any]:
    return {"size": rle["size"], "counts": rle["counts"].encode("ascii")}


def _from_coco(rle: Any) -> Rle:
    counts = rle["counts"]
    text = counts.decode("ascii") if isinstance(counts, bytes) else str(counts)
    return {"size": [int(v) for v in rle["size"]], "counts": text}
