"""What verdicts on a sample say of all labels: precision, recall, and the score to promise from.

Pure arithmetic of counts, with the interval chosen by simulation (``benchmarks/review.py``):
Clopper and Pearson on an effective size, where smoothing enters the variance only. The normal
interval, the bootstrap and prediction-powered estimates cover less than they say near 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ntt_ray.intervals import Floats, Numbers, clopper_pearson, t_quantile

PROMISED = 0.95  # the precision that a score is promised for
CONFIDENCE_TAIL = 0.05  # how likely a promise may be broken
LEAST_VERDICTS, FEW, LEAST_OF_FEW = 93, 100, 59  # before the first look at a promise
_NORMAL = 1.96
_STEPS = 100
_MOST_EFFECTIVE = 1e5  # verdicts; of more the interval is a little wider than it must be


@dataclass(frozen=True, slots=True)
class Range:
    """A share with its 95 % interval; arrays where many samples were given.

    Attributes:
        share: the estimate.
        low: the lower end.
        high: the upper end.
        effective: how many verdicts of a plain sample would say as much; infinite for a census.
    """

    share: Floats
    low: Floats
    high: Floats
    effective: Floats


def precision_range(labels: Numbers, judged: Numbers, right: Numbers) -> Range:
    """The share of right labels, from a random sample of each stratum.

    Args:
        labels: how many labels each stratum has, ``(..., strata)``.
        judged: how many of these labels have a verdict, at least 1 in each stratum.
        right: how many of the verdicts say right; whole or not.
    """
    size, n, x = (np.asarray(value, np.float64) for value in (labels, judged, right))
    size, n, x = np.broadcast_arrays(size, n, x)
    total = size.sum(-1)
    weight, smooth = size / total[..., None], (x + 1) / (n + 2)
    share, shrunk = (weight * x / n).sum(-1), (weight * smooth).sum(-1)
    drawn = np.minimum(n / size, 1.0)
    variance = (weight**2 * (1 - drawn) * smooth * (1 - smooth) / n).sum(-1)
    census = variance <= 0
    effective = shrunk * (1 - shrunk) / np.where(census, 1.0, variance)
    effective = np.where(census, 1.0, np.minimum(effective, _MOST_EFFECTIVE))
    low, high = clopper_pearson(share * effective, effective)
    # whole labels only, and what was seen is certain
    least, most = x.sum(-1) / total, 1 - (n - x).sum(-1) / total
    low = np.clip(np.floor(low * total) / total, least, most)
    high = np.clip(np.ceil(high * total) / total, least, most)
    low, high = np.where(census, share, low), np.where(census, share, high)
    return Range(share, low, high, np.where(census, np.inf, effective))


def more_verdicts(labels: Numbers, judged: Numbers, right: Numbers, half_width: float) -> int:
    """How many more verdicts, spread as before, an interval of +- `half_width` is likely to need.

    Arguments as for `precision_range`, of one sample. All labels there are is the most it says.
    """
    size, n, x = (np.asarray(value, np.float64) for value in (labels, judged, right))
    smooth, factors = (x + 1) / (n + 2), np.geomspace(1.0, (size / n).max(), _STEPS)
    found = precision_range(size, n, x)
    if (found.high - found.low) / 2 <= half_width:
        return 0
    for _ in range(2):  # roughly, then between two steps
        many = np.minimum(n * factors[:, None], size)
        likely = precision_range(size, many, smooth * many)
        narrow = np.flatnonzero((likely.high - likely.low) / 2 <= half_width)
        first = int(narrow[0]) if len(narrow) else _STEPS - 1
        factors = np.linspace(factors[max(0, first - 1)], factors[first], _STEPS)
    return math.ceil(float(many[first].sum() - n.sum()))


def promised_depth(judged: Numbers, right: Numbers) -> npt.NDArray[np.int64]:
    """The last depth down to which the precision is 0.95 or more, with 95 % confidence.

    A fixed sequence of tests: it goes down from the first depth with enough verdicts, and ends at
    the first that fails. Depths must be fixed from scores before any verdict, and the verdicts must
    be a plain random sample; picking the best score by its estimate breaks 88 % of the promises.

    Args:
        judged: verdicts at each depth and above it, ``(..., depths)``; the last has all of them.
        right: how many of these verdicts say right.

    Returns:
        The position of the depth; -1 where nothing can be promised.
    """
    n, x = np.asarray(judged, np.int64), np.asarray(right, np.int64)
    every = n[..., -1:]
    least = np.where(every < FEW, LEAST_OF_FEW, np.maximum(LEAST_VERDICTS, -(-every // 3)))
    tested = n >= least
    low, _ = clopper_pearson(x, np.maximum(n, 1), CONFIDENCE_TAIL)
    failed = np.cumsum(tested & (low < PROMISED), axis=-1) > 0
    passed = tested & ~failed
    return np.asarray(np.where(passed.any(-1), passed.cumsum(-1).argmax(-1), -1))


def recall_range(found: Numbers, there: Numbers) -> Range:
    """The share of the objects that were found, from whole images drawn at random.

    Objects of an image are found or missed together, so images are what is counted.

    Args:
        found: right labels of each image, ``(..., images)``.
        there: objects of each image, found or not; one image or more must have some.
    """
    x, t = np.asarray(found, np.float64), np.asarray(there, np.float64)
    objects, filled = t.sum(-1), (t > 0).sum(-1)
    size = objects / filled
    # two images more, of the mean size, one found and one missed: no variance of 0
    everything = objects + 2 * size
    pooled = (x.sum(-1) + size) / everything
    squares = ((x - pooled[..., None] * t) ** 2).sum(-1)
    squares += (size * (1 - pooled)) ** 2 + (size * pooled) ** 2
    images = x.shape[-1] + 2
    variance = images / (images - 1) * squares / everything**2
    effective = np.minimum(pooled * (1 - pooled) / variance, objects)
    effective = effective * (_NORMAL / t_quantile(np.maximum(filled - 1, 1))) ** 2
    share = x.sum(-1) / objects
    low, high = clopper_pearson(share * effective, effective)
    return Range(share, low, high, effective)


def agreement(first: list[Any], second: list[Any]) -> tuple[float, float | None]:
    """The share of equal verdicts of two reviewers, and Cohen's kappa; None where one never varies.

    Args:
        first: verdicts of one reviewer.
        second: those of the other on the same labels.
    """
    count = len(first)
    equal = sum(a == b for a, b in zip(first, second, strict=True)) / count
    kinds = set(first) | set(second)
    chance = sum(first.count(k) * second.count(k) for k in kinds) / count**2
    return equal, None if chance == 1 else (equal - chance) / (1 - chance)
