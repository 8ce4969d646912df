"""Pixels of masks at the image's size, piece by piece, on a device (see `masks_at_size`).

A piece holds a tile or some columns of all masks, made from the low-resolution logits by two matrix
products, which are torch's own resizing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ntt_ray.method.pooling import resize_matrix, resize_matrix_on

PIXELS_PER_STEP = 40 << 20  # full-size pixels held at once, over all masks of a step
_LEAST_PIXELS = 1 << 20  # the same where memory is short


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
    mask begins or ends are copied from the device. Where it has no memory for a strip, beside what
    else it works on, strips become narrower.
    """
    pixels = PIXELS_PER_STEP
    while True:
        try:
            return _strip_runs(logits, size_hw, pixels)
        except torch.OutOfMemoryError:
            if pixels < _LEAST_PIXELS:
                raise
            pixels //= 4


def _strip_runs(
    logits: Tensor, size_hw: tuple[int, int], pixels_per_step: int
) -> tuple[npt.NDArray[np.int64], ...]:
    owners, positions = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    last = torch.zeros(len(logits), 1, dtype=torch.bool, device=logits.device)
    for x, strip in _column_strips(logits, size_hw, pixels_per_step):
        pixels = strip.flatten(1)  # (N, columns * height), column by column
        before = torch.cat((last, pixels[:, :-1]), dim=1)
        owner, position = torch.nonzero(pixels != before).cpu().numpy().T
        owners.append(owner)
        positions.append(position + x * size_hw[0])
        last = pixels[:, -1:]
    owner, position = np.concatenate(owners), np.concatenate(positions)
    order = owner.argsort(kind="stable")
    ends = np.bincount(owner, minlength=len(logits)).cumsum()
    return tuple(np.split(position[order], ends)[: len(logits)])


def tiles(logits: Tensor, size_hw: tuple[int, int]) -> Iterator[Tensor]:
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


def _column_strips(
    logits: Tensor, size_hw: tuple[int, int], pixels_per_step: int
) -> Iterator[tuple[int, Tensor]]:
    """Masks at the image's size, some columns at a time: x, bool ``(N, columns, height)``."""
    height, width = size_hw
    rows = resize_matrix_on(logits.shape[1], height, logits.device)
    columns = resize_matrix_on(logits.shape[2], width, logits.device)
    step = max(1, pixels_per_step // max(1, len(logits) * height))
    for x in range(0, width, step):
        # along x first, as torch does, so that the same pixels come out
        across = logits @ columns[x : x + step].T
        yield x, (rows @ across > 0).transpose(1, 2).contiguous()
