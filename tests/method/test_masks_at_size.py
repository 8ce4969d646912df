"""Both ways to masks at the image's size, against the plain resize and each other."""

import numpy as np
import pytest
import torch

from ntt_ray.masks import decode_rle, rle_area, rle_bbox_xywh, runs_to_rle
from ntt_ray.method import strips as module
from ntt_ray.method.masks_at_size import StripMasks, as_rles, full_size_rles, masks_at_size
from ntt_ray.method.strips import strip_runs
from tests import reference

SIZES = [(5, 7), (48, 64), (300, 20), (90, 213)]


def _logits(count=9, seed=0, size=16) -> torch.Tensor:
    """Smooth random masks, with an empty, a full, and two one-corner masks among them."""
    rough = torch.randn(count, 1, 4, 4, generator=torch.Generator().manual_seed(seed))
    logits = torch.nn.functional.interpolate(rough, size=(size, size), mode="bilinear")[:, 0]
    logits[1], logits[2] = -1.0, 1.0
    logits[3], logits[4] = -1.0, -1.0
    logits[3, 0, 0] = logits[4, -1, -1] = 9.0
    return logits.contiguous()


@pytest.fixture(params=[3, 1000, 1 << 24], ids=["strips of one row", "small strips", "one strip"])
def step(request, monkeypatch):
    monkeypatch.setattr(module, "PIXELS_PER_STEP", request.param)


@pytest.mark.parametrize("size_hw", SIZES, ids=str)
def test_run_lengths_equal_the_plain_resize(size_hw, step):
    for rle, logits in zip(full_size_rles(_logits(), size_hw), _logits()):
        np.testing.assert_array_equal(decode_rle(rle), reference.full_size_mask(logits, size_hw))


@pytest.mark.parametrize("size_hw", SIZES, ids=str)
def test_strips_give_the_same_masks_letter_by_letter(size_hw, step):
    expected = full_size_rles(_logits(), size_hw)
    runs = strip_runs(_logits(), size_hw)
    assert [runs_to_rle(own, *size_hw) for own in runs] == expected
    assert StripMasks.of(_logits(), size_hw).areas.tolist() == [rle_area(rle) for rle in expected]


@pytest.mark.parametrize("size_hw", SIZES, ids=str)
def test_both_ways_give_the_same_shares(size_hw, step):
    logits = _logits()[torch.tensor([0, 2, 5, 6, 7, 8])]
    rows, rivals = torch.tensor([1, 3, 5]), torch.tensor([0, 2, 3, 4])
    as_rles, in_strips = (masks_at_size(logits, size_hw, way) for way in (False, True))
    if (as_rles.areas == 0).any():
        pytest.skip("an empty mask never comes here")
    expected = as_rles.shares(rows, rivals)
    torch.testing.assert_close(in_strips.shares(rows, rivals), expected, atol=1e-7, rtol=0)


@pytest.mark.parametrize("in_strips", [False, True], ids=["run lengths", "strips"])
def test_selected_masks_are_those_of_selected_logits(in_strips):
    size_hw, index = (48, 64), torch.tensor([7, 2, 5])
    found = masks_at_size(_logits(), size_hw, in_strips).select(index)
    expected = full_size_rles(_logits()[index], size_hw)
    encoded = as_rles(found.encoded(), size_hw)
    assert list(encoded.rles) == expected
    assert encoded.areas.tolist() == [rle_area(rle) for rle in expected]
    assert encoded.boxes_xywh.tolist() == [rle_bbox_xywh(rle) for rle in expected]
    assert found.areas.tolist() == [rle_area(rle) for rle in expected]


def test_a_logit_of_zero_is_outside(step):
    logits = torch.tensor([[[0.0, 2.0, 0.0], [0.0, 3.0, 1.0]], [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]])
    expected = (logits > 0).numpy()
    as_rles = full_size_rles(logits, (2, 3))
    assert [runs_to_rle(own, 2, 3) for own in strip_runs(logits, (2, 3))] == as_rles
    np.testing.assert_array_equal(np.stack([decode_rle(rle) for rle in as_rles]), expected)
    assert StripMasks.of(logits, (2, 3)).areas.tolist() == [3, 0]


def test_nothing_to_encode():
    assert strip_runs(torch.zeros(0, 8, 8), (20, 30)) == ()
    assert full_size_rles(torch.zeros(0, 8, 8), (20, 30)) == []
