"""The method, plainly: one mask, one class, one pair at a time, straight from METHOD.

Slow and obvious on purpose. Fast paths in the package are tested against these functions. numpy and
torch's own interpolation only; nothing is imported from the package.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F


def pooled_feature(features: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean of the resized features inside one mask, of length 1 (METHOD 27, 28)."""
    resized = F.interpolate(
        features.permute(2, 0, 1)[None],
        size=mask.shape,
        mode="bilinear",
        align_corners=False,
        antialias=True,
    )[0]
    mean = resized[:, mask].mean(dim=1)
    return mean / max(float(mean.norm()), 1e-12)


def similarity_with_negatives(
    feature: torch.Tensor,
    references: list[tuple[torch.Tensor, float]],
    negatives: list[torch.Tensor],
    sigma: float = 0.8,
) -> float:
    """Similarity of one feature to one class that has negatives (METHOD 47)."""
    total = sum(weight for _, weight in references)
    mean = sum(mean * weight for mean, weight in references) / total
    positive = max(0.0, float(feature @ mean) / float(mean.norm()))
    negative = max([0.0, *(float(feature @ n) / float(n.norm()) for n in negatives)])
    return positive * float(np.exp(-max(0.0, negative - positive) / sigma))


def inclusive_box(mask: np.ndarray) -> list[int]:
    """Box of one mask with inclusive far corner; zeros for an empty one (METHOD 31)."""
    ys, xs = np.nonzero(mask)
    return [xs.min(), ys.min(), xs.max(), ys.max()] if len(xs) else [0, 0, 0, 0]


def box_iou(a: list[float], b: list[float]) -> float:
    """IoU of two boxes whose areas have no + 1; 0 for boxes without area."""
    width = max(0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0, min(a[3], b[3]) - max(a[1], b[1]))
    area_a, area_b = (a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1])
    union = area_a + area_b - width * height
    return width * height / union if union > 0 else 0.0


def nms(boxes: list, predicted_iou: list, labels: list, threshold: float) -> list[int]:
    """Class-wise NMS by predicted IoU; of equal ones the earlier goes first (METHOD 31)."""
    kept: list[int] = []
    for i in sorted(range(len(boxes)), key=lambda i: (-predicted_iou[i], i)):
        rivals = [j for j in kept if labels[j] == labels[i]]
        if all(box_iou(boxes[i], boxes[j]) <= threshold for j in rivals):
            kept.append(i)
    return kept


def soft_merge(masks: list, features: list, labels: list) -> list[float]:
    """Decay factors of full-size masks in NMS order (METHOD 34)."""
    factors = []
    for i, mask in enumerate(masks):
        ios = 0.0
        for j in range(i):
            if labels[j] == labels[i]:
                share = np.logical_and(mask, masks[j]).sum() / mask.sum()
                ios = max(ios, share * max(0.0, float(features[i] @ features[j])))
        factors.append((1 - min(1.0, ios)) ** 0.5)
    return factors


def full_size_mask(logits: torch.Tensor, size_hw: tuple[int, int]) -> np.ndarray:
    """One mask at the image's size (METHOD 33)."""
    resized = F.interpolate(
        logits[None, None], size=size_hw, mode="bilinear", align_corners=False, antialias=True
    )
    return (resized[0, 0] > 0).numpy()


def label_image(
    features: torch.Tensor,
    logits: torch.Tensor,
    predicted_iou: torch.Tensor,
    point_index: torch.Tensor,
    prototypes: torch.Tensor,
    size_hw: tuple[int, int],
    *,
    nms_iou: float = 0.5,
    max_detections: int = 100,
) -> list[tuple[int, float, np.ndarray]]:
    """Detections of one image: (class index, score, mask), by falling score.

    Takes proposals that are above the predicted IoU threshold already.
    """
    items = []
    for k in range(len(logits)):
        mask = logits[k] > 0
        if not mask.any():
            continue
        feature = pooled_feature(features, mask)
        similarity = [max(0.0, float(feature @ p)) for p in prototypes]
        label = int(np.argmax(similarity))
        items.append((k, label, similarity[label], feature, inclusive_box(mask.numpy())))
    order = nms(
        [item[4] for item in items],
        [float(predicted_iou[item[0]]) for item in items],
        [item[1] for item in items],
        nms_iou,
    )
    items = [items[i] for i in order[: 8 * max_detections] if items[i][2] > 0]
    masks = [full_size_mask(logits[item[0]], size_hw) for item in items]
    items = [item for item, mask in zip(items, masks) if mask.any()]
    masks = [mask for mask in masks if mask.any()]
    factors = soft_merge(masks, [i[3] for i in items], [i[1] for i in items])
    found = [
        (item[1], item[2] * factor, mask, int(point_index[item[0]]))
        for item, factor, mask in zip(items, factors, masks)
    ]
    found.sort(key=lambda d: (-d[1], d[3]))
    return [(label, score, mask) for label, score, mask, _ in found[:max_detections]]
