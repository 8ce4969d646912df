"""Which masks SAM2 is asked about again, where, and what is taken: an option beyond the paper.

A point of the grid lies in an object where it happens to lie. From the middle of what it found SAM2
often sees the object better. So each distinct mask is asked about once more, by one click at its
centre, and the new mask takes the place of the old one where SAM2 thinks better of it and it still
is the same object.

The centre of a mask is its pixel that lies deepest in it, as RITM (Sofiiuk et al., 2021) places
clicks and SAM2's training does after it (``sample_one_point_from_error_center`` of Meta's code). A
centroid may lie outside of its mask. That a refined mask has to overlap the old one guards against
a click that means something else, a part or what it lies on.

Tensors alone: this module does not know the model; `decoder.refiner` asks it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import nms

from ntt_ray.models.sam2.decoder.boxed import tight_boxes

# Box IoU above which two masks are one thing, and the better one alone is asked about again. What
# NMS within classes leaves later, at the paper's 0.5 and at 0.7 alike, is asked but for masks that
# share their box with one of another class.
SAME_IOU = 0.7
CACHED_ELEMENTS = 1 << 17  # pixels whose distances are computed at once on a CPU
MASKS_AT_ONCE = 64  # the same on other devices, in masks


def distinct_masks(masks: Tensor, predicted_iou: Tensor) -> Tensor:
    """Which masks are asked about again: class-agnostic NMS of their boxes; empty ones are not.

    Args:
        masks: ``(N, h, w)`` bool.
        predicted_iou: ``(N,)`` float32; of equal ones the earlier mask is the better.

    Returns:
        Positions ``(K,)`` int64, by falling predicted IoU; no two have a box IoU above `SAME_IOU`.
    """
    order = predicted_iou.argsort(descending=True, stable=True)
    order = order[masks.flatten(1).any(dim=1)[order]]
    return order[nms(tight_boxes(masks)[order], predicted_iou[order], SAME_IOU)]


def mask_centres(masks: Tensor) -> Tensor:
    """The pixel of each mask that is farthest from what is not the mask.

    The distance is that between the middles of two pixels, computed exactly; what lies around the
    picture is not the mask. Of pixels that are equally far the first in reading order counts.

    >>> masks = torch.zeros(1, 5, 7, dtype=torch.bool)
    >>> masks[0, 1:4, 1:6] = True
    >>> mask_centres(masks).tolist()
    [[2, 2]]

    Args:
        masks: ``(N, h, w)`` bool, each with a pixel.

    Returns:
        ``(N, 2)`` int64, x and y.
    """
    if len(masks) == 0:
        return torch.zeros(0, 2, dtype=torch.int64, device=masks.device)
    height, width = masks.shape[1:]
    on_cpu = masks.device.type == "cpu"
    most = max(1, CACHED_ELEMENTS // (height * width)) if on_cpu else MASKS_AT_ONCE
    parts = [_squared_depths(part).flatten(1).argmax(dim=1) for part in torch.split(masks, most)]
    pixel = torch.cat(parts)
    return torch.stack((pixel % width, pixel // width), dim=1)


def _squared_depths(masks: Tensor) -> Tensor:
    """Squared distance of each pixel to the nearest one outside of its mask: float32, exact.

    That pixel lies in some column, and there it is the nearest one; so the least of all columns is
    taken, as far as any mask is deep (Felzenszwalb and Huttenlocher, 2012, without their envelope).
    """
    vertical, horizontal = _gaps(masks, 1), _gaps(masks, 2)
    squares = vertical.square()
    depths = torch.minimum(squares, horizontal.square())
    deepest = int(torch.minimum(vertical, horizontal).amax())
    for step in range(1, deepest):  # columns as far away as the deepest pixel change nothing
        far = squares + step * step
        for to, of in (
            (depths[..., step:], far[..., :-step]),
            (depths[..., :-step], far[..., step:]),
        ):
            torch.minimum(to, of, out=to)
    return depths


def _gaps(masks: Tensor, dim: int) -> Tensor:
    """Distance of each pixel to the nearest one outside of its mask in its row or column."""
    size = masks.shape[dim]
    shape = (1, size, 1) if dim == 1 else (1, 1, size)
    place = torch.arange(1, size + 1, dtype=torch.float32, device=masks.device).view(shape)
    before = torch.where(masks, 0.0, place).cummax(dim).values
    behind = torch.where(masks, size + 1.0, place).flip(dim).cummin(dim).values.flip(dim)
    return torch.minimum(place - before, behind - place)


def better_masks(
    masks: Tensor, predicted_iou: Tensor, new_masks: Tensor, new_iou: Tensor, min_iou: float
) -> Tensor:
    """Where a new mask takes the place of an old one.

    Args:
        masks: ``(N, h, w)`` bool, the old masks.
        predicted_iou: ``(N,)`` float32, of the old masks.
        new_masks: ``(N, h, w)`` bool, what the centre of each gave.
        new_iou: ``(N,)`` float32, the predicted IoU of the new masks.
        min_iou: IoU, above 0, that a new mask must have with the old one at least.

    Returns:
        ``(N,)`` bool: the predicted IoU is higher, strictly, and both masks are the same object.
        An empty new mask is none.
    """
    common = (masks & new_masks).flatten(1).sum(dim=1).double()  # 7 / 10 is just 0.7 so
    either = (masks | new_masks).flatten(1).sum(dim=1)
    return (new_iou > predicted_iou) & (common / either >= min_iou)
