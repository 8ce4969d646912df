import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ntt_ray.masks import encode_masks
from ntt_ray.method import merging
from ntt_ray.method.masks_at_size import RleMasks
from ntt_ray.method.merging import decayed_scores
from tests import reference


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

    shares = RleMasks(tuple(encode_masks(masks))).shares
    inputs = [torch.from_numpy(a) for a in (raw, labels, features)]
    found = decayed_scores(*inputs, shares).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-3)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merging, "ROWS_PER_STEP", 3)
        best = decayed_scores(*inputs, shares, wanted).numpy()
    np.testing.assert_allclose(
        np.sort(best)[::-1][:wanted], np.sort(found)[::-1][:wanted], atol=1e-7
    )


def test_a_row_that_ties_with_the_worst_that_is_kept_is_worked_out(monkeypatch):
    """Of equal scores the ranking takes the lower index, which may be of the later row."""
    monkeypatch.setattr(merging, "ROWS_PER_STEP", 2)
    features = torch.nn.functional.normalize(torch.ones(4, 3))
    decayed = decayed_scores(
        torch.tensor([0.9, 0.8, 0.8, 0.1]),
        torch.zeros(4, dtype=torch.int64),
        features,
        lambda rows, rivals: torch.zeros(len(rows), len(rivals)),
        wanted=2,
    )
    assert decayed.tolist() == pytest.approx([0.9, 0.8, 0.8, 0.1])


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
