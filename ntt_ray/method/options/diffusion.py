"""Graph diffusion of scores over the proposals of an image, in the place of soft merging.

As in FSOD-VFM (arXiv 2602.03137): proposals of a class are the nodes of a graph, an edge leads from
each to the better ones that it lies in. A walk on it says how much of a proposal is said by better
ones, and its score falls by that. Soft merging looks at the one best edge; here what holds for a
proposal that covers another one holds, weakened, for what lies in that one.

The published text divides each row of the graph by its sum; the published code means to and does
not, so that its walk adds up. ``released`` is what that code computes. ``normalised`` divides, and
weighs edges by the likeness of features as soft merging does.

Positions are in NMS order: earlier is better.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ntt_ray.method.masks_at_size import Shares
from ntt_ray.method.portable import length, power, product, row_sum
from ntt_ray.settings import DiffusionSettings

UNMOVED = 1e-6  # of the norm of all shares: a walk that moves less has ended


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
            affinity = shares(own, own).to(features.dtype)
            if normalised := settings.form == "normalised":
                affinity = affinity * (features[own] @ features[own].T).clamp(min=0)
            steps = settings.steps
            covered = covered_shares(affinity.tril(-1), settings.alpha, steps, normalised)
            decayed[own] = scores[own] * power(1 - covered, settings.power)
    return decayed


def covered_shares(affinity: Tensor, alpha: float, steps: int, normalised: bool = False) -> Tensor:
    """How much of each node the better ones say, by a walk with restart.

    ``p <- alpha * W p + (1 - alpha) * r`` with W the affinity and the restart r the largest of each
    row, until p moves by less than 1e-6 in all.

    Args:
        affinity: ``(n, n)`` in [0, 1], ``[i, j]`` is the weight of the edge from node i to a
            better node j; 0 elsewhere.
        alpha: weight of the walk; 0 leaves the restart alone.
        steps: how often the walk is repeated at most; it starts at 1 / n for each node.
        normalised: whether each row of W is divided by its sum.

    Returns:
        ``(n,)`` in [0, 1], how much of each node is covered.
    """
    restart = affinity.amax(dim=1)
    walk = affinity
    if normalised:
        sums = row_sum(affinity, 1)[:, None]
        walk = torch.where(sums > 0, affinity / sums.clamp(min=torch.finfo(sums.dtype).tiny), 0)
    covered = torch.full_like(restart, 1 / len(affinity))
    for _ in range(steps):
        before, covered = covered, alpha * product(walk, covered) + (1 - alpha) * restart
        if length(covered - before) < UNMOVED:
            break
    return covered.clamp(0, 1)
