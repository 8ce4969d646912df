import numpy as np
import pytest

from ntt_ray.review.estimates import (
    agreement,
    more_verdicts,
    precision_range,
    promised_depth,
    recall_range,
)


def test_the_exact_vector():
    found = precision_range([4000] * 5, [20] * 5, [6, 14, 18, 19, 20])
    assert float(found.share) == pytest.approx(0.77)
    assert float(found.effective) == pytest.approx(140.70, abs=0.005)
    assert (float(found.low), float(found.high)) == pytest.approx((0.69155, 0.83670), abs=5e-6)


def test_a_census_is_certain():
    found = precision_range([10, 10], [10, 10], [7, 10])
    assert (found.low, found.share, found.high) == pytest.approx((0.85, 0.85, 0.85))


def test_what_was_seen_is_certain():
    found = precision_range([10, 10], [9, 10], [0, 10])
    assert float(found.low) == pytest.approx(0.5)  # ten right ones of twenty were seen
    assert float(found.high) <= 11 / 20


@pytest.mark.parametrize(("right", "end"), [([20, 20], "high"), ([0, 0], "low")])
def test_all_alike_reach_the_end(right, end):
    found = precision_range([500, 500], [20, 20], right)
    assert float(getattr(found, end)) == (1.0 if end == "high" else 0.0)
    assert 0 < float(found.high - found.low) < 0.2


def test_strata_are_weighted_by_their_labels():
    found = precision_range([9000, 1000], [50, 50], [50, 0])
    assert float(found.share) == pytest.approx(0.9)


def test_more_verdicts_reach_the_width():
    labels, judged, right = np.array([4000] * 5), np.array([20] * 5), np.array([6, 14, 18, 19, 20])
    more = more_verdicts(labels, judged, right, 0.03)
    for factor, wide in ((1 + more / 100, False), (1 + 0.9 * more / 100, True)):
        shares = (right + 1) / (judged + 2)
        found = precision_range(labels, judged * factor, shares * judged * factor)
        assert (float(found.high - found.low) / 2 > 0.03) is wide
    assert more_verdicts(labels, judged, right, 0.2) == 0


def test_more_verdicts_are_at_most_all_labels():
    assert more_verdicts([50, 50], [10, 10], [9, 5], 1e-6) == 80


# wrong verdicts -> how many must lie above a score before it is promised
NEEDED = {0: 59, 1: 93, 2: 124, 3: 153, 4: 181}


@pytest.mark.parametrize("wrong", NEEDED)
def test_passing_a_promise(wrong):
    count = NEEDED[wrong]
    total = 99 if count < 93 else min(3 * count, 279)
    for n, expected in ((count, 0), (count - 1, -1)):
        judged = np.array([n, max(n, total)])
        assert promised_depth(judged, judged - [wrong, max(n, total) - n + wrong]) == expected


def test_a_promise_ends_at_the_first_depth_that_fails():
    judged = np.array([50, 100, 150, 200, 400])
    right = np.array([50, 100, 140, 200, 400])  # the deeper ones cannot be reached
    assert promised_depth(judged, right) == -1  # 400 verdicts: the first look is at 134 of them
    assert promised_depth(judged[:2], right[:2]) == 1


def test_promises_of_many_samples_at_once():
    judged = np.array([[60, 90], [60, 90]])
    right = np.array([[60, 90], [55, 80]])
    assert promised_depth(judged, right).tolist() == [1, -1]


def test_recall_needs_no_variance_of_nothing():
    found = recall_range([3] * 30, [3] * 30)
    assert (float(found.share), float(found.high)) == (1.0, 1.0)
    assert 0.8 < float(found.low) < 1


def test_images_without_objects_change_nothing_of_the_recall():
    some, more = (
        recall_range([1, 2, 0] * 10, [2, 2, 1] * 10),
        recall_range([1, 2, 0] * 10 + [0] * 30, [2, 2, 1] * 10 + [0] * 30),
    )
    assert some.share == more.share == pytest.approx(0.6)
    assert float(some.low) == pytest.approx(float(more.low), abs=0.01)


def test_agreement_beyond_chance():
    assert agreement(["a", "b", "a", "b"], ["a", "b", "b", "b"]) == (0.75, pytest.approx(0.5))
    assert agreement(["a", "a"], ["a", "a"]) == (1.0, None)
