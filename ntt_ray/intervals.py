"""Exact intervals of shares (Clopper and Pearson), Student's t, and what both are made of.

All functions take numbers or arrays, element by element; the incomplete beta function is its
continued fraction (Lentz), and a quantile is found by Newton's method, or by halving where that
leads astray. Counts need not be whole numbers: a weighted sample is as good as a plain one of a
size between two. It does not know what is counted.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

TAIL = 0.025  # of a 95 % interval, at each end
_MOST_STEPS = 50
_MAX_TERMS = 2000
_EXACT, _CLOSE = 1e-13, 1e-12
_TINY = 1e-300
_NOTHING = 1e-9  # of a count: what is left of nothing after sums of fractions

Floats = npt.NDArray[np.float64]
Numbers = npt.ArrayLike
_lgamma = np.vectorize(math.lgamma, otypes=[np.float64])


def clopper_pearson(hits: Numbers, count: Numbers, tail: float = TAIL) -> tuple[Floats, Floats]:
    """The least and the greatest share that so many hits among so many are still likely for.

    Args:
        hits: how many are right, from 0 to `count`; whole or not.
        count: how many there are, above 0.
        tail: how likely each end is to be wrong; 0.025 for a 95 % interval.
    """
    x, n = np.broadcast_arrays(np.asarray(hits, np.float64), np.asarray(count, np.float64))
    none, every = x <= _NOTHING, n - x <= _NOTHING
    low = beta_quantile(tail, np.where(none, 1.0, x), n - np.where(none, 1.0, x) + 1)
    high = beta_quantile(1 - tail, x + 1, np.where(every, 1.0, n - x))
    return np.where(none, 0.0, low), np.where(every, 1.0, high)


def share_range(hits: int, count: int, unclear: int = 0) -> tuple[float, float]:
    """The 95 % interval of a share: of 5 hits in 5 it says 0.48 to 1.

    Args:
        hits: how many are right for certain.
        count: how many there are, the unclear ones included; at least 1.
        unclear: how many may be right; the interval holds for all of them and for none.
    """
    low, _ = clopper_pearson(hits, count)
    _, high = clopper_pearson(hits + unclear, count)
    return float(low), float(high)


def beta_quantile(chance: Numbers, a: Numbers, b: Numbers) -> Floats:
    """The value that a beta variable of the parameters `a` and `b` stays below with a chance."""
    chances, a, b = (np.asarray(value, np.float64) for value in (chance, a, b))
    chances, a, b = np.broadcast_arrays(chances, np.maximum(a, _TINY), np.maximum(b, _TINY))
    low, high, x = np.zeros(chances.shape), np.ones(chances.shape), np.asarray(a / (a + b))
    scale = _lgamma(a + b) - _lgamma(a) - _lgamma(b)
    for _ in range(_MOST_STEPS):
        x = np.clip(x, _TINY, 1 - _CLOSE)
        above = _beta_cdf(x, a, b, scale) - chances
        low, high = np.where(above < 0, x, low), np.where(above < 0, high, x)
        density = np.exp(scale + (a - 1) * np.log(x) + (b - 1) * np.log1p(-x))
        newton = x - above / _not_zero(density)
        inside = (newton > low) & (newton < high)
        before, x = x, np.where(inside, newton, (low + high) / 2)
        if np.all(np.abs(x - before) <= _CLOSE):
            break
    return np.asarray(x)


def t_quantile(freedom: Numbers, tail: float = TAIL) -> Floats:
    """The t that is passed with a chance of `tail`, by degrees of freedom (Student).

    Without another `tail` it is how many standard errors an interval of 95 % reaches.
    """
    degrees = np.asarray(freedom, np.float64)
    share = beta_quantile(2 * tail, degrees / 2, 0.5)
    return np.asarray(np.sqrt(degrees * (1 - share) / share))


def t_tail(t: Numbers, freedom: Numbers) -> Floats:
    """The chance of more than t > 0, by degrees of freedom (Student)."""
    t, degrees = np.broadcast_arrays(np.asarray(t, np.float64), np.asarray(freedom, np.float64))
    a, b = degrees / 2, np.full(t.shape, 0.5)
    scale = _lgamma(a + b) - _lgamma(a) - _lgamma(b)
    return _beta_cdf(degrees / (degrees + t * t), a, b, scale) / 2


def _beta_cdf(x: Floats, a: Any, b: Any, scale: Floats) -> Floats:
    """The regularised incomplete beta function at `x` in (0, 1); `scale` is -log B(a, b)."""
    front = np.exp(scale + a * np.log(x) + b * np.log1p(-x))
    turned = x > (a + 1) / (a + b + 2)  # where the fraction converges fast from the other side
    y, p, q = np.where(turned, 1 - x, x), np.where(turned, b, a), np.where(turned, a, b)
    part = front * _fraction(y, p, q) / p
    return np.asarray(np.where(turned, 1 - part, part))


def _fraction(x: Floats, a: Floats, b: Floats) -> Floats:
    """The continued fraction of the incomplete beta function."""
    c, d = np.ones(x.shape), 1 / _not_zero(1 - (a + b) * x / (a + 1))
    value = d.copy()
    for m in range(1, _MAX_TERMS):
        even = m * (b - m) * x / ((a - 1 + 2 * m) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 1 + 2 * m))
        for term in (even, odd):
            d, c = 1 / _not_zero(1 + term * d), _not_zero(1 + term / c)
            value *= d * c
        if np.all(np.abs(d * c - 1) < _EXACT):
            break
    return value


def _not_zero(value: Floats) -> Floats:
    return np.where(np.abs(value) < _TINY, _TINY, value)
