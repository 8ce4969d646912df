"""Leaving out masks that say what a better one says, without knowing any class.

Points that share an object give nearly the same mask. Of masks whose IoU at low resolution is above
a limit the one with the highest predicted IoU stays. As better ones decide first, leaving out those
of a low predicted IoU before or after makes no difference.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from ntt_ray.masks import encode_masks, mask_ious

_LEAST_MASKS = 32  # the integer product wants more than 16 rows, and sizes in multiples of 8
Positions = npt.NDArray[np.intp]


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
        stay = first_of_near(near_on_device(masks[order], max_iou))
    else:
        stay = first_by_runs(masks[order], boxes_xyxy[order], max_iou)
    return np.sort(order.cpu().numpy()[stay])


def near_on_device(masks: Tensor, max_iou: float) -> npt.NDArray[np.bool_]:
    """Which pairs are nearly the same, ``(N, N)``: integer products, and one copy to the host."""
    n = len(masks)
    pixels = masks.flatten(1).to(torch.int8)
    pixels = F.pad(pixels, (0, -pixels.shape[1] % 8, 0, max(_LEAST_MASKS - n, -n % 8)))
    common = torch._int_mm(pixels, pixels.T)[:n, :n].double()
    areas = common.diagonal()
    return (common / (areas[:, None] + areas - common) > max_iou).cpu().numpy()


def first_of_near(near: npt.NDArray[np.bool_]) -> list[int]:
    """Positions that are near to none that stays before them."""
    stay, gone = list[int](), np.zeros(len(near), dtype=np.bool_)
    for position in range(len(near)):
        if not gone[position]:
            stay.append(position)
            gone |= near[position]
    return stay


def first_by_runs(masks: Tensor, boxes_xyxy: Tensor, max_iou: float) -> list[int]:
    """The same on the CPU, by run lengths of those pairs that areas and boxes leave possible."""
    pixels, boxes = masks.numpy(), boxes_xyxy.numpy()
    possible = _possible(pixels.reshape(len(pixels), -1).sum(axis=1), boxes, max_iou)
    rles, stays = encode_masks(pixels), np.zeros(len(pixels), dtype=np.bool_)
    for position in range(len(rles)):
        rivals = [rles[other] for other in np.flatnonzero(possible[position] & stays)]
        stays[position] = not (mask_ious([rles[position]], rivals) > max_iou).any()
    return np.flatnonzero(stays).tolist()


def _possible(
    areas: npt.NDArray[np.int64], boxes_xyxy: npt.NDArray[np.float32], max_iou: float
) -> npt.NDArray[np.bool_]:
    """Pairs whose IoU may be above the limit, by their areas and by what their boxes share."""
    low = np.maximum(boxes_xyxy[:, None, :2], boxes_xyxy[None, :, :2])
    high = np.minimum(boxes_xyxy[:, None, 2:], boxes_xyxy[None, :, 2:])
    shared = (high - low + 1).clip(min=0).prod(axis=2).astype(np.float64)
    most = np.minimum(shared, np.minimum(areas[:, None], areas))
    return np.asarray(most / (areas[:, None] + areas - most) > max_iou)
