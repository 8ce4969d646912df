"""Outlines of masks: closed, of the right area, and small."""

from __future__ import annotations

import re

import numpy as np
import pytest

from ntt_ray.pages.pictures import UNITS_PER_PX, mask_to_path, simplify_loop, trace_outlines


def path_area(path: str) -> float:
    """Area inside a path by the even-odd rule, for loops that do not cross."""
    areas = []
    for loop in re.findall(r"M(-?\d+) (-?\d+)l([^z]*)z", path):
        steps = np.array(loop[2].split(), dtype=float).reshape(-1, 2)
        points = np.vstack([[float(loop[0]), float(loop[1])], steps]).cumsum(axis=0)
        x, y = points.T
        areas.append((x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2)
    return abs(sum(areas)) / UNITS_PER_PX**2


class TestOutlines:
    @pytest.mark.parametrize("rows", [[".."], ["..", ".."]], ids=["row", "square"])
    def test_empty(self, rows: list[str]) -> None:
        mask = np.array([[c == "#" for c in row] for row in rows])
        assert mask_to_path(mask, 1.0) == ""
        assert trace_outlines(mask) == []

    def test_one_cell_is_a_diamond(self) -> None:
        mask = np.zeros((3, 3), bool)
        mask[1, 1] = True
        (loop,) = trace_outlines(mask)
        assert sorted(map(tuple, loop.tolist())) == [(1, 1.5), (1.5, 1), (1.5, 2), (2, 1.5)]

    def test_hole_and_corner_contact(self) -> None:
        ring = np.ones((5, 5), bool)
        ring[2, 2] = False
        assert len(trace_outlines(ring)) == 2
        assert len(trace_outlines(np.eye(2, dtype=bool))) == 1

    @pytest.mark.parametrize("scale", [0.05, 0.5, 1.0])
    def test_area_is_kept(self, scale: float) -> None:
        y, x = np.mgrid[:600, :800]
        radius = np.hypot(x - 400, y - 300)
        mask = (radius < 250) & (radius > 90)
        area = path_area(mask_to_path(mask, scale))
        assert area == pytest.approx(mask.sum() * scale**2, rel=0.05)

    def test_random_masks_give_closed_loops(self) -> None:
        mask = np.random.default_rng(1).random((40, 50)) > 0.5
        loops = trace_outlines(mask)
        points = np.concatenate(loops)
        assert len(np.unique(points, axis=0)) == len(points)  # no crossing is used twice

    def test_speck_stays_visible(self) -> None:
        mask = np.zeros((2000, 2000), bool)
        mask[77, 99] = True
        assert mask_to_path(mask, 0.1).startswith("M")

    def test_simplify_drops_points_on_a_line(self) -> None:
        square = np.array([[0, 0], [1, 0], [2, 0], [2, 2], [1, 2], [0, 2], [0, 1]], dtype=float)
        assert len(simplify_loop(square, 0.1)) == 4
