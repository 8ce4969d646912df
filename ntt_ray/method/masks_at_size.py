"""Masks at the image's size, made of the low-resolution logits of a proposer (METHOD 33).

Two ways to the same integers. `RleMasks`, for the CPU, are encoded once and intersected as run
lengths. `StripMasks`, for an accelerator, are made piece by piece from the logits, once for the
common pixels of all pairs, by integer matrix products, and of the few final masks once more, for
the positions where they begin and end. So neither full-size masks nor their pixels ever have to be
kept, and the host waits for nothing before it has to. This module does not know classes, features
or scores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from ntt_ray.masks import Rle, encode_part, overlap_shares, rle_area, runs_to_rle
from ntt_ray.method.pooling import resize_matrix, resize_matrix_on
from ntt_ray.method.suppression import inclusive_boxes

# an RLE, or, from a device, the positions where a mask changes (see `strip_runs`)
EncodedMask = Rle | npt.NDArray[np.int64]
# gives (n, m) float32, [i, j] = |i and j| / |i|, for positions i (n,) and j (m,) of masks
Shares = Callable[[Tensor, Tensor], Tensor]
PIXELS_PER_STEP = 40 << 20  # full-size pixels held at once, over all masks of a step
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
        for tile in _tiles(padded, size_hw):
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
        """Where each mask changes, on the host; see `strip_runs`."""
        return strip_runs(self.logits, self.size_hw)


def masks_at_size(
    logits: Tensor, size_hw: tuple[int, int], in_strips: bool
) -> RleMasks | StripMasks:
    """Masks ``(N, h, w)`` at the image's size, in one of the two ways."""
    if in_strips:
        return StripMasks.of(logits, size_hw)
    return RleMasks(tuple(full_size_rles(logits, size_hw)))


def encoded_masks(
    logits: Tensor, size_hw: tuple[int, int], in_strips: bool
) -> tuple[EncodedMask, ...]:
    """Masks ``(N, h, w)`` at the image's size for the host, where nothing else is asked of them."""
    return strip_runs(logits, size_hw) if in_strips else tuple(full_size_rles(logits, size_hw))


def as_rle(mask: EncodedMask, size_hw: tuple[int, int]) -> Rle:
    """Finish a mask that a device began."""
    return runs_to_rle(mask, *size_hw) if isinstance(mask, np.ndarray) else mask


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


@dataclass(frozen=True)
class AxisResize:
    """Resizing one axis, and which inputs and outputs belong together.

    Attributes:
        matrix: ``(n_out, n_in)`` float32, see `resize_matrix`.
        first_in: ``(n_out,)``, first input of each output.
        last_in: ``(n_out,)``, last input of each output.
    """

    matrix: Tensor
    first_in: npt.NDArray[np.int64]
    last_in: npt.NDArray[np.int64]

    def reach(self, first: int, last: int) -> tuple[slice, slice]:
        """Outputs that depend on the inputs `first` to `last`, and all inputs that they depend on.

        Returns:
            The range of inputs and the range of outputs.
        """
        start = int(np.searchsorted(self.last_in, first, side="left"))
        stop = int(np.searchsorted(self.first_in, last, side="right"))
        return self.inputs(start, stop - start)

    def inputs(self, start: int, count: int) -> tuple[slice, slice]:
        """The inputs of `count` outputs from `start` on, and those outputs that there are."""
        stop = min(start + count, len(self.first_in))
        return slice(int(self.first_in[start]), int(self.last_in[stop - 1]) + 1), slice(start, stop)


@lru_cache(maxsize=16)
def axis_resize(n_in: int, n_out: int) -> AxisResize:
    """The resize of one axis from `n_in` to `n_out`."""
    matrix = resize_matrix(n_in, n_out)
    used = (matrix != 0).numpy()
    last_in = n_in - 1 - used[:, ::-1].argmax(axis=1)
    return AxisResize(matrix, used.argmax(axis=1), last_in)


def strip_runs(logits: Tensor, size_hw: tuple[int, int]) -> tuple[npt.NDArray[np.int64], ...]:
    """Where masks ``(N, h, w)`` change at the image's size, for `runs_to_rle`, on the host.

    Columns are made left to right, so the pixels come in COCO's order. Only the positions where a
    mask begins or ends are copied from the device.
    """
    height = size_hw[0]
    changes, owners = [], []
    last = torch.zeros(len(logits), 1, dtype=torch.bool, device=logits.device)
    for x, strip in _column_strips(logits, size_hw):
        pixels = strip.flatten(1)  # (N, columns * height), column by column
        before = torch.cat((last, pixels[:, :-1]), dim=1)
        owner, position = torch.nonzero(pixels != before, as_tuple=True)
        changes.append(position + x * height)
        owners.append(owner)
        last = pixels[:, -1:]
    if not changes:
        return ()
    owner, position = torch.cat(owners), torch.cat(changes)
    order = owner.argsort(stable=True)
    counts = torch.bincount(owner, minlength=len(logits)).tolist()
    runs = torch.split(position[order].cpu(), counts)
    return tuple(own.numpy() for own in runs)


def _tiles(logits: Tensor, size_hw: tuple[int, int]) -> Iterator[Tensor]:
    """Masks at the image's size, tile by tile: bool ``(N, rows, columns)``.

    A tile is about square, because the less of both axes it spans, the fewer of the logits enter
    its products.
    """
    height, width = size_hw
    y_axis, x_axis = (axis_resize(*sizes) for sizes in zip(logits.shape[1:], size_hw))
    rows = resize_matrix_on(logits.shape[1], height, logits.device)
    columns = resize_matrix_on(logits.shape[2], width, logits.device)
    down, across = _tile_sides(len(logits), size_hw)
    for y in range(0, height, down):
        used_y, y_part = y_axis.inputs(y, down)
        for x in range(0, width, across):
            used_x, x_part = x_axis.inputs(x, across)
            wide = logits[:, used_y, used_x] @ columns[x_part, used_x].T
            yield rows[y_part, used_y] @ wide > 0


def _tile_sides(masks: int, size_hw: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of a tile, so that all masks of one are at most `PIXELS_PER_STEP` pixels.

    The columns are a multiple of 8, which the integer product wants.
    """
    height, width = size_hw
    parts = [1, 1]
    down, across = height, width + -width % 8
    while masks * down * across > PIXELS_PER_STEP and down * across > 8:
        parts[1 if across > max(8, down) else 0] += 1
        down, across = (-(-length // count) for length, count in zip(size_hw, parts))
        across += -across % 8
    return down, across


def _column_strips(logits: Tensor, size_hw: tuple[int, int]) -> Iterator[tuple[int, Tensor]]:
    """Masks at the image's size, some columns at a time: x, bool ``(N, columns, height)``."""
    height, width = size_hw
    rows = resize_matrix_on(logits.shape[1], height, logits.device)
    columns = resize_matrix_on(logits.shape[2], width, logits.device)
    step = max(1, PIXELS_PER_STEP // max(1, len(logits) * height))
    for x in range(0, width, step):
        # along x first, as torch does, so that the same pixels come out
        across = logits @ columns[x : x + step].T
        yield x, (rows @ across > 0).transpose(1, 2).contiguous()
