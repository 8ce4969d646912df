"""Masks at the image's size, made of the low-resolution logits of a proposer (METHOD 33).

Two ways to the same integers. `RleMasks`, for the CPU, are encoded once and intersected as run
lengths. `StripMasks`, for an accelerator, are made piece by piece from the logits, once for the
common pixels of all pairs, by integer matrix products, and of the few final masks once more, for
the positions where they begin and end. So neither full-size masks nor their pixels ever have to be
kept, and the host waits for nothing before it asks for the encoded masks. This module does not know
classes, features or scores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from ntt_ray.mask_encoding import EncodedMasks, encode_changes
from ntt_ray.masks import (
    Rle,
    encode_part,
    overlap_shares,
    rle_area,
    rle_bbox_xywh,
    runs_to_rle,
)
from ntt_ray.method.strips import axis_resize, strip_runs, tiles
from ntt_ray.method.suppression import inclusive_boxes

# an RLE, or, from a device, the positions where a mask changes (see `strip_runs`)
EncodedMask = Rle | npt.NDArray[np.int64]
# gives (n, m) float32, [i, j] = |i and j| / |i|, for positions i (n,) and j (m,) of masks
Shares = Callable[[Tensor, Tensor], Tensor]
_LEAST_MASKS = 32  # the integer product wants more than 16 rows, and sizes in multiples of 8


@dataclass(frozen=True)
class RleMasks:
    """Masks as run lengths.

    Attributes:
        rles: N masks at the image's size.
    """

    rles: tuple[Rle, ...]

    @property
    def areas(self) -> Tensor:
        """Pixels of each mask: ``(N,)`` int64."""
        return torch.tensor([rle_area(rle) for rle in self.rles], dtype=torch.int64)

    def select(self, index: Tensor) -> RleMasks:
        """The masks at the positions `index`, int64."""
        return RleMasks(tuple(self.rles[position] for position in index.tolist()))

    def shares(self, rows: Tensor, rivals: Tensor) -> Tensor:
        """How much of each of some masks lies in each of some others; see `Shares`."""
        found = overlap_shares(self.select(rows).rles, self.select(rivals).rles)
        return torch.from_numpy(found).float()

    def encoded(self) -> tuple[EncodedMask, ...]:
        """The masks as they are."""
        return self.rles


@dataclass(frozen=True)
class UncountedMasks:
    """Masks as logits, made when they are encoded; see `StripMasks`."""

    logits: Tensor
    size_hw: tuple[int, int]

    def encoded(self) -> tuple[EncodedMask, ...]:
        """Where each mask changes, on the host, which waits for it; see `strip_runs`."""
        return strip_runs(self.logits, self.size_hw)


@dataclass(frozen=True)
class StripMasks:
    """Masks as logits, whose pixels are made strip by strip.

    Attributes:
        logits: ``(N, h, w)`` float32, low-resolution; a resized pixel above 0 is in the mask.
        size_hw: height and width of the image.
        common: ``(N, N)`` int32, pixels that two masks share at the image's size.
    """

    logits: Tensor
    size_hw: tuple[int, int]
    common: Tensor

    @classmethod
    def of(cls, logits: Tensor, size_hw: tuple[int, int]) -> StripMasks:
        """Count the pixels that each two of the masks share, in one pass over the image."""
        n = len(logits)
        empty = max(_LEAST_MASKS - n, -n % 8)
        padded = F.pad(logits, (0, 0, 0, 0, 0, empty), value=-1.0)
        total = torch.zeros(n + empty, n + empty, dtype=torch.int32, device=logits.device)
        for tile in tiles(padded, size_hw):
            pixels = tile.flatten(1).view(torch.int8)
            if rest := -pixels.shape[1] % 8:
                pixels = F.pad(pixels, (0, rest))
            total += torch._int_mm(pixels, pixels.T)
        return cls(logits, size_hw, total[:n, :n])

    @property
    def areas(self) -> Tensor:
        """Pixels of each mask: ``(N,)`` int64."""
        return self.common.diagonal().long()

    def select(self, index: Tensor) -> StripMasks:
        """The masks at the positions `index`, int64."""
        return StripMasks(self.logits[index], self.size_hw, self.common[index][:, index])

    def shares(self, rows: Tensor, rivals: Tensor) -> Tensor:
        """How much of each of some masks lies in each of some others; see `Shares`.

        Of an empty mask nothing does.
        """
        return self.all_shares()[rows][:, rivals]

    def all_shares(self) -> Tensor:
        """How much of each mask lies in each: ``(N, N)`` float32; of an empty one nothing."""
        return (self.common / self.areas[:, None].clamp(min=1)).float()

    def encoded(self) -> tuple[EncodedMask, ...]:
        """Where each mask changes, on the host, which waits for it; see `strip_runs`."""
        return strip_runs(self.logits, self.size_hw)


def masks_at_size(
    logits: Tensor, size_hw: tuple[int, int], in_strips: bool
) -> RleMasks | StripMasks:
    """Masks ``(N, h, w)`` at the image's size, in one of the two ways."""
    if in_strips:
        return StripMasks.of(logits, size_hw)
    return RleMasks(tuple(full_size_rles(logits, size_hw)))


def masks_to_encode(
    logits: Tensor, size_hw: tuple[int, int], in_strips: bool
) -> RleMasks | UncountedMasks:
    """Masks ``(N, h, w)`` at the image's size, where only their encoding is asked of them."""
    if in_strips:
        return UncountedMasks(logits, size_hw)
    return RleMasks(tuple(full_size_rles(logits, size_hw)))


def as_rles(masks: Sequence[EncodedMask], size_hw: tuple[int, int]) -> EncodedMasks:
    """Finish masks that a device began, all of them or none, and measure them."""
    changes = [mask for mask in masks if isinstance(mask, np.ndarray)]
    if changes:
        return encode_changes(changes, *size_hw)
    rles = tuple(mask for mask in masks if not isinstance(mask, np.ndarray))
    areas = np.array([rle_area(rle) for rle in rles], dtype=np.int64)
    boxes = np.array([rle_bbox_xywh(rle) for rle in rles], dtype=np.int64)
    return EncodedMasks(rles, areas, boxes.reshape(-1, 4))


def full_size_rles(logits: Tensor, size_hw: tuple[int, int]) -> list[Rle]:
    """Resize logits ``(N, h, w)`` straight to the image's size, threshold, encode (METHOD 33).

    Only the part of the image that a mask can reach is made: a resized pixel is a weighted mean of
    logits, so it is above 0 only where one of those is.
    """
    height, width = size_hw
    y_axis, x_axis = axis_resize(logits.shape[1], height), axis_resize(logits.shape[2], width)
    boxes = inclusive_boxes(logits > 0).int().tolist()
    filled = (logits > 0).flatten(1).any(dim=1).tolist()
    rles = []
    for mask, (x1, y1, x2, y2), is_filled in zip(logits, boxes, filled, strict=True):
        if not is_filled:
            rles.append(runs_to_rle(np.zeros(0, dtype=np.int64), height, width))
            continue
        (rows, y), (columns, x) = y_axis.reach(y1, y2), x_axis.reach(x1, x2)
        across = mask[rows, columns] @ x_axis.matrix[x, columns].T  # along x first, as torch does
        pixels = (y_axis.matrix[y, rows] @ across > 0).cpu().numpy()
        rles.append(encode_part(pixels, x.start, y.start, height, width))
    return rles
