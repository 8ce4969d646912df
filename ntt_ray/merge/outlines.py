"""Masks as polygons that give the same mask back: outlines along the edges of pixels.

A hole is joined to the outline around it by a line that is walked there and back, because COCO
and YOLO have no other way to say "hole"; rasterisers that count crossings do not see that line.
Our own because OpenCV's contours run through the centres of pixels: COCO's tools, which others use
too, cut half a pixel off all around. It does not know any file format.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ntt_ray.masks import BoolMask

# Right and lower edges lie so far inside their pixel: rasterisers that cut coordinates down to
# whole pixels and paint the border too (OpenCV) then give the same mask as those that round.
INSET_PX = 0.04
# Writers move everything by so much, because numbers have few digits: what lies on a left edge must
# not fall short of it. Half an inset: so a way from one pixel to another that touches it at a
# corner leaves the one and enters the other at once.
NUDGE_PX = INSET_PX / 2
Points = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Outline:
    """A closed loop around pixels, or around a hole in them.

    Attributes:
        points: ``(n, 2)`` as x, y in pixels of the grid, which spans (0, 0) to (w, h); edges lie
            along rows and columns in turn, with a step of `INSET_PX` across between them where
            two pixels touch at a corner only. The mask is on the right of the way.
        is_hole: whether the mask lies outside of it.
    """

    points: Points
    is_hole: bool


@dataclass(frozen=True)
class _Joint:
    """Where a loop is joined to another one.

    Attributes:
        loop: number of the other loop.
        position: number of its point behind which the way leaves it.
        meeting: where exactly the way leaves it, ``(2,)``, x and y.
        start: where the joined loop begins and ends, ``(2,)``, x and y.
    """

    loop: int
    position: int
    meeting: Points
    start: Points


def mask_polygons(mask_hw: BoolMask) -> list[Points]:
    """The polygons of a mask, one for each part of it, with holes joined to their outline.

    Args:
        mask_hw: bool ``(h, w)``; pixels that touch at a corner are of one part.

    Returns:
        Polygons ``(n, 2)`` as x, y, each of at least four points, from the top down.
    """
    outlines = trace_outlines(mask_hw)
    parts = [outline.points for outline in outlines if not outline.is_hole]
    holes = [_from_the_left(outline.points) for outline in outlines if outline.is_hole]
    if not holes:
        return parts
    loops = [*parts, *sorted(holes, key=lambda points: (points[0, 0], points[0, 1]))]
    starts = [_middle_of_edge(hole) for hole in loops[len(parts) :]]
    return _joined(loops, len(parts), _joints_to_the_left(loops, starts))


def one_polygon(polygons: Sequence[Points]) -> Points:
    """One polygon of several, joined by short lines from corner to corner, there and back.

    Readers that paint outlines paint those lines too.
    """
    corners = np.concatenate(polygons)
    firsts = np.cumsum([0, *(len(polygon) for polygon in polygons)])
    loops, joints = [polygons[0]], []
    for number, polygon in enumerate(polygons[1:], start=1):
        there, here = _near_corners(corners[: firsts[number]], polygon)
        loops.append(np.roll(polygon, -here, axis=0))
        corners[firsts[number] : firsts[number + 1]] = loops[-1]
        loop = int(np.searchsorted(firsts, there, side="right")) - 1
        joints.append(_Joint(loop, there - int(firsts[loop]), corners[there], polygon[here]))
    return _joined(loops, 1, joints)[0]


def _near_corners(corners: Points, others: Points) -> tuple[int, int]:
    """A corner of each that are close to one another, the nearest ones of most shapes.

    From the first of the others to the nearest corner, from there to the nearest of the others,
    and so on until that is the way back: a few passes, where comparing all pairs takes
    the product of both lengths.
    """
    here, shortest = 0, np.inf
    while True:
        there = int(np.argmin(np.abs(corners - others[here]).max(axis=1)))
        distances = np.abs(others - corners[there]).max(axis=1)
        nearest = int(np.argmin(distances))
        if distances[nearest] >= shortest:
            return there, here
        here, shortest = nearest, float(distances[nearest])


def trace_outlines(mask_hw: BoolMask) -> list[Outline]:
    """Follow the edges between pixels inside and outside, from corner to corner.

    Every row and every column of the grid of corners is a line of pairs: an edge begins at one
    corner and ends at the next. Going along a row's edge, then along a column's, and so on, walks
    around an outline. Where two pixels touch at a corner only, that corner is there twice.
    """
    xy, partners, lies_inside, doubled = _corners(mask_hw)
    outlines, visited = [], [False] * len(xy)
    down, inside = partners.tolist(), lies_inside.tolist()
    for start in range(len(visited)):  # the first of a loop is the left one of its highest corners
        if visited[start]:
            continue
        loop, corner, along_row = [], start, inside[start]
        while not visited[corner]:
            visited[corner] = True
            loop.append(corner)
            corner = corner ^ 1 if along_row else down[corner]
            along_row = not along_row
        outlines.append(Outline(_inset(xy[loop], doubled[loop]), not inside[start]))
    return outlines


def _corners(mask_hw: BoolMask) -> tuple[Ints, Ints, Bools, Bools]:
    """The corners of all outlines, row by row.

    Returns:
        x and y ``(n, 2)``, where corners 2k and 2k + 1 are the ends of an edge along a row; then,
        ``(n,)`` each, the other end of the edge along the column, whether the pixel to the lower
        right is of the mask, and whether the corner is there twice.
    """
    padded = np.pad(mask_hw, 1)
    a, b, c, d = padded[:-1, :-1], padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    twice = (a == d) & (b == c) & (a != b)
    y, x = np.nonzero((a ^ b ^ c ^ d) | twice)
    times = 1 + twice[y, x]
    first = np.cumsum(times) - times
    row = np.repeat(np.arange(len(y)), times)
    by_column = np.lexsort((y, x))
    order = np.repeat(first[by_column], times[by_column])
    # Of a corner that is there twice, one turns around the left pixel outside, the other one
    # around the right pixel outside, so that the pixels inside are joined.
    second = np.diff(order, prepend=-1) == 0
    doubled = twice[y, x][row]
    swapped = doubled[order] & a[y, x][row][order]
    order = order + np.where(swapped, ~second, second)
    partner = np.empty(len(order), dtype=np.int64)
    partner[order[::2]], partner[order[1::2]] = order[1::2], order[::2]
    return np.stack([x[row], y[row]], axis=1), partner, d[y, x][row], doubled


def _inset(corners: Ints, doubled: Bools) -> Points:
    """Corners in walking order, with right edges (the way down) and lower edges moved inwards.

    Where two pixels touch at a corner the way leads from one to the other: there it gets a point
    in each, because the one between their edges lies in a pixel outside, which readers that paint
    the outline would add to the mask.
    """
    before, after = np.roll(corners, 1, axis=0), np.roll(corners, -1, axis=0)
    (came_x, came_y), (goes_x, goes_y) = (corners - before).T, (after - corners).T
    falls, leads_left = (came_y > 0) | (goes_y > 0), (came_x < 0) | (goes_x < 0)
    moved = np.stack([falls, leads_left], axis=1)
    last = np.stack([(came_y > 0) | (came_x > 0), (came_y > 0) | (came_x < 0)], axis=1)
    first = np.stack([(goes_y > 0) | (goes_x < 0), (goes_y < 0) | (goes_x < 0)], axis=1)
    moved[doubled] = last[doubled]
    behind = np.flatnonzero(doubled) + 1
    points = np.insert(corners, behind, corners[doubled], axis=0)
    return np.asarray(points - INSET_PX * np.insert(moved, behind, first[doubled], axis=0))


def _from_the_left(hole: Points) -> Points:
    """A hole's points, turned so that it begins with the upper end of its leftmost edge."""
    return np.roll(hole, -int(np.lexsort((hole[:, 1], hole[:, 0]))[0]), axis=0)


def _middle_of_edge(hole: Points) -> Points:
    """A point on the leftmost edge of a hole, in the middle of its first pixel."""
    x, top = hole[0]
    return np.array([x, np.floor(top + 2 * INSET_PX) + 0.5])


def _joints_to_the_left(loops: Sequence[Points], starts: Sequence[Points]) -> list[_Joint]:
    """Where the holes, which are the last of the loops, meet the next upright edge to the left."""
    points = np.concatenate(loops)
    following = np.concatenate([np.roll(loop, -1, axis=0) for loop in loops])
    firsts = np.cumsum([0, *(len(loop) for loop in loops)])
    low = np.minimum(points[:, 1], following[:, 1])
    high = np.maximum(points[:, 1], following[:, 1])
    joints = []
    for x, y in starts:
        crossed = np.flatnonzero((low <= y) & (y < high) & (points[:, 0] < x))
        edge = int(crossed[np.argmax(points[crossed, 0])])
        loop = int(np.searchsorted(firsts, edge, side="right")) - 1
        meeting = np.array([points[edge, 0], y])
        joints.append(_Joint(loop, edge - int(firsts[loop]), meeting, np.array([x, y])))
    return joints


def _joined(loops: Sequence[Points], kept: int, joints: Sequence[_Joint]) -> list[Points]:
    """The first `kept` loops, with the others joined to loops before them, by `joints` in order."""
    added: list[list[tuple[_Joint, Points]]] = [[] for _ in loops]
    for number in range(len(loops) - 1, kept - 1, -1):  # what is joined to it is there already
        joint = joints[number - kept]
        added[joint.loop].append((joint, _with(loops[number], added[number])))
    return [_with(loops[number], added[number]) for number in range(kept)]


def _with(loop: Points, added: list[tuple[_Joint, Points]]) -> Points:
    """A loop that leaves its way for others and comes back."""
    if not added:
        return loop

    def along(item: tuple[_Joint, Points]) -> tuple[int, float]:
        joint = item[0]
        return joint.position, float(np.abs(joint.meeting - loop[joint.position]).sum())

    pieces, done = [], 0
    for joint, points in sorted(added, key=along):
        turned = [joint.meeting[None], joint.start[None], points[1:], points[:1], joint.start[None]]
        pieces += [loop[done : joint.position + 1], *turned, joint.meeting[None]]
        done = joint.position + 1
    way = np.concatenate([*pieces, loop[done:]])
    return way[np.any(way != np.roll(way, 1, axis=0), axis=1)]
