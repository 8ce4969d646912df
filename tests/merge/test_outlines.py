"""Outlines: polygons give the same mask back, whatever it looks like."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from ntt_ray.masks import decode_rle, rasterise
from ntt_ray.merge.outlines import (
    INSET_PX,
    NUDGE_PX,
    mask_polygons,
    one_polygon,
    trace_outlines,
)
from tests.support.odd_masks import MASKS

PARTS_AND_HOLES = {
    "disc": (1, 0),
    "ring": (1, 1),
    "two holes, one behind the other": (1, 2),
    "an island in a hole": (2, 1),
    "two parts": (2, 0),
    "at all borders": (1, 1),
    "pixels that touch at a corner": (1, 0),
    "one pixel": (1, 0),
}


def _drawn(polygons, mask):
    flat = [polygon.ravel().tolist() for polygon in polygons]
    return decode_rle(rasterise(flat, *mask.shape))


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_polygons_give_the_mask_back(mask):
    polygons = mask_polygons(mask)
    np.testing.assert_array_equal(_drawn(polygons, mask), mask)
    np.testing.assert_array_equal(_drawn([one_polygon(polygons)], mask), mask)


@settings(deadline=None, max_examples=150)
@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=14)))
def test_polygons_of_any_mask_give_it_back(mask):
    if not mask.any():
        assert mask_polygons(mask) == []
        return
    polygons = mask_polygons(mask)
    assert min(len(polygon) for polygon in polygons) >= 4
    np.testing.assert_array_equal(_drawn(polygons, mask), mask)
    np.testing.assert_array_equal(_drawn([one_polygon(polygons)], mask), mask)


@settings(deadline=None, max_examples=150)
@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=14)))
def test_readers_that_paint_outlines_paint_pixels_of_the_mask(mask):
    """Ultralytics adds points along the edges, cuts all down to pixels and paints them."""
    along = np.arange(10)[:, None, None] / 9  # where pixels touch at a corner, half way is nowhere
    for polygon in mask_polygons(mask):
        ways = polygon + along * (np.roll(polygon, -1, axis=0) - polygon)
        x, y = (ways.reshape(-1, 2) + NUDGE_PX).astype(int).T
        assert mask[y, x].all()


@pytest.mark.parametrize(
    ("mask", "gap"),
    [
        (["#...", "#...", "....", "..##"], 1),
        (["##...##", "##...##"], 3),
        (["#####", "#...#", "#.#.#", "#...#", "#####"], 1),
        (["........#", "#........", "#######.."], 1),
    ],
    ids=["apart", "beside", "island", "not where it begins"],
)
def test_lines_between_parts_are_short(mask, gap):
    pixels = np.array([[character == "#" for character in row] for row in mask])
    polygon = (one_polygon(mask_polygons(pixels)) + NUDGE_PX).astype(int)
    lines = zip(polygon, np.roll(polygon, -1, axis=0), strict=True)
    steps = [np.abs(end - start).max() - 1 for start, end in lines if _outside(start, end, pixels)]
    assert steps == [gap, gap]  # there and back


def _outside(start, end, pixels):
    along = np.linspace(start, end, 1 + 2 * np.abs(end - start).max()).round().astype(int)
    return not pixels[along[:, 1], along[:, 0]].all()


@pytest.mark.slow
@given(st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=5)
def test_a_noisy_mask_with_thousands_of_holes(seed):
    mask = np.random.default_rng(seed).random((120, 150)) < 0.6
    np.testing.assert_array_equal(_drawn(mask_polygons(mask), mask), mask)


@pytest.mark.parametrize(("name", "expected"), PARTS_AND_HOLES.items(), ids=PARTS_AND_HOLES)
def test_parts_and_holes(name, expected):
    outlines = trace_outlines(MASKS[name])
    holes = sum(outline.is_hole for outline in outlines)
    assert (len(outlines) - holes, holes) == expected
    assert len(mask_polygons(MASKS[name])) == expected[0]


def test_the_outline_of_one_pixel():
    (outline,) = trace_outlines(np.array([[False, False], [False, True]]))
    far = 2 - INSET_PX
    assert outline.points.tolist() == [[1, 1], [far, 1], [far, far], [1, far]]
