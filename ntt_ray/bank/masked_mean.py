"""The mean feature of a reference: patch features weighted by its soft mask.

Shapes: ``h, w`` the patch grid, ``C`` feature channels, ``H, W`` the encoder's input.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def mask_at_patches(soft_mask: Tensor, grid: tuple[int, int]) -> Tensor:
    """Sample a soft mask at the top-left pixel of each patch (METHOD 11).

    Args:
        soft_mask: ``(H, W)`` float32 in [0, 1] at the encoder's input size.
        grid: numbers of patches ``(h, w)``.

    Returns:
        ``(h, w)`` float32 weights. When none of the samples hits the mask, the mean of the soft
        mask per patch is given instead (the paper's code would divide by zero).
    """
    sampled = F.interpolate(soft_mask[None, None], size=grid, mode="nearest")[0, 0]
    if sampled.sum() > 0:
        return sampled
    return F.adaptive_avg_pool2d(soft_mask[None, None], grid)[0, 0]


def weighted_mean(features: Tensor, weights: Tensor) -> Tensor:
    """Mean of patch features under soft weights (METHOD 12): ``sum(f * m) / sum(m)``.

    Args:
        features: ``(h, w, C)`` float32 patch features.
        weights: ``(h, w)`` float32 weights of the patches, at least one above 0.

    Returns:
        ``(C,)`` float32, not normalised.
    """
    flat = weights.flatten()
    return (features.flatten(0, 1) * flat[:, None]).sum(dim=0) / flat.sum()
