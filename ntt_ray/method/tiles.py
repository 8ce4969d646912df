"""Views of an image: the whole of it, and tiles of large ones, at several scales.

A model sees each view at its own input size, so what is small in the image is large in a tile. The
smallest tiles overlap, and so do those twice and four times as wide, until one view holds the whole
image: an object that a border cuts in one scale is whole in the next. Cut pieces are left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

MIN_RATIO = 1.5  # longer side of the image over the side of a tile; tiles gain little below it


@dataclass(frozen=True, slots=True)
class View:
    """A rectangle of an image, in pixels of the image."""

    left: int
    top: int
    width: int
    height: int

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.height, self.width


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
