import numpy as np
import pytest

from ntt_ray.review.strata import (
    apportioned,
    band_edges,
    bands_of,
    depths_of,
    drawn_from,
    neyman_weight,
    plain_counts,
)

SCORES = np.linspace(0.4, 1.0, 1000).astype(np.float32)


def test_bands_have_equal_counts():
    assert np.bincount(bands_of(SCORES, band_edges(SCORES))).tolist() == [200] * 5


def test_equal_scores_are_one_band():
    same = np.full(50, 0.7, np.float32)
    assert len(band_edges(same)) == 1
    assert set(bands_of(same, band_edges(same)).tolist()) == {0}


def test_depths_have_equal_counts_and_end_with_all():
    depths = depths_of(SCORES)
    assert [count for _, count in depths] == list(range(50, 1001, 50))
    assert depths[-1][0] == pytest.approx(0.4)
    assert depths_of(np.full(7, 0.5, np.float32)) == [(0.5, 7)]


def test_a_proportional_draw_gives_each_stratum_its_share():
    assert apportioned(100, [6000, 3000, 1000], [6000, 3000, 1000]) == [60, 30, 10]
    assert apportioned(5, [9000, 10, 1], [9000, 10, 1]) == [3, 1, 1]
    assert apportioned(50, [9000, 10, 1], [9000, 10, 1])[2] == 1  # never more than there are
    assert apportioned(99, [4, 3], [4, 3]) == [4, 3]


def test_a_larger_draw_holds_the_smaller_one():
    sizes = [700, 41, 333, 8, 2]
    before = [0] * len(sizes)
    for total in range(1, 300):
        now = apportioned(total, sizes, sizes)
        assert sum(now) == total
        assert all(a <= b for a, b in zip(before, now, strict=True))
        before = now
    members = np.arange(1000)
    assert drawn_from(members, 20, 5, 3)[:7].tolist() == drawn_from(members, 7, 5, 3).tolist()


def test_strata_of_middle_precision_are_worth_more_and_priors_are_not_believed():
    assert neyman_weight(100, 0.5) == 50.0
    assert neyman_weight(100, 0.999) == neyman_weight(100, 0.9) == pytest.approx(30.0)
    assert neyman_weight(100, None) == 50.0


def test_the_plain_part_has_the_same_share_of_every_stratum():
    drawn, sizes = [80, 20, 20], [4000, 4000, 400]
    counts = np.array([plain_counts(drawn, sizes, seed) for seed in range(400)])
    assert (counts <= drawn).all()
    assert counts.mean(axis=0) == pytest.approx([20, 20, 2], abs=0.1)
    odd = np.array([plain_counts([1, 5], [10, 25], seed) for seed in range(400)])
    assert odd.mean(axis=0) == pytest.approx([1.0, 2.5], abs=0.1)
