"""Which masks are asked about again, where, and what is taken, against pixel-by-pixel loops."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import box_iou

from ntt_ray.models.sam2 import refinement
from ntt_ray.models.sam2.decoder.boxed import tight_boxes
from ntt_ray.models.sam2.refinement import better_masks, distinct_masks, mask_centres


def _drawn(*rows: str) -> Tensor:
    return torch.tensor([[character == "#" for character in row] for row in rows])


def _plain_depths(mask: Tensor) -> list[list[int]]:
    """Squared distance of each pixel to each pixel that is not the mask: the least of them."""
    height, width = mask.shape
    outside = [
        (y, x)
        for y in range(-1, height + 1)
        for x in range(-1, width + 1)
        if not (0 <= y < height and 0 <= x < width and mask[y, x])
    ]
    return [
        [min((y - v) ** 2 + (x - u) ** 2 for v, u in outside) for x in range(width)]
        for y in range(height)
    ]


def _plain_centre(mask: Tensor) -> list[int]:
    depths = _plain_depths(mask)
    deepest = max(map(max, depths))
    for y, row in enumerate(depths):
        for x, depth in enumerate(row):
            if depth == deepest:
                return [x, y]
    raise AssertionError


def test_the_worked_example():
    """A bracket, whose centroid (x 2.6, y 2) lies in the hollow; its centre lies in the mask."""
    bracket = _drawn(
        "########",
        "###.....",
        "###.....",
        "###.....",
        "########",
    )
    # what lies around the picture is outside, too
    assert refinement._squared_depths(bracket[None])[0].tolist() == [
        [1, 1, 1, 1, 1, 1, 1, 1],
        [1, 4, 1, 0, 0, 0, 0, 0],
        [1, 4, 1, 0, 0, 0, 0, 0],
        [1, 4, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 1, 1, 1, 1],
    ]
    assert mask_centres(bracket[None]).tolist() == [[1, 1]]  # of three the first


SHAPES = {
    "everything": torch.ones(5, 8, dtype=torch.bool),  # what lies around the picture is outside
    "one pixel": _drawn("...", "..#"),
    "a column": torch.ones(6, 1, dtype=torch.bool),
    "two as deep": _drawn("###.###", "###.###", "###.###"),
    "a ring": _drawn("#####", "#...#", "#...#", "#####"),
}


@pytest.mark.parametrize("name", SHAPES)
def test_centres_of_shapes(name):
    mask = SHAPES[name]
    expected = {
        "everything": [2, 2],
        "one pixel": [2, 1],
        "a column": [0, 0],
        "two as deep": [1, 1],
        "a ring": [0, 0],
    }
    assert mask_centres(mask[None]).tolist() == [_plain_centre(mask)] == [expected[name]]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), height=st.integers(1, 13), width=st.integers(1, 13))
def test_centres_are_those_of_the_plain_search(seed, height, width):
    random = torch.Generator().manual_seed(seed)
    share = torch.rand(4, 1, 1, generator=random) / 2
    masks = torch.rand(4, height, width, generator=random) >= share
    masks[:, 0, 0] |= ~masks.flatten(1).any(dim=1)
    for mask, depths in zip(masks, refinement._squared_depths(masks), strict=True):
        assert depths.tolist() == _plain_depths(mask)
    assert mask_centres(masks).tolist() == [_plain_centre(mask) for mask in masks]


def test_how_many_are_computed_at_once_does_not_matter(monkeypatch):
    masks = torch.rand(7, 9, 9, generator=torch.Generator().manual_seed(0)) > 0.2
    expected = mask_centres(masks)
    for pixels in (1, 2 * 81, 5 * 81):
        monkeypatch.setattr(refinement, "CACHED_ELEMENTS", pixels)
        assert torch.equal(mask_centres(masks), expected)


def test_no_mask_has_no_centre():
    assert mask_centres(torch.zeros(0, 4, 4, dtype=torch.bool)).shape == (0, 2)


def _plain_distinct(masks: Tensor, predicted_iou: Tensor) -> list[int]:
    boxes, kept = tight_boxes(masks), []
    for i in sorted(range(len(masks)), key=lambda i: (-float(predicted_iou[i]), i)):
        near = [float(box_iou(boxes[i : i + 1], boxes[k : k + 1])) for k in kept]
        if masks[i].any() and not any(iou > refinement.SAME_IOU for iou in near):
            kept.append(i)
    return kept


def test_of_masks_in_nearly_one_box_the_best_is_asked():
    masks = torch.zeros(6, 12, 12, dtype=torch.bool)
    masks[0, 1:9, 1:9] = True
    masks[1, 1:9, 1:10] = True  # 64 / 72 of the first
    masks[2, 1:7, 1:9] = True  # 48 / 64, and 48 / 72 of the second: distinct of that
    masks[4, 10, 10] = masks[5, 10, 10] = True  # the fourth is empty
    iou = torch.tensor([0.8, 0.9, 0.7, 0.99, 0.5, 0.5])
    assert distinct_masks(masks, iou).tolist() == [1, 2, 4]
    assert distinct_masks(masks[3:4], iou[3:4]).tolist() == []
    assert distinct_masks(masks[:0], iou[:0]).tolist() == []


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_distinct_masks_are_those_of_the_plain_search(seed):
    random = torch.Generator().manual_seed(seed)
    masks = torch.zeros(12, 10, 10, dtype=torch.bool)
    for mask in masks:
        y, x, height, width = torch.randint(0, 8, (4,), generator=random).tolist()
        mask[y // 3 : y // 3 + height, x // 3 : x // 3 + width] = True
    iou = torch.randint(0, 5, (12,), generator=random) / 5  # with ties
    assert distinct_masks(masks, iou).tolist() == _plain_distinct(masks, iou)


def test_a_new_mask_is_better_where_it_is_the_same_object_and_thought_more_of():
    old = torch.zeros(6, 1, 10, dtype=torch.bool)
    new = old.clone()
    old[:, :, :7] = True
    new[0, :, :10] = True  # IoU 7/10: at the limit they are the same object
    new[1, :, :4] = True  # 4/7
    new[2, :, :7] = True  # as good
    new[3, :, :7] = True  # worse
    new[5] = new[0]
    iou = torch.tensor([0.5] * 6)
    new_iou = torch.tensor([0.6, 0.6, 0.5, 0.4, 0.9, 0.5])  # the fifth mask is empty
    new_iou[5] = torch.nextafter(iou[5], iou[5] + 1)
    found = better_masks(old, iou, new, new_iou, 0.7)
    assert found.tolist() == [True, False, False, False, False, True]
    assert better_masks(old, iou, new, new_iou, 0.71).tolist() == [False] * 6
    assert better_masks(old, iou, new, new_iou, 0.5).tolist() == [True, True, *found.tolist()[2:]]
    nothing = torch.zeros(1, 2, 2, dtype=torch.bool)
    assert better_masks(nothing, iou[:1], nothing, new_iou[:1], 0.1).tolist() == [False]
