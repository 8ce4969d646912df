"""How a sample is divided: score bands, classes, and how many labels are drawn from each stratum.

Pure arithmetic of scores and counts. Which labels are drawn depends on the seed and the stratum
alone, and a larger sample holds the smaller one of the same seed: nobody looks at a label twice.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

BANDS = 5  # of scores, with about as many labels each
DEPTHS = 20
LABELS_PER_STRATUM = 10  # fewer for each, and more strata would widen the interval
LEAST_PRIOR, MOST_PRIOR = 0.1, 0.9  # beyond them a wrong prior costs more than a right one gains

Scores = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


def band_edges(scores: Scores) -> Scores:
    """The lowest score of each band, rising; fewer than `BANDS` where many scores are equal."""
    ordered = np.sort(scores)
    starts = [len(ordered) * band // BANDS for band in range(BANDS)]
    return np.unique(ordered[starts]) if len(ordered) else ordered


def bands_of(scores: Scores, edges: Scores) -> Ints:
    """The band of each score, from 0."""
    found: Ints = np.searchsorted(edges, scores, side="right").astype(np.int64) - 1
    return found


def depths_of(scores: Scores) -> list[tuple[float, int]]:
    """Scores of about equal steps from the highest down, and how many labels reach each.

    Equal scores are never divided, so there may be fewer steps than `DEPTHS`.
    """
    ordered = np.sort(scores)[::-1]
    ends = [math.ceil(len(ordered) * step / DEPTHS) - 1 for step in range(1, DEPTHS + 1)]
    cuts = sorted({float(ordered[end]) for end in ends if end >= 0}, reverse=True)
    return [(cut, int(np.count_nonzero(scores >= np.float32(cut)))) for cut in cuts]


def apportioned(total: int, weights: Sequence[float], sizes: Sequence[int]) -> list[int]:
    """How many are drawn from each stratum: one first, then always where the share is least.

    Adams' method: the least share of a stratum is as large as can be, so that a large part of a
    proportional sample is a plain one; and with a larger total no stratum gets fewer.

    Args:
        total: how many are drawn in all; all there are where it is more.
        weights: how many each stratum should have, in any unit.
        sizes: how many it has.
    """
    drawn = [0] * len(sizes)
    queue = [(0.0, -weight, k) for k, weight in enumerate(weights) if sizes[k]]
    heapq.heapify(queue)
    for _ in range(min(total, sum(sizes))):
        _, weight, k = heapq.heappop(queue)
        drawn[k] += 1
        if drawn[k] < sizes[k]:
            heapq.heappush(queue, (drawn[k] / -weight, weight, k))
    return drawn


def neyman_weight(size: int, prior: float | None) -> float:
    """How many labels of a stratum are worth looking at, by what is thought of its precision.

    Args:
        size: how many labels it has.
        prior: the precision that is expected; None where nothing is known.
    """
    share = 0.5 if prior is None else min(max(prior, LEAST_PRIOR), MOST_PRIOR)
    return size * math.sqrt(share * (1 - share))


def plain_counts(drawn: Sequence[int], sizes: Sequence[int], seed: int) -> list[int]:
    """How many of those drawn from each stratum make a plain random sample of all together.

    Each stratum gives the share of the one that was drawn from least; what is not a whole number is
    rounded up or down by chance, so that every label is as likely as any other.
    """
    shares = [n / size for n, size in zip(drawn, sizes, strict=True) if size]
    share, chance = min(shares, default=0.0), np.random.default_rng([seed, 1])
    wanted = np.asarray(sizes, np.float64) * share
    up = chance.random(len(wanted)) < wanted - np.floor(wanted)
    return [min(n, int(m)) for n, m in zip(drawn, np.floor(wanted) + up, strict=True)]


def drawn_from(members: Ints, count: int, seed: int, stratum: int) -> Ints:
    """The first `count` of the members of a stratum in a random order of the seed."""
    order = np.random.default_rng([seed, 2, stratum]).permutation(len(members))
    found: Ints = members[order[:count]]
    return found


def drawn_images(images: int, count: int, seed: int) -> Ints:
    """Positions of `count` of so many images, in a random order of the seed."""
    found: Any = np.random.default_rng([seed, 4]).permutation(images)[:count]
    return np.asarray(found, np.int64)


def shuffled(count: int, seed: int) -> Ints:
    """The order in which labels are shown: what was seen when somebody stops is a sample, too."""
    return np.asarray(np.random.default_rng([seed, 3]).permutation(count), np.int64)
