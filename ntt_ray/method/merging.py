"""Soft merging: scores fall by how much each mask lies inside better ones of its class.

On the CPU the masks' overlaps are asked for where they can matter only. On a device asking costs
more than working out: there the overlaps of all pairs are at hand, and one step does all. How they
are worked out is in `masks_at_size`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ntt_ray.method.masks_at_size import Shares
from ntt_ray.method.options.diffusion import diffused_scores
from ntt_ray.method.portable import power as to_power
from ntt_ray.method.suppression import soft_merge_decay
from ntt_ray.settings import DiffusionSettings

ROWS_PER_STEP = 64  # soft-merge rows worked out before asking whether the rest can matter


def merged_scores(
    scores: Tensor,
    labels: Tensor,
    features: Tensor,
    shares: Shares,
    diffusion: DiffusionSettings | None,
    wanted: int | None = None,
) -> Tensor:
    """Scores after graph diffusion, or after soft merging where that is None.

    The other arguments are those of `decayed_scores`.
    """
    if diffusion is None:
        return decayed_scores(scores, labels, features, shares, wanted)
    return diffused_scores(scores, labels, features, shares, diffusion)


def weighted_scores(scores: Tensor, predicted_iou: Tensor, power: float | None) -> Tensor:
    """Final scores times the predicted IoU to a power, an option beyond the paper.

    Args:
        scores: ``(M,)`` float32 after merging; those below 0 mark what is no detection, and stay.
        predicted_iou: ``(M,)`` float32; what lies outside of 0 to 1 counts as the nearer of both.
        power: None leaves the scores as they are.
    """
    if power is None:
        return scores
    weights = to_power(predicted_iou.clamp(0.0, 1.0).to(scores.dtype), power)
    return torch.where(scores < 0, scores, scores * weights)


def decayed_at_once(scores: Tensor, labels: Tensor, features: Tensor, all_shares: Tensor) -> Tensor:
    """Scores after soft merging (METHOD 34), all of them, without a number asked of the device.

    Args:
        scores: ``(M,)`` float32 before merging, in NMS order like everything here.
        labels: ``(M,)`` int64 class indices.
        features: ``(M, C)`` float32 of length 1.
        all_shares: ``(M, M)`` float32, how much of each mask lies in each.

    Returns:
        ``(M,)`` float32.
    """
    if not len(scores):
        return scores
    earlier = (labels[:, None] == labels[None, :]).tril(-1)
    return scores * soft_merge_decay(all_shares, features, features, earlier)


def decayed_scores(
    scores: Tensor, labels: Tensor, features: Tensor, shares: Shares, wanted: int | None = None
) -> Tensor:
    """Scores after soft merging (METHOD 34), worked out only where they can matter.

    The factor is at most 1, so a mask whose score before merging is below the `wanted`-th best
    score after merging cannot be among the best: its row of overlaps is never asked for.

    Args:
        scores: ``(M,)`` float32 before merging, in NMS order like everything here.
        labels: ``(M,)`` int64 class indices.
        features: ``(M, C)`` float32 of length 1.
        shares: overlaps of the masks; asked for one class at a time.
        wanted: how many of the best are needed; None works out all scores.

    Returns:
        ``(M,)`` float32; exact for the `wanted` best, -1 for masks that cannot be among them.
    """
    decayed = torch.full_like(scores, -1.0)
    order = scores.argsort(descending=True, stable=True)
    for start in range(0, len(order), ROWS_PER_STEP):
        if wanted is not None and start >= wanted:
            worst_kept = decayed[order[:start]].topk(wanted).values[-1]
            if worst_kept > scores[order[start]]:
                break
        rows = order[start : start + ROWS_PER_STEP]
        decayed[rows] = scores[rows] * _decay_of_rows(rows, labels, features, shares)
    return decayed


def _decay_of_rows(rows: Tensor, labels: Tensor, features: Tensor, shares: Shares) -> Tensor:
    decay = torch.ones(len(rows), dtype=features.dtype, device=rows.device)
    for label in sorted(set(labels[rows].tolist())):
        mine = torch.nonzero(labels[rows] == label).squeeze(1)
        own = rows[mine]
        rivals = torch.nonzero(labels[: int(own.max())] == label).squeeze(1)  # earlier ones
        if len(rivals):
            decay[mine] = soft_merge_decay(
                shares(own, rivals), features[own], features[rivals], rivals < own[:, None]
            )
    return decay
