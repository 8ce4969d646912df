import math

import numpy as np
import pytest

from ntt_ray.intervals import beta_quantile, clopper_pearson, share_range, t_quantile, t_tail

# hits, count -> ends of the 95 % interval, as textbooks print them
PRINTED = {
    (0, 10): (0.0, 0.3085),
    (1, 10): (0.0025, 0.4450),
    (5, 10): (0.1871, 0.8129),
    (10, 10): (0.6915, 1.0),
    (95, 100): (0.8872, 0.9836),
    (990, 1000): (0.9817, 0.9952),
}


@pytest.mark.parametrize("case", PRINTED, ids=str)
def test_clopper_and_pearson(case):
    found = clopper_pearson(*case)
    assert [float(end) for end in found] == pytest.approx(PRINTED[case], abs=5e-5)


def test_unclear_ones_widen_both_ends():
    assert share_range(9, 10, 1) == (share_range(9, 10)[0], share_range(10, 10)[1])


def test_a_quantile_is_the_inverse_of_binomial_tails():
    """With whole parameters the incomplete beta function is a sum of binomial chances."""
    n, x, share = 40, 31, float(beta_quantile(0.025, 31, 10))
    ways = np.array(
        [np.prod(np.arange(n - k + 1, n + 1) / np.arange(1, k + 1)) for k in range(n + 1)]
    )
    seen = np.arange(x, n + 1)
    chance = (ways[seen] * share**seen * (1 - share) ** (n - seen)).sum()
    assert chance == pytest.approx(0.025, rel=1e-9)


def test_arrays_are_as_numbers_one_by_one():
    hits, count = np.array([0.0, 3.5, 20.0, 500.0]), np.array([20.0, 7.0, 20.0, 900.0])
    low, high = clopper_pearson(hits, count)
    for k in range(4):
        one = clopper_pearson(hits[k], count[k])
        assert (float(one[0]), float(one[1])) == pytest.approx((low[k], high[k]), abs=1e-12)


def test_student():
    printed = {1: 12.7062, 5: 2.5706, 30: 2.0423, 1000: 1.9623}
    assert t_quantile(list(printed)).tolist() == pytest.approx(list(printed.values()), abs=5e-5)


@pytest.mark.parametrize(
    ("t", "degrees", "chance"),
    [  # tables of Student's t
        (6.313752, 1, 0.05),
        (12.706205, 1, 0.025),
        (4.302653, 2, 0.025),
        (3.182446, 3, 0.025),
        (2.262157, 9, 0.025),
        (2.228139, 10, 0.025),
        (1.962339, 1000, 0.025),
        (4.297, 9, 0.001),
        (4.143700, 10, 0.001),
    ],
)
def test_the_tail_of_students_t(t, degrees, chance):
    assert t_tail(t, degrees) == pytest.approx(chance, rel=1e-3)
    assert t_quantile(degrees, chance) == pytest.approx(t, rel=1e-3)


def test_the_tail_is_exact_where_chances_are_small():
    """Against the density, integrated; runs of 400,000 units ask for chances like these."""
    degrees, t = 12, 12.0
    x = np.linspace(t, 4000.0, 2_000_001)
    ln = math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)
    density = np.exp(ln) / math.sqrt(degrees * math.pi) * (1 + x * x / degrees) ** (-6.5)
    assert t_tail(t, degrees) == pytest.approx(float(np.trapezoid(density, x)), rel=1e-4)
