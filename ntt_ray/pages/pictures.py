"""Small pictures for a page: images as JPEG data URIs, masks as compact SVG paths.

Pure functions of pixels. Outlines are traced at the size they are shown in, so a path has a few
hundred bytes whatever the size of the image.
"""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ntt_ray.images import RgbImage
from ntt_ray.masks import BoolMask

UNITS_PER_PX = 4  # path coordinates are whole numbers of quarter pixels
_QUALITIES = (84, 70, 55, 40, 25)
_TOLERANCE_PX = 0.45
_MAX_POINTS = 240
_MAX_LOOPS = 40
_MIN_GRID = 24  # small objects are traced finer than one point per shown pixel

Points = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A picture ready for a page.

    Attributes:
        width: width as shown, in CSS pixels.
        height: height as shown, in CSS pixels.
        scale: shown pixels per pixel of the image.
        data_uri: the encoded picture; empty when there is none.
    """

    width: int
    height: int
    scale: float
    data_uri: str

    @property
    def width_units(self) -> int:
        """Width in the units of paths."""
        return self.width * UNITS_PER_PX

    @property
    def height_units(self) -> int:
        """Height in the units of paths."""
        return self.height * UNITS_PER_PX


@dataclass(frozen=True, slots=True)
class OutlinedPicture:
    """A picture with the outline of one mask.

    Attributes:
        file_name: the file name of the image.
        picture: the image, or the part of it that is shown.
        path: outline of the mask, see `mask_to_path`; empty where there is none.
    """

    file_name: str
    picture: Thumbnail
    path: str


def blank(size_hw: tuple[int, int], max_side: int) -> Thumbnail:
    """The place of a picture that cannot be shown."""
    height, width = size_hw
    scale = min(1.0, max_side / max(height, width))
    return Thumbnail(max(1, round(width * scale)), max(1, round(height * scale)), scale, "")


def thumbnail(image_rgb: RgbImage, max_side: int, max_bytes: int) -> Thumbnail:
    """Downscale an image and encode it.

    Args:
        image_rgb: uint8 ``(h, w, 3)``.
        max_side: longest side in pixels; smaller images stay as they are.
        max_bytes: lower the JPEG quality to stay below this, as far as that goes.
    """
    place = blank((image_rgb.shape[0], image_rgb.shape[1]), max_side)
    picture = Image.fromarray(image_rgb)
    if (place.width, place.height) != picture.size:
        picture = picture.resize((place.width, place.height), Image.Resampling.LANCZOS)
    data = b""
    for quality in _QUALITIES:
        sink = io.BytesIO()
        picture.save(sink, "JPEG", quality=quality, optimize=True)
        data = sink.getvalue()
        if len(data) <= max_bytes:
            break
    uri = "data:image/jpeg;base64," + base64.b64encode(data).decode("ascii")
    return Thumbnail(place.width, place.height, place.scale, uri)


def mask_to_path(mask: BoolMask, scale: float) -> str:
    """The outline of a mask as SVG path data, to be filled by the even-odd rule.

    Args:
        mask: bool ``(h, w)``; an empty one gives an empty path.
        scale: shown pixels per pixel of the mask.

    Returns:
        Closed loops in units of ``1 / UNITS_PER_PX`` shown pixels.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return ""
    y0, y1, x0, x1 = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    grid_w, grid_h = _grid_side(x1 - x0, scale), _grid_side(y1 - y0, scale)
    inside = Image.fromarray(mask[y0:y1, x0:x1].astype(np.uint8) * 255)
    shares = np.asarray(inside.resize((grid_w, grid_h), Image.Resampling.BOX)) / 255.0
    stretch = np.array([(x1 - x0) / grid_w, (y1 - y0) / grid_h])
    traced = trace_outlines(shares)[:_MAX_LOOPS]
    loops = [(loop * stretch + (x0, y0)) * scale for loop in traced]
    tolerance = _TOLERANCE_PX
    simple = [simplify_loop(loop, tolerance) for loop in loops]
    while sum(map(len, simple)) > _MAX_POINTS and tolerance < 64:
        tolerance *= 1.6
        simple = [simplify_loop(loop, tolerance) for loop in simple]
    # loops that collapsed are specks; the largest one stays, so that every mask can be seen
    kept = [loop for loop in simple if len(loop) > 2]
    return "".join(_loop_path(loop) for loop in kept or simple[:1])


def trace_outlines(shares: npt.NDArray[Any]) -> list[Points]:
    """Follow the 0.5 level of a grid (marching squares), with values of 0 around it.

    Args:
        shares: ``(h, w)`` floats from 0 to 1, the covered share of each cell.

    Returns:
        Closed loops, the longest first, each ``(n, 2)`` as x, y; the grid spans (0, 0) to (w, h).

    Example: a single covered cell gives a diamond around its middle ::

        . . .        .
        . # .  ->   < >
        . . .        '
    """
    values = np.pad(np.asarray(shares, dtype=np.float64), 1)
    height, width = values.shape
    inside = values >= 0.5
    corners = (inside[:-1, :-1], inside[:-1, 1:], inside[1:, 1:], inside[1:, :-1])
    # every grid edge that the outline crosses has a number; vertical ones follow the horizontal
    across = np.arange(height * (width - 1)).reshape(height, width - 1)
    down = np.arange((height - 1) * width).reshape(height - 1, width) + across.size
    edges = (across[:-1], down[:, 1:], across[1:], down[:, :-1])  # top, right, bottom, left
    leaves = [corners[i] & ~corners[(i + 1) % 4] for i in range(4)]
    enters = [~corners[i] & corners[(i + 1) % 4] for i in range(4)]
    # Going around a square clockwise, an edge that leaves the mask is joined with the next one
    # that enters it. The square across an edge sees it the other way round, so each crossing has
    # one way in and one way out, and the joins are closed loops.
    following: dict[int, int] = {}
    for i in range(4):
        left = leaves[i]
        for step in (1, 2, 3):
            j = (i + step) % 4
            joined = left & enters[j]
            following.update(zip(edges[i][joined].tolist(), edges[j][joined].tolist()))
            left = left & ~joined
    loops = []
    while following:
        start, edge = following.popitem()
        numbers = [start]
        while edge != start:
            numbers.append(edge)
            edge = following.pop(edge)
        loops.append(_crossings(np.array(numbers), values))
    return sorted(loops, key=lambda loop: (-len(loop), loop.tolist()[0]))


def simplify_loop(loop: Points, tolerance: float) -> Points:
    """Drop points of a closed loop that lie within `tolerance` of the line without them.

    Douglas and Peucker, started from the first point and the one farthest from it.
    """
    before, after = loop - np.roll(loop, 1, axis=0), np.roll(loop, -1, axis=0) - loop
    bends = np.abs(before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]) > 1e-9
    loop = loop[bends]  # most points lie on straight runs, and dropping them all at once is fast
    if len(loop) < 4:
        return loop
    closed = np.vstack([loop, loop[:1]])
    far = int(np.argmax(((loop - loop[0]) ** 2).sum(axis=1)))
    keep = np.zeros(len(closed), dtype=bool)
    keep[[0, far]] = True
    open_spans = [(0, far), (far, len(closed) - 1)]
    while open_spans:
        first, last = open_spans.pop()
        if last - first < 2:
            continue
        between = closed[first + 1 : last] - closed[first]
        along = closed[last] - closed[first]
        length = math.hypot(*along)
        if length == 0:
            distances = np.hypot(between[:, 0], between[:, 1])
        else:
            distances = np.abs(between[:, 0] * along[1] - between[:, 1] * along[0]) / length
        worst = int(np.argmax(distances))
        if distances[worst] > tolerance:
            middle = first + 1 + worst
            keep[middle] = True
            open_spans += [(first, middle), (middle, last)]
    return closed[:-1][keep[:-1]]


def _grid_side(pixels: int, scale: float) -> int:
    return min(pixels, max(_MIN_GRID, math.ceil(pixels * scale)))


def _crossings(numbers: npt.NDArray[np.int64], values: npt.NDArray[np.float64]) -> Points:
    """Where the outline crosses the given grid edges, in the coordinates of the unpadded grid."""
    height, width = values.shape
    level = numbers >= height * (width - 1)  # vertical edges
    y, x = np.divmod(np.where(level, 0, numbers), width - 1)
    vy, vx = np.divmod(np.where(level, numbers - height * (width - 1), 0), width)
    y, x = np.where(level, vy, y), np.where(level, vx, x)
    first = values[y, x]
    second = values[y + level, x + ~level]
    share = (0.5 - first) / (second - first)
    # the middle of the first unpadded cell is at (0.5, 0.5)
    return np.stack([x + share * ~level - 0.5, y + share * level - 0.5], axis=1)


def _loop_path(loop: Points) -> str:
    points = np.round(loop * UNITS_PER_PX).astype(int)
    steps = np.diff(points, axis=0)
    steps = steps[steps.any(axis=1)]
    moves = " ".join(f"{x} {y}" for x, y in steps.tolist() or [[1, 0]])
    return f"M{points[0, 0]} {points[0, 1]}l{moves}z"
