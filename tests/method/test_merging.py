import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ntt_ray.masks import decode_rle, encode_masks, rle_area, runs_to_rle
from ntt_ray.method import merging
from ntt_ray.method.merging import (
    decayed_scores,
    full_size_rles,
    rle_shares,
    strip_areas,
    strip_runs,
    strip_shares,
)
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
    monkeypatch.setattr(merging, "PIXELS_PER_STEP", request.param)


@pytest.mark.parametrize("size_hw", SIZES, ids=str)
def test_run_lengths_equal_the_plain_resize(size_hw, step):
    for rle, logits in zip(full_size_rles(_logits(), size_hw), _logits()):
        np.testing.assert_array_equal(decode_rle(rle), reference.full_size_mask(logits, size_hw))


@pytest.mark.parametrize("size_hw", SIZES, ids=str)
def test_strips_give_the_same_masks_letter_by_letter(size_hw, step):
    expected = full_size_rles(_logits(), size_hw)
    runs = strip_runs(_logits(), size_hw)
    assert [runs_to_rle(own, *size_hw) for own in runs] == expected
    assert strip_areas(_logits(), size_hw).tolist() == [rle_area(rle) for rle in expected]


@pytest.mark.parametrize("size_hw", SIZES, ids=str)
def test_both_ways_give_the_same_shares(size_hw, step):
    logits = _logits()[torch.tensor([0, 2, 5, 6, 7, 8])]
    rows, rivals = torch.tensor([1, 3, 5]), torch.tensor([0, 2, 3, 4])
    rles = full_size_rles(logits, size_hw)
    if any(rle_area(rle) == 0 for rle in rles):
        pytest.skip("an empty mask never comes here")
    in_strips = strip_shares(logits, size_hw, strip_areas(logits, size_hw))(rows, rivals)
    torch.testing.assert_close(in_strips, rle_shares(rles)(rows, rivals), atol=1e-7, rtol=0)


def test_nothing_to_encode():
    assert strip_runs(torch.zeros(0, 8, 8), (20, 30)) == ()
    assert full_size_rles(torch.zeros(0, 8, 8), (20, 30)) == []


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.integers(1, 12))
def test_scores_equal_the_plain_ones_and_the_best_need_no_more(seed, count, wanted):
    rng = np.random.default_rng(seed)
    masks = rng.random((count, 9, 11)) < rng.random((count, 1, 1))
    masks[:, 0, 0] = True
    features = rng.normal(size=(count, 5)).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    labels = rng.integers(0, 3, count)
    raw = rng.random(count).astype(np.float32)
    expected = raw * reference.soft_merge(list(masks), list(features), labels.tolist())

    rles = encode_masks(masks)
    inputs = [torch.from_numpy(a) for a in (raw, labels, features)]
    found = decayed_scores(*inputs, rle_shares(rles)).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-3)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merging, "ROWS_PER_STEP", 3)
        best = decayed_scores(*inputs, rle_shares(rles), wanted).numpy()
    np.testing.assert_allclose(
        np.sort(best)[::-1][:wanted], np.sort(found)[::-1][:wanted], atol=1e-7
    )


def test_rows_that_cannot_matter_are_not_asked_for(monkeypatch):
    monkeypatch.setattr(merging, "ROWS_PER_STEP", 2)
    asked = []

    def shares(rows, rivals):
        asked.extend(rows.tolist())
        return torch.zeros(len(rows), len(rivals))

    scores = torch.tensor([0.9, 0.8, 0.7, 0.3, 0.2, 0.1])
    features = torch.nn.functional.normalize(torch.ones(6, 3))
    decayed = decayed_scores(scores, torch.zeros(6, dtype=torch.int64), features, shares, wanted=2)
    assert set(asked) == {0, 1}
    assert decayed.tolist() == pytest.approx([0.9, 0.8, -1, -1, -1, -1])
