"""Nearly the same masks of a class become their mean, an option beyond the paper.

Points on one object give masks of it that differ at their edges, each in its own way. The paper's
NMS keeps the one with the highest predicted IoU and drops what the others say. Here the logits of
all of them are averaged first, each with the same weight, and the mean takes the place of the best.
"""

from __future__ import annotations

import torch
from torch import Tensor


def averaged_masks(
    logits: Tensor, predicted_iou: Tensor, labels: Tensor, min_iou: float
) -> tuple[Tensor, Tensor]:
    """Means of nearly the same masks.

    By falling predicted IoU each mask joins the best mask before it of its class that joined none
    itself and has an IoU of `min_iou` with it or more; a mask without such a one stays.

    Args:
        logits: ``(N, h, w)`` float32 at low resolution; a pixel above 0 is in the mask.
        predicted_iou: ``(N,)`` float32; of equal ones the earlier mask is the better.
        labels: ``(N,)`` int64 class indices.
        min_iou: IoU of two masks at low resolution, above 0, from which they are one.

    Returns:
        Positions ``(K,)`` int64, rising, of the masks that stay, and logits ``(K, h, w)``, each the
        mean of a mask that stays and of those that joined it. A mean without a pixel is no mask:
        there the mask that stays is given as it is.
    """
    order = predicted_iou.argsort(descending=True, stable=True)
    ordered = logits[order].flatten(1)
    near = _ious(ordered > 0) >= min_iou
    near &= labels[order][:, None] == labels[order][None, :]
    joins = near.triu(1).float()  # [j, i]: i may join the earlier j
    stays, before = torch.ones_like(predicted_iou), torch.zeros_like(predicted_iou)
    while not torch.equal(before, stays):  # right for one more mask of a chain in each round
        before, stays = stays, (stays @ joins == 0).float()
    hosts = joins * stays[:, None]
    first = hosts * (hosts.cumsum(0) == 1) + stays.diag()  # each mask is in one row
    kept = torch.nonzero(stays).squeeze(1)
    weights = first[kept]
    means = weights @ ordered / weights.sum(dim=1, keepdim=True)
    means = torch.where((means > 0).any(dim=1, keepdim=True), means, ordered[kept])
    positions, rising = order[kept].sort()
    return positions, means[rising].view(-1, *logits.shape[1:])


def _ious(masks: Tensor) -> Tensor:
    """IoU of each two of bool masks ``(N, P)``: ``(N, N)`` float64; NaN for two empty ones."""
    pixels = masks.float()
    common = (pixels @ pixels.T).double()  # exact: fewer than 2^24 pixels
    areas = common.diagonal()
    return common / (areas[:, None] + areas - common)
