from itertools import pairwise

import numpy as np
import pytest
import torch

from ntt_ray.method.tiles import View, cut_off, seen_finer, views_of

SIZES = [(100, 100), (151, 90), (1000, 1000), (3000, 400), (77, 1234), (640, 641)]


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.75])
@pytest.mark.parametrize("size_hw", SIZES, ids=str)
def test_every_scale_covers_the_image_and_neighbours_overlap(size_hw, overlap):
    height, width = size_hw
    whole, *tiles = views_of(size_hw, 100, overlap)
    assert whole == View(0, 0, width, height)
    assert len(set(tiles)) == len(tiles)
    for side in sorted({max(v.width, v.height) for v in tiles}):
        own = [v for v in tiles if max(v.width, v.height) == side]
        assert {(v.width, v.height) for v in own} == {(min(side, width), min(side, height))}
        seen = np.zeros(size_hw, dtype=np.int64)
        for v in own:
            seen[v.top : v.top + v.height, v.left : v.left + v.width] += 1
        assert seen.min() >= 1
        assert seen.sum() == sum(v.width * v.height for v in own)  # none reaches out of the image
        for starts, length in (
            (sorted({v.left for v in own}), own[0].width),
            (sorted({v.top for v in own}), own[0].height),
        ):
            for a, b in pairwise(starts):
                assert 0 < b - a <= length * (1 - overlap) + 1


def test_scales_double_until_one_view_holds_the_image():
    sides = [max(v.width, v.height) for v in views_of((1000, 700), 100, 0.25)]
    assert set(sides) == {1000, 100, 200, 400}
    assert [side for side in sides if side < 1000] == sorted(side for side in sides if side < 1000)


@pytest.mark.parametrize("size_hw", [(1, 1), (100, 20), (150, 150), (1, 150)], ids=str)
def test_images_not_much_larger_than_a_tile_are_one_view(size_hw):
    assert views_of(size_hw, 100, 0.25) == [View(0, 0, size_hw[1], size_hw[0])]


@pytest.mark.parametrize("size_hw", [(151, 100), (20, 151), (151, 151)], ids=str)
def test_images_more_than_half_larger_than_a_tile_have_tiles(size_hw):
    sides = {max(view.size_hw) for view in views_of(size_hw, 100, 0.25)}
    assert sides == {151, 100}


def _plain_cut(mask, view, size_hw) -> bool:
    height, width = mask.shape
    for y in range(height):
        for x in range(width):
            if not mask[y, x]:
                continue
            if x == 0 and view.left > 0:
                return True
            if y == 0 and view.top > 0:
                return True
            if x == width - 1 and view.left + view.width < size_hw[1]:
                return True
            if y == height - 1 and view.top + view.height < size_hw[0]:
                return True
    return False


@pytest.mark.parametrize(
    "view",
    [
        *(View(0, 0, 50, 60), View(0, 0, 20, 20), View(30, 40, 20, 20), View(10, 0, 20, 60)),
        *(View(1, 1, 49, 59), View(0, 0, 49, 59)),
    ],
    ids=str,
)
def test_masks_at_a_border_where_the_image_goes_on_are_cut_off(view):
    random = torch.Generator().manual_seed(3)
    masks = torch.rand(60, 8, 8, generator=random) > 0.96
    found = cut_off(masks, view, (60, 50)).tolist()
    assert found == [_plain_cut(mask, view, (60, 50)) for mask in masks.numpy()]
    assert cut_off(torch.zeros(0, 8, 8, dtype=torch.bool), view, (60, 50)).shape == (0,)
    if view.width < 50:
        assert True in found
        assert False in found


WHOLE, TILE, NEXT = View(0, 0, 100, 80), View(0, 0, 40, 40), View(30, 0, 40, 40)
FINER = {
    "a finer mask of the same": ([(5, 5, 20, 20), (6, 5, 20, 21)], [0, 1], [0, 0], [True, False]),
    "of another class": ([(5, 5, 20, 20), (6, 5, 20, 21)], [0, 1], [0, 1], [False, False]),
    "of another place": ([(5, 5, 20, 20), (14, 14, 39, 39)], [0, 1], [0, 0], [False, False]),
    "as large views": ([(31, 5, 38, 20), (31, 5, 39, 20)], [1, 2], [0, 0], [False, False]),
    "the coarser one reaches out of the finer view": (
        [(5, 5, 45, 20), (5, 5, 38, 20)],
        [0, 1],
        [0, 0],
        [False, False],
    ),
    "up to the last pixel of it": (
        [(5, 5, 39, 20), (5, 5, 38, 20)],
        [0, 1],
        [0, 0],
        [True, False],
    ),
    "two finer ones": (
        [(31, 5, 38, 20), (31, 5, 39, 20), (31, 5, 38, 21)],
        [2, 0, 1],
        [0, 0, 0],
        [False, True, False],
    ),
    "none": ([], [], [], []),
}


@pytest.mark.parametrize("case", FINER)
def test_a_finer_view_stands_for_a_coarser_one(case):
    boxes, view_of, labels, expected = FINER[case]
    found = seen_finer(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(labels, dtype=torch.int64),
        torch.tensor(view_of, dtype=torch.int64),
        [WHOLE, TILE, NEXT],
        0.5,
    )
    assert found.tolist() == expected


def test_what_is_gone_stands_for_nothing():
    """The middle scale gives way to the finest one, whose mask is no duplicate of the coarsest."""
    views = [View(0, 0, 100, 100), View(0, 0, 50, 50), View(0, 0, 30, 30)]
    boxes = torch.tensor([[0.0, 0, 29, 29], [0.0, 0, 29, 20], [0.0, 0, 29, 13]])
    found = seen_finer(boxes, torch.zeros(3, dtype=torch.int64), torch.arange(3), views, 0.5)
    assert found.tolist() == [False, True, False]
