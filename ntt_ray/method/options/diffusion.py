"""Graph diffusion of scores over the proposals of an image, in the place of soft merging.

As in FSOD-VFM (arXiv 2602.03137): proposals of a class are the nodes of a graph, an edge leads from
each to the better ones that it lies in. A walk on it says how much of a proposal is said by better
ones, and its score falls by that. Soft merging looks at the one best edge; here what holds for a
proposal that covers another one holds, weakened, for what lies in that one.

Positions are in NMS order: earlier is better.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ntt_ray.method.masks_at_size import Shares
from ntt_ray.settings import DiffusionSettings


def diffused_scores(
    scores: Tensor, labels: Tensor, features: Tensor, shares: Shares, settings: DiffusionSettings
) -> Tensor:
    """Scores after graph diffusion: ``score * (1 - covered) ** power``.

    Args:
        scores: ``(M,)`` float32, in NMS order like everything here.
        labels: ``(M,)`` int64 class indices.
        features: ``(M, C)`` float32 of length 1.
        shares: overlaps of the masks; asked for one class at a time.
        settings: alpha, power and steps of the diffusion.

    Returns:
        ``(M,)`` float32, the scores after diffusion.
    """
    decayed = scores.clone()
    for label in sorted(set(labels.tolist())):
        own = torch.nonzero(labels == label).squeeze(1)
        if len(own) > 1:
            affinity = shares(own, own) * (features[own] @ features[own].T).clamp(min=0)
            covered = covered_shares(affinity.tril(-1), settings.alpha, settings.steps)
            decayed[own] = scores[own] * (1 - covered) ** settings.power
    return decayed


def covered_shares(affinity: Tensor, alpha: float, steps: int) -> Tensor:
    """How much of each node the better ones say, by a random walk with restart.

    ``p <- alpha * W p + (1 - alpha) * r`` with W the affinity, each row divided by its sum, and the
    restart r the largest affinity of each row.

    Args:
        affinity: ``(n, n)`` in [0, 1], ``[i, j]`` is the weight of the edge from node i to a
            better node j; 0 elsewhere.
        alpha: weight of the walk; 0 leaves the restart alone.
        steps: how often the walk is repeated; it starts at 1 / n for each node.

    Returns:
        ``(n,)`` in [0, 1], how much of each node is covered.
    """
    restart = affinity.amax(dim=1)
    sums = affinity.sum(dim=1, keepdim=True)
    walk = torch.where(sums > 0, affinity / sums.clamp(min=torch.finfo(sums.dtype).tiny), 0)
    covered = torch.full_like(restart, 1 / len(affinity))
    for _ in range(steps):
        covered = alpha * (walk @ covered) + (1 - alpha) * restart
    return covered.clamp(0, 1)
