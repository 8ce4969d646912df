"""Similarity of pooled features to prototypes and negatives, and the class of each mask."""

from __future__ import annotations

import torch
from torch import Tensor

from ntt_ray.method.portable import exponential, row_sum, soft_max

NEGATIVE_SIGMA = 0.8  # METHOD 47


def similarities(
    features: Tensor,
    prototypes: Tensor,
    negatives: Tensor | None = None,
    temperature: float | None = None,
) -> Tensor:
    """Cosine similarity, negative values cut to 0 (METHOD 28), lowered by negatives (METHOD 47).

    A mask that is nearer to a negative reference of a class than to the class itself loses
    similarity to it: ``positive * exp(-max(0, negative - positive) / 0.8)``.

    Args:
        features: ``(N, C)`` float32 of length 1.
        prototypes: ``(K, C)`` float32 of length 1, one per class; or ``(K, P, C)``, several, zero
            where a class has fewer than P.
        negatives: ``(K, M, C)`` float32 of length 1, or zero where a class has fewer than M.
        temperature: how several prototypes of a class count. None takes the best one; else their
            similarities are averaged under soft-max weights of similarity divided by this.

    Returns:
        ``(N, K)`` float32 in [0, 1], up to rounding.
    """
    if prototypes.ndim == 2:
        positive = (features @ prototypes.T).clamp(min=0)
    else:
        positive = _to_several(features, prototypes, temperature).clamp(min=0)
    if negatives is None:
        return positive
    every = (features @ negatives.flatten(0, 1).T).view(-1, *negatives.shape[:2])
    nearest = every.amax(dim=2).clamp(min=0)  # padding is zero, and so is what is below it
    return positive * exponential(-(nearest - positive).clamp(min=0) / NEGATIVE_SIGMA)


def _to_several(features: Tensor, prototypes: Tensor, temperature: float | None) -> Tensor:
    every = (features @ prototypes.flatten(0, 1).T).view(-1, *prototypes.shape[:2])
    padded = ~prototypes.any(dim=2)
    if temperature is None:
        return every.masked_fill(padded, -1).amax(dim=2)
    weights = soft_max((every / temperature).masked_fill(padded, -torch.inf), 2)
    return row_sum(weights * every, 2)


def best_class(similarity: Tensor) -> tuple[Tensor, Tensor]:
    """Score and class index of each mask (METHOD 29); of equal scores the lower class wins.

    Args:
        similarity: ``(N, K)`` float32, of each mask to each class.

    Returns:
        Scores ``(N,)`` float32 and class indices ``(N,)`` int64.
    """
    scores = similarity.amax(dim=1)
    first_best = (similarity == scores[:, None]).to(torch.uint8).argmax(dim=1)
    return scores, first_best
