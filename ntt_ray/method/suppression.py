"""Overlaps: non-maximum suppression on boxes, then soft merging and ranking on masks.

Boxes here are ``xyxy`` in low-resolution pixels with inclusive x2, y2, as the paper's code has
them (METHOD 31); they are not the boxes of the output.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import nms

from ntt_ray.method.portable import square_root

_ROUNDS = 12  # of `nms_at_once` before it asks whether that was enough


def inclusive_boxes(masks: Tensor) -> Tensor:
    """Boxes of bool masks ``(N, H, W)``: ``(N, 4)`` float32 xyxy, inclusive; empty ones are 0."""
    height, width = masks.shape[1:]
    rows, columns = masks.any(dim=2), masks.any(dim=1)
    y = torch.arange(height, device=masks.device)
    x = torch.arange(width, device=masks.device)
    y_min = torch.where(rows, y, height).amin(dim=1)
    x_min = torch.where(columns, x, width).amin(dim=1)
    y_max = torch.where(rows, y, -1).amax(dim=1)
    x_max = torch.where(columns, x, -1).amax(dim=1)
    boxes = torch.stack((x_min, y_min, x_max, y_max), dim=1)
    return torch.where(rows.any(dim=1)[:, None], boxes, 0).float()


def nms_order(
    boxes_xyxy: Tensor, predicted_iou: Tensor, labels: Tensor, max_iou: float | None
) -> Tensor:
    """Class-wise NMS, ordered by predicted IoU, not by similarity (METHOD 31).

    A box is suppressed when its IoU with a kept one of its class is above `max_iou`, strictly.

    Args:
        boxes_xyxy: ``(N, 4)`` float32 with small integer values.
        predicted_iou: ``(N,)`` float32; of equal ones the earlier position goes first.
        labels: ``(N,)`` int64 class indices.
        max_iou: box IoU in [0, 1] that two kept boxes of a class may have at most; None
            suppresses none, an option beyond the paper.

    Returns:
        Positions of the kept boxes, by falling predicted IoU, int64.
    """
    if len(boxes_xyxy) == 0:
        return torch.zeros(0, dtype=torch.int64, device=boxes_xyxy.device)
    order = predicted_iou.argsort(descending=True, stable=True)
    if max_iou is None:
        return order
    # Boxes of different classes are moved apart; exact, since all values are small integers.
    span = boxes_xyxy.max() + 1
    apart = boxes_xyxy + (labels.to(boxes_xyxy) * span)[:, None]
    return order[nms(apart[order], predicted_iou[order], max_iou)]


def nms_at_once(
    boxes_xyxy: Tensor,
    predicted_iou: Tensor,
    labels: Tensor,
    max_iou: float | None,
    limit: int,
    wanted: Tensor,
) -> Tensor:
    """`nms_order`, cut to `limit`, then only those `wanted`; one number is asked of the device.

    Whether a box is kept depends on the kept ones before it. That is asked of all boxes together,
    again and again: after k rounds it is right for every box that a chain of fewer than k boxes
    could suppress, and when nothing changes any more it is right for all.

    Args:
        boxes_xyxy: as of `nms_order`.
        predicted_iou: as of `nms_order`.
        labels: as of `nms_order`.
        max_iou: as of `nms_order`.
        limit: of the kept boxes so many remain.
        wanted: ``(N,)`` bool, which of the remaining are given.

    Returns:
        Positions, by falling predicted IoU, int64.
    """
    order = predicted_iou.argsort(descending=True, stable=True)
    if max_iou is None:
        order = order[:limit]
        return order[wanted[order]]
    boxes, labels = boxes_xyxy[order], labels[order]
    is_rival = (_box_iou(boxes) > max_iou) & (labels[:, None] == labels[None, :])
    rivals = is_rival.triu(1).float()  # [j, i]: the earlier j would suppress i
    kept = torch.ones_like(predicted_iou)
    while True:
        for _ in range(_ROUNDS):
            before, kept = kept, (kept @ rivals == 0).float()
        chosen = (kept > 0) & (kept.cumsum(0) <= limit) & wanted[order]
        found = torch.stack(((before != kept).sum(), chosen.sum()))
        unsettled, count = found.tolist()
        if not unsettled:
            return order[(~chosen).to(torch.uint8).argsort(stable=True)[:count]]


def _box_iou(boxes_xyxy: Tensor) -> Tensor:
    """IoU of all pairs, NaN for two boxes without area: torchvision's formula, in its order."""
    sides = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).unbind(1)
    area = sides[0] * sides[1]
    low = torch.maximum(boxes_xyxy[:, None, :2], boxes_xyxy[None, :, :2])
    high = torch.minimum(boxes_xyxy[:, None, 2:], boxes_xyxy[None, :, 2:])
    common = (high - low).clamp(min=0).prod(2)
    return common / (area[:, None] + area[None, :] - common)


def soft_merge_decay(
    inside_shares: Tensor, features: Tensor, rival_features: Tensor, counts: Tensor
) -> Tensor:
    """Factor on each score for being contained in better masks of its class (METHOD 34).

    ``ios_i = max over earlier j of its class of |i and j| / |i| * max(0, f_i . f_j)`` and the
    factor is ``sqrt(1 - ios_i)``; earlier means a higher predicted IoU.

    Args:
        inside_shares: ``(n, m)``, element ``[i, j]`` = ``|i and j| / |i|`` at full resolution.
        features: ``(n, C)`` float32 of length 1, of the masks i.
        rival_features: ``(m, C)`` float32 of length 1, of the masks j; at least one.
        counts: ``(n, m)`` bool, whether j is earlier than i and of its class.

    Returns:
        ``(n,)`` float32 in [0, 1].
    """
    similarity = (features @ rival_features.T).clamp(min=0)
    share = (inside_shares * similarity).clamp(max=1)
    return square_root(1 - torch.where(counts, share, 0).amax(dim=1))


def ranking(scores: Tensor, index: Tensor, max_detections: int) -> Tensor:
    """Positions of the best scores, falling (METHOD 35).

    Args:
        scores: ``(N,)`` float32.
        index: ``(N,)`` int64; of equal scores the one with the lower index goes first.
        max_detections: how many positions are given at most.
    """
    by_index = index.argsort(stable=True)
    by_score = scores[by_index].argsort(descending=True, stable=True)
    return by_index[by_score][:max_detections]
