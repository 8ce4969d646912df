"""K-means of a few directions: which of a class's references look alike.

Small inputs (references of a class, patches of a crop), on the CPU in float64; the same input and
seed give the same clusters on any machine. It does not know what the points are.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

RESTARTS = 8  # the tightest clustering of so many counts
STEPS = 50


def cluster_directions(points: Tensor, count: int, seed: int) -> Tensor:
    """Assign points to at most `count` clusters by direction (k-means of vectors of length 1).

    Starts are sampled as in k-means++; of all restarts the one with the least sum of squared
    distances is taken. Equal points are never divided, so there may be fewer clusters.

    Args:
        points: ``(n, C)``, at least one; their length plays no part.
        count: number of clusters wanted, at least 1.
        seed: seed of the random starts.

    Returns:
        ``(n,)`` int64, the cluster of each point; clusters are numbered by their first point.
    """
    directions = F.normalize(points.detach().cpu().double(), dim=1)
    count = min(count, len(points))
    if count == 1:
        return torch.zeros(len(points), dtype=torch.int64)
    generator = torch.Generator().manual_seed(seed)
    centres = torch.stack([_spread_starts(directions, count, generator) for _ in range(RESTARTS)])
    distances = _squared_distances(directions, centres)
    owner = distances.argmin(dim=2)
    for _ in range(STEPS):
        centres = _means(directions, owner, centres)
        distances = _squared_distances(directions, centres)
        before, owner = owner, distances.argmin(dim=2)
        if torch.equal(before, owner):
            break
    tightest = distances.amin(dim=2).sum(dim=1).argmin()
    return _numbered_by_first(owner[tightest])


def _spread_starts(directions: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Points sampled far from those sampled before: ``(count, C)``."""
    first = int(torch.randint(len(directions), (1,), generator=generator))
    chosen = [first]
    nearest = (directions - directions[first]).square().sum(dim=1)
    while len(chosen) < count:
        drawn = torch.rand((), generator=generator, dtype=torch.float64) * nearest.sum()
        chosen.append(min(int((nearest.cumsum(0) < drawn).sum()), len(directions) - 1))
        added = (directions - directions[chosen[-1]]).square().sum(dim=1)
        nearest = torch.minimum(nearest, added)
    return directions[chosen]


def _squared_distances(directions: Tensor, centres: Tensor) -> Tensor:
    """Squared distances of n points to the centres ``(R, k, C)`` of R restarts: ``(R, n, k)``."""
    products = torch.einsum("nc,rkc->rnk", directions, centres)
    squares = centres.square().sum(dim=2)[:, None]
    return (1 + squares - 2 * products).clamp(min=0)


def _means(directions: Tensor, owner: Tensor, before: Tensor) -> Tensor:
    """Means of each cluster ``(R, k, C)``; a cluster without a point stays where it was."""
    member = F.one_hot(owner, before.shape[1]).double()
    counts = member.sum(dim=1)[..., None]
    sums = torch.einsum("rnk,nc->rkc", member, directions)
    return torch.where(counts > 0, sums / counts.clamp(min=1), before)


def _numbered_by_first(owner: Tensor) -> Tensor:
    numbers: dict[int, int] = {}
    return torch.tensor([numbers.setdefault(k, len(numbers)) for k in owner.tolist()])
