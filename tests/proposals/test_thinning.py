import numpy as np
import pytest
import torch

from ntt_ray.method.suppression import inclusive_boxes
from ntt_ray.proposals.thinning import first_by_runs, first_of_near, near_on_device, thinned


def _masks(count=60, side=24, seed=0) -> torch.Tensor:
    """Rectangles, many of them nearly the same."""
    rng = np.random.default_rng(seed)
    masks = torch.zeros(count, side, side, dtype=torch.bool)
    for number, mask in enumerate(masks):
        x, y = rng.integers(0, 4, 2) + 3 * (number % 3)
        width, height = rng.integers(9, 13, 2)
        mask[y : y + height, x : x + width] = True
    return masks


def _plain(masks, predicted_iou, max_iou):
    """As the definition says, mask by mask."""
    stay = []
    for n in sorted(range(len(masks)), key=lambda n: (-float(predicted_iou[n]), n)):
        ious = [int((masks[n] & masks[m]).sum()) / int((masks[n] | masks[m]).sum()) for m in stay]
        if all(iou <= max_iou for iou in ious):
            stay.append(n)
    return sorted(stay)


@pytest.mark.parametrize("max_iou", [0.0, 0.5, 0.8, 0.95])
@pytest.mark.parametrize("seed", range(3))
def test_of_near_doubles_the_best_stays(seed, max_iou):
    masks = _masks(seed=seed)
    predicted_iou = (torch.rand(len(masks)) * 8).round() / 8  # many are equal
    boxes = inclusive_boxes(masks)
    wanted = _plain(masks, predicted_iou, max_iou)
    assert 1 < len(wanted) < len(masks) or max_iou == 0.0
    assert thinned(masks, predicted_iou, boxes, max_iou).tolist() == wanted


@pytest.mark.parametrize("count", [2, 33, 60])
@pytest.mark.parametrize("max_iou", [0.5, 0.8])
def test_a_device_finds_the_same(count, max_iou):
    masks = _masks(count)
    by_runs = first_by_runs(masks, inclusive_boxes(masks), max_iou)
    assert first_of_near(near_on_device(masks, max_iou)) == by_runs
    assert len(by_runs) < count or count == 2


@pytest.mark.parametrize("count", [0, 1])
def test_few_masks_all_stay(count):
    masks = _masks(count)
    assert thinned(masks, torch.rand(count), inclusive_boxes(masks), 0.0).tolist() == [
        *range(count)
    ]


def test_without_a_limit_all_stay():
    masks = _masks(5)
    assert thinned(masks, torch.rand(5), inclusive_boxes(masks), None).tolist() == [*range(5)]
