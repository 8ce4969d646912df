import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ntt_ray.method import suppression
from ntt_ray.method.suppression import (
    inclusive_boxes,
    nms_at_once,
    nms_order,
    ranking,
    soft_merge_decay,
)
from tests import reference
from tests.support.launches import Launches


def test_boxes_include_their_far_corner():
    masks = torch.zeros(5, 6, 8, dtype=torch.bool)
    masks[0, 2, 3] = True
    masks[1, 1:4, 2:7] = True
    masks[2, 0, 0] = masks[2, 5, 7] = True
    masks[4, 0, 0] = True
    assert inclusive_boxes(masks).tolist() == [
        [3, 2, 3, 2],
        [2, 1, 6, 3],
        [0, 0, 7, 5],
        [0, 0, 0, 0],
        [0, 0, 0, 0],
    ]
    for mask, box in zip(masks, inclusive_boxes(masks).tolist()):
        assert reference.inclusive_box(mask.numpy()) == box


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 40), st.sampled_from([0.0, 0.25, 0.5, 1.0]))
def test_nms_equals_the_plain_one(seed, count, threshold):
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, 12, (count, 2))
    boxes = np.concatenate([corners, corners + rng.integers(0, 8, (count, 2))], axis=1)
    scores = rng.integers(0, 5, count) / 4  # many ties
    labels = rng.integers(0, 3, count)
    kept = nms_order(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(scores, dtype=torch.float32),
        torch.tensor(labels),
        threshold,
    )
    expected = reference.nms(boxes.tolist(), scores.tolist(), labels.tolist(), threshold)
    assert kept.tolist() == expected


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(0, 40),
    st.sampled_from([0.0, 0.25, 0.5, 1.0, None]),
    st.integers(1, 12),
)
def test_nms_at_once_is_nms_then_the_cut_then_those_wanted(seed, count, threshold, limit):
    generator = torch.Generator().manual_seed(seed)
    corners = torch.randint(0, 12, (count, 2), generator=generator)
    sides = torch.randint(0, 8, (count, 2), generator=generator)
    boxes = torch.cat((corners, corners + sides), dim=1).float()
    iou = torch.randint(0, 5, (count,), generator=generator) / 4  # many ties
    labels = torch.randint(0, 3, (count,), generator=generator)
    wanted = torch.rand(count, generator=generator) < 0.7
    expected = nms_order(boxes, iou, labels, threshold)[:limit]
    found = nms_at_once(boxes, iou, labels, threshold, limit, wanted)
    assert found.tolist() == expected[wanted[expected]].tolist()


def test_a_chain_of_boxes_longer_than_the_rounds_is_followed_to_its_end(monkeypatch):
    """Each box overlaps the next one only: every second one is kept."""
    asked = []
    tolist = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda t: asked.append(t) or tolist(t))
    left = torch.arange(100.0)
    boxes = torch.stack((2 * left, left * 0, 2 * left + 3, left * 0 + 4), dim=1)
    falling, zeros = 1 - left / 100, torch.zeros(100, dtype=torch.int64)
    found = nms_at_once(boxes, falling, zeros, 0.15, 1000, falling > 0)
    assert len(asked) > 100 / suppression._ROUNDS
    assert tolist(found) == tolist(nms_order(boxes, falling, zeros, 0.15)) == list(range(0, 100, 2))


def test_nms_at_once_asks_the_device_for_one_number():
    empty = torch.empty(1024, device="meta")
    with pytest.raises(NotImplementedError, match="meta"), Launches() as launches:
        nms_at_once(empty[:, None].expand(-1, 4), empty, empty.long(), 0.5, 800, empty > 0)
    assert launches.operations["stack"] == 1  # all but the choice was done before it asked
    assert sum(launches.operations.values()) < 80


def test_without_nms_every_box_stays_in_the_order_of_predicted_iou():
    boxes = torch.tensor([[0.0, 0, 9, 9]]).expand(4, -1)
    iou, labels = torch.tensor([0.5, 0.9, 0.7, 0.9]), torch.zeros(4, dtype=torch.int64)
    assert nms_order(boxes, iou, labels, None).tolist() == [1, 3, 2, 0]
    assert nms_order(boxes, iou, labels, 1.0).tolist() == [1, 3, 2, 0]
    wanted = torch.tensor([True, True, True, False])
    assert nms_at_once(boxes, iou, labels, None, 3, wanted).tolist() == [1, 2]


def test_iou_of_exactly_the_threshold_stays():
    boxes = torch.tensor([[0.0, 0, 2, 1], [0.0, 0, 1, 1]])
    kept = nms_order(boxes, torch.tensor([0.9, 0.8]), torch.tensor([0, 0]), 0.5)
    assert kept.tolist() == [0, 1]


def test_similarity_above_one_by_rounding_gives_no_nan():
    feature = torch.tensor([[1.0000001, 0.0]])
    decay = soft_merge_decay(torch.ones(1, 1), feature, feature, torch.ones(1, 1) > 0)
    assert decay.tolist() == [0.0]


def test_rivals_that_do_not_count_decay_nothing():
    feature = torch.tensor([[1.0, 0.0]])
    decay = soft_merge_decay(torch.ones(1, 1), feature, feature, torch.ones(1, 1) < 0)
    assert decay.tolist() == [1.0]


@pytest.mark.parametrize(
    ("scores", "points", "expected"),
    [([], [], []), ([0.1, 0.9, 0.5], [0, 1, 2], [1, 2]), ([0.5, 0.5, 0.5], [9, 2, 4], [1, 2])],
    ids=["none", "falling", "ties by point"],
)
def test_ranking(scores, points, expected):
    ranked = ranking(torch.tensor(scores), torch.tensor(points, dtype=torch.int64), 2)
    assert ranked.tolist() == expected
