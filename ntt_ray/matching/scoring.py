"""Similarity of pooled features to the class prototypes, and the class of each mask."""

from __future__ import annotations

import torch
from torch import Tensor


def similarities(features: Tensor, prototypes: Tensor) -> Tensor:
    """Cosine similarity, negative values cut to 0 (METHOD 28).

    Args:
        features: ``(N, C)`` float32 of length 1.
        prototypes: ``(K, C)`` float32 of length 1, one per class.

    Returns:
        ``(N, K)`` float32 in [0, 1], up to rounding.
    """
    return (features @ prototypes.T).clamp(min=0)


def best_class(similarity: Tensor) -> tuple[Tensor, Tensor]:
    """Score and class index of each mask (METHOD 29); of equal scores the lower class wins.

    Args:
        similarity: ``(N, K)`` float32.

    Returns:
        scores ``(N,)`` float32 and class indices ``(N,)`` int64.
    """
    scores = similarity.amax(dim=1)
    first_best = (similarity == scores[:, None]).to(torch.uint8).argmax(dim=1)
    return scores, first_best
