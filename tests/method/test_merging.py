import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from ntt_ray.masks import encode_masks
from ntt_ray.method import merging
from ntt_ray.method.candidates import Candidates
from ntt_ray.method.labeler import Labeler
from ntt_ray.method.masks_at_size import RleMasks, StripMasks, full_size_rles
from ntt_ray.method.merging import decayed_at_once, decayed_scores
from ntt_ray.method.strips import PIXELS_PER_STEP
from ntt_ray.models.interfaces import Proposals
from tests import reference
from tests.support.fakes import BANK, FakeEncoder, FakeProposer, make_proposals
from tests.support.launches import Launches


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


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 40), st.integers(1, 4))
def test_all_at_once_are_the_scores_of_one_after_the_other(seed, count, classes):
    generator = torch.Generator().manual_seed(seed)
    rough = torch.randn(count, 1, 4, 4, generator=generator) - 0.3
    logits = F.interpolate(rough, size=(16, 16), mode="bilinear")[:, 0] if count else rough[:, 0]
    labels = torch.randint(0, classes, (count,), generator=generator)
    features = F.normalize(torch.randn(count, 5, generator=generator), dim=1)
    scores = torch.rand(count, generator=generator)
    masks = StripMasks.of(logits, (37, 23))
    filled = torch.nonzero(masks.areas > 0).squeeze(1)
    chosen = RleMasks(tuple(full_size_rles(logits[filled], (37, 23))))
    own = (scores[filled], labels[filled], features[filled])
    expected = decayed_scores(*own, chosen.shares)
    found = decayed_at_once(scores, labels, features, masks.all_shares())
    torch.testing.assert_close(found[filled], expected, atol=1e-6, rtol=0)


LIMITS = {(480, 640): 45, (3000, 4000): 2000}  # launches: of four strips, of some hundreds


@pytest.mark.parametrize("size_hw", LIMITS)
def test_a_device_is_asked_little_and_for_no_number(size_hw):
    """Tensors without content: where the host would wait for a number there would be an error."""
    count = 485
    proposer = FakeProposer(make_proposals(torch.ones(1, 8, 8) > 0, [0.9]))
    labeler = Labeler(FakeEncoder(), proposer, BANK)
    labeler.strips = True
    with torch.device("meta"):
        proposals = Proposals(
            torch.empty(count, 256, 256), torch.empty(count), torch.empty(count, dtype=torch.int64)
        )
        features, scores = torch.empty(count, 384), torch.empty(count)
        labels = torch.empty(count, dtype=torch.int64)
    candidates = Candidates(proposals, features, scores, labels)
    labeler.merge(candidates, size_hw, 100)  # what stays on the device is copied once
    with Launches() as asked:
        merged = labeler.merge(candidates, size_hw, 100)
    assert merged.scores.shape == (count,)
    assert sum(asked.operations.values()) < LIMITS[size_hw], asked.operations
    assert asked.largest <= 4 * PIXELS_PER_STEP


@pytest.mark.parametrize("strips", [False, True])
def test_a_mask_without_a_pixel_at_the_images_size_is_no_detection(strips):
    masks = torch.zeros(2, 32, 32, dtype=torch.bool)
    masks[0, 4:28, 4:28] = masks[1, 0, 0] = True
    labeler = Labeler(FakeEncoder(), FakeProposer(make_proposals(masks, [0.9, 0.8])), BANK)
    labeler.strips = strips
    (large,) = labeler.label([np.zeros((64, 64, 3), np.uint8)])
    (small,) = labeler.label([np.zeros((3, 3, 3), np.uint8)])
    assert (len(large), len(small)) == (2, 1)
    assert small[0].area > 0
