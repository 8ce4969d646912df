"""Views of an image: the whole of it, and tiles of large ones, at several scales.

A model sees each view at its own input size, so what is small in the image is large in a tile. The
smallest tiles overlap, and so do those twice and four times as wide, until one view holds the whole
image: an object that a border cuts in one scale is whole in the next. Cut pieces are left out, and
of an object that is whole in views of several scales the mask of the finest one stays.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import box_iou

from ntt_ray.records import View

MIN_RATIO = 1.5  # longer side of the image over the side of a tile; tiles gain little below it
DUPLICATES_IOU = 0.5  # of boxes of two scales, where NMS is off: the paper's for NMS


def views_of(size_hw: tuple[int, int], side: int, overlap: float) -> list[View]:
    """The whole image, then tiles of `side`, twice `side` and so on, row by row.

    Args:
        size_hw: height and width of the image.
        side: side of the smallest tiles in pixels; tiles are as narrow as the image where that is
            narrower.
        overlap: least share of a side that two neighbours have in common, below 1.
    """
    height, width = size_hw
    views = [View(0, 0, width, height)]
    while side * MIN_RATIO < max(size_hw):
        tile_w, tile_h = min(side, width), min(side, height)
        views += [
            View(x, y, tile_w, tile_h)
            for y in _starts(height, tile_h, overlap)
            for x in _starts(width, tile_w, overlap)
        ]
        side *= 2
    return views


def _starts(length: int, side: int, overlap: float) -> list[int]:
    """First pixels of evenly spaced tiles that cover a length."""
    free, step = length - side, max(1, int(side * (1 - overlap)))
    count = -(-free // step)
    return [round(n * free / count) for n in range(count + 1)] if count else [0]


def cut_off(masks: Tensor, view: View, size_hw: tuple[int, int]) -> Tensor:
    """Masks that reach a border of the view where the image goes on.

    Args:
        masks: ``(N, h, w)`` bool, masks of the view at any resolution.
        view: where the view lies in the image.
        size_hw: height and width of the image.

    Returns:
        ``(N,)`` bool, whether each mask is cut off.
    """
    height, width = size_hw
    cut = torch.zeros(len(masks), dtype=torch.bool, device=masks.device)
    if view.left > 0:
        cut |= masks[:, :, 0].any(dim=1)
    if view.left + view.width < width:
        cut |= masks[:, :, -1].any(dim=1)
    if view.top > 0:
        cut |= masks[:, 0].any(dim=1)
    if view.top + view.height < height:
        cut |= masks[:, -1].any(dim=1)
    return cut


def seen_finer(
    boxes_xyxy: Tensor, labels: Tensor, view_of: Tensor, views: Sequence[View], max_iou: float
) -> Tensor:
    """Masks whose object is whole in a finer view, too, which has a mask of it.

    A model that sees an object larger draws its outline closer, and its predicted IoU need not say
    so: each is a guess about another picture. So between scales it does not decide. Smaller tiles
    are finer. Two masks are of one object where NMS would take them for duplicates, and the finer
    view shows the object whole where the box of the coarser mask lies in that view.

    Args:
        boxes_xyxy: ``(N, 4)`` float32 with inclusive x2, y2, in pixels of the image.
        labels: ``(N,)`` int64 class indices.
        view_of: ``(N,)`` int64, position of each mask's view.
        views: the views; none of their masks is cut off, see `cut_off`.
        max_iou: boxes of a class with an IoU above it, strictly, are duplicates.

    Returns:
        ``(N,)`` bool, whether a finer mask stands for each.
    """
    areas = torch.tensor([view.width * view.height for view in views])
    finer = torch.zeros(len(boxes_xyxy), dtype=torch.bool)
    for place in areas.argsort(stable=True).tolist():
        view = views[place]
        first = torch.tensor([view.left, view.top])
        last = first + torch.tensor([view.width, view.height]) - 1
        inside = (boxes_xyxy[:, :2] >= first).all(dim=1) & (boxes_xyxy[:, 2:] <= last).all(dim=1)
        own = torch.nonzero((view_of == place) & ~finer).squeeze(1)
        coarser = torch.nonzero(inside & (areas[view_of] > areas[place]) & ~finer).squeeze(1)
        same = box_iou(boxes_xyxy[coarser], boxes_xyxy[own]) > max_iou
        same &= labels[coarser][:, None] == labels[own]
        finer[coarser] = same.any(dim=1)
    return finer
