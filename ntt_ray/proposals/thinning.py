"""Leaving out masks that say what a better one says, without knowing any class.

Points that share an object give nearly the same mask. Of masks whose IoU at low resolution is above
a limit the one with the highest predicted IoU stays. As better ones decide first, leaving out those
of a low predicted IoU before or after makes no difference.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from ntt_ray.masks import encode_masks, mask_ious

_LEAST_MASKS = 32  # the integer product wants more than 16 rows, and sizes in multiples of 8
Positions = npt.NDArray[np.intp]
# whether a mask, by its position, is nearly the same as one of some others
IsNear = Callable[[int, Positions], bool]


def thinned(
    masks: Tensor, predicted_iou: Tensor, boxes_xyxy: Tensor, max_iou: float | None
) -> Positions:
    """Positions of the masks that stay, rising.

    Args:
        masks: ``(N, h, w)`` bool, none of them empty.
        predicted_iou: ``(N,)`` float32; of equal ones the earlier mask is the better.
        boxes_xyxy: ``(N, 4)`` float32, boxes of the masks, inclusive.
        max_iou: IoU that two masks may have at most; None leaves all of them.
    """
    if max_iou is None or len(masks) < 2:
        return np.arange(len(masks))
    order = predicted_iou.argsort(descending=True, stable=True)
    if masks.is_cuda:
        is_near = near_on_device(masks[order], max_iou)
    else:
        is_near = near_by_runs(masks[order], boxes_xyxy[order], max_iou)
    stay = list[int]()
    for position in range(len(order)):
        if not is_near(position, np.array(stay, dtype=np.intp)):
            stay.append(position)
    return np.sort(order.cpu().numpy()[stay])


def near_on_device(masks: Tensor, max_iou: float) -> IsNear:
    """By integer products of all pairs, on the device; one copy to the host."""
    n = len(masks)
    pixels = masks.flatten(1).to(torch.int8)
    pixels = F.pad(pixels, (0, -pixels.shape[1] % 8, 0, max(_LEAST_MASKS - n, -n % 8)))
    common = torch._int_mm(pixels, pixels.T)[:n, :n].double()
    areas = common.diagonal()
    near = (common / (areas[:, None] + areas - common) > max_iou).cpu().numpy()
    return lambda position, others: bool(near[position, others].any())


def near_by_runs(masks: Tensor, boxes_xyxy: Tensor, max_iou: float) -> IsNear:
    """By run lengths, on the CPU, of those pairs that areas and boxes leave possible."""
    pixels, boxes = masks.numpy(), boxes_xyxy.numpy()
    possible = _possible(pixels.reshape(len(pixels), -1).sum(axis=1), boxes, max_iou)
    rles = encode_masks(pixels)

    def is_near(position: int, others: Positions) -> bool:
        rivals = [rles[other] for other in others[possible[position, others]]]
        return bool((mask_ious([rles[position]], rivals) > max_iou).any())

    return is_near


def _possible(
    areas: npt.NDArray[np.int64], boxes_xyxy: npt.NDArray[np.float32], max_iou: float
) -> npt.NDArray[np.bool_]:
    """Pairs whose IoU may be above the limit, by their areas and by what their boxes share."""
    low = np.maximum(boxes_xyxy[:, None, :2], boxes_xyxy[None, :, :2])
    high = np.minimum(boxes_xyxy[:, None, 2:], boxes_xyxy[None, :, 2:])
    shared = (high - low + 1).clip(min=0).prod(axis=2).astype(np.float64)
    most = np.minimum(shared, np.minimum(areas[:, None], areas))
    return np.asarray(most / (areas[:, None] + areas - most) > max_iou)
