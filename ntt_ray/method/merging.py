"""Soft merging at the image's size: how much each mask lies inside better ones of its class.

Two ways to the same integers. On the CPU the masks are encoded once and intersected as run
lengths (`rle_shares`). On an accelerator pixels are made strip by strip from the low-resolution
logits and intersected by integer matrix products (`strip_shares`), and the run lengths of the few
final masks are found on the device (`strip_runs`), so that neither full-size masks nor their
pixels ever have to be kept or copied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from ntt_ray.masks import Rle, encode_part, overlap_shares, runs_to_rle
from ntt_ray.method.options.diffusion import diffused_scores
from ntt_ray.method.pooling import resize_matrix
from ntt_ray.method.suppression import inclusive_boxes, soft_merge_decay
from ntt_ray.settings import DiffusionSettings

ROWS_PER_STEP = 64  # soft-merge rows worked out before asking whether the rest can matter
PIXELS_PER_STEP = 16 << 20  # full-size pixels held at once, over all masks of a step


def merged_scores(
    scores: Tensor,
    labels: Tensor,
    features: Tensor,
    shares: Callable[[Tensor, Tensor], Tensor],
    diffusion: DiffusionSettings | None,
    wanted: int | None = None,
) -> Tensor:
    """Scores after graph diffusion, or after soft merging where that is None.

    The other arguments are those of `decayed_scores`.
    """
    if diffusion is None:
        return decayed_scores(scores, labels, features, shares, wanted)
    return diffused_scores(scores, labels, features, shares, diffusion)


def decayed_scores(
    scores: Tensor,
    labels: Tensor,
    features: Tensor,
    shares: Callable[[Tensor, Tensor], Tensor],
    wanted: int | None = None,
) -> Tensor:
    """Scores after soft merging (METHOD 34), worked out only where they can matter.

    The factor is at most 1, so a mask whose score before merging is below the `wanted`-th best
    score after merging cannot be among the best: its row of overlaps is never asked for.

    Args:
        scores: ``(M,)`` float32 before merging, in NMS order like everything here.
        labels: ``(M,)`` int64 class indices.
        features: ``(M, C)`` float32 of length 1.
        shares: gives ``[i, j] = |i and j| / |i|`` for positions `i` and `j`, one class at a time.
        wanted: how many of the best are needed; None works all of them out.

    Returns:
        ``(M,)`` float32; exact for the `wanted` best, -1 for masks that cannot be among them.
    """
    decayed = torch.full_like(scores, -1.0)
    order = scores.argsort(descending=True, stable=True)
    for start in range(0, len(order), ROWS_PER_STEP):
        if wanted is not None and start >= wanted:
            worst_kept = decayed[order[:start]].topk(wanted).values[-1]
            if worst_kept > scores[order[start]]:
                break
        rows = order[start : start + ROWS_PER_STEP]
        decayed[rows] = scores[rows] * _decay_of_rows(rows, labels, features, shares)
    return decayed


def _decay_of_rows(
    rows: Tensor, labels: Tensor, features: Tensor, shares: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    decay = torch.ones(len(rows), device=rows.device)
    for label in sorted(set(labels[rows].tolist())):
        mine = torch.nonzero(labels[rows] == label).squeeze(1)
        own = rows[mine]
        rivals = torch.nonzero(labels[: int(own.max())] == label).squeeze(1)  # earlier ones
        if len(rivals):
            decay[mine] = soft_merge_decay(
                shares(own, rivals), features[own], features[rivals], rivals < own[:, None]
            )
    return decay


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
        return slice(int(self.first_in[start]), int(self.last_in[stop - 1]) + 1), slice(start, stop)


@lru_cache(maxsize=16)
def axis_resize(n_in: int, n_out: int) -> AxisResize:
    """The resize of one axis from `n_in` to `n_out`."""
    matrix = resize_matrix(n_in, n_out)
    used = (matrix != 0).numpy()
    last_in = n_in - 1 - used[:, ::-1].argmax(axis=1)
    return AxisResize(matrix, used.argmax(axis=1), last_in)


def rle_shares(rles: Sequence[Rle]) -> Callable[[Tensor, Tensor], Tensor]:
    """Overlap shares from run lengths, for `decayed_scores`."""

    def shares(rows: Tensor, rivals: Tensor) -> Tensor:
        found = overlap_shares([rles[i] for i in rows.tolist()], [rles[j] for j in rivals.tolist()])
        return torch.from_numpy(found).float()

    return shares


def strip_areas(logits: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Pixels of each mask ``(N, h, w)`` at the image's size: ``(N,)`` int64."""
    areas = torch.zeros(len(logits), dtype=torch.int64, device=logits.device)
    for strip in _row_strips(logits, size_hw):
        areas += strip.flatten(1).sum(dim=1)
    return areas


def strip_shares(
    logits: Tensor, size_hw: tuple[int, int], areas: Tensor
) -> Callable[[Tensor, Tensor], Tensor]:
    """Overlap shares from pixels made strip by strip, for `decayed_scores`."""

    def shares(rows: Tensor, rivals: Tensor) -> Tensor:
        both = torch.cat((rows, rivals))
        total = torch.zeros(len(rows), len(rivals), dtype=torch.int64, device=logits.device)
        for strip in _row_strips(logits[both], size_hw):
            pixels = strip.flatten(1)
            total += _intersections(pixels[: len(rows)], pixels[len(rows) :])
        return (total / areas[rows, None]).float()

    return shares


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


def _intersections(rows: Tensor, rivals: Tensor) -> Tensor:
    """Exact counts of common pixels of 0/1 masks ``(n, P)`` and ``(m, P)``: ``(n, m)`` int64."""
    if rows.is_cuda:
        # int8 in, int32 out; the kernel wants sizes in multiples of 8 and more than 16 rows
        n, m = len(rows), len(rivals)
        left, right = _padded(rows), _padded(rivals)
        return torch._int_mm(left, right.T)[:n, :m].long()
    # float32 counts exactly up to 2**24, and no strip has as many pixels
    return (rows.float() @ rivals.float().T).long()


def _padded(pixels: Tensor) -> Tensor:
    n, p = pixels.shape
    return F.pad(pixels.to(torch.int8), (0, -p % 8, 0, max(32 - n, -n % 8)))


def _row_strips(logits: Tensor, size_hw: tuple[int, int]) -> Iterator[Tensor]:
    """Masks at the image's size, some rows at a time: bool ``(N, rows, width)``."""
    height, width = size_hw
    axis = axis_resize(logits.shape[1], height)
    rows = axis.matrix.to(logits.device)
    columns = resize_matrix(logits.shape[2], width).to(logits.device)
    step = max(1, PIXELS_PER_STEP // max(1, len(logits) * width))
    for y in range(0, height, step):
        stop = min(y + step, height)
        used = slice(int(axis.first_in[y]), int(axis.last_in[stop - 1]) + 1)
        yield rows[y:stop, used] @ (logits[:, used] @ columns.T) > 0


def _column_strips(logits: Tensor, size_hw: tuple[int, int]) -> Iterator[tuple[int, Tensor]]:
    """Masks at the image's size, some columns at a time: x, bool ``(N, columns, height)``."""
    height, width = size_hw
    rows = resize_matrix(logits.shape[1], height).to(logits.device)
    columns = resize_matrix(logits.shape[2], width).to(logits.device)
    step = max(1, PIXELS_PER_STEP // max(1, len(logits) * height))
    for x in range(0, width, step):
        # along x first, as torch does, so that the same pixels come out
        across = logits @ columns[x : x + step].T
        yield x, (rows @ across > 0).transpose(1, 2).contiguous()
