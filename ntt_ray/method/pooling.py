"""Mean features inside the masks of proposals, at the masks' resolution.

Shapes: ``h, w`` the patch grid, ``C`` feature channels, ``H, W`` the low-resolution masks
(S/4 of SAM2's input), ``N`` masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor


def pooled_features(features: Tensor, masks: Tensor) -> Tensor:
    """L2-normalised mean feature inside each mask (METHOD 26 to 28).

    Equal to resizing the features bilinearly to the masks' size and averaging there. The resize
    is linear, so its adjoint is applied to the masks instead: with A the resize along one axis,
    ``sum_yx M[y,x] (A F A^T)[y,x] = sum_ij (A^T M A)[i,j] F[i,j]``. The large feature map is
    never made.

    Args:
        features: ``(h, w, C)`` float32 patch features.
        masks: ``(N, H, W)`` bool.

    Returns:
        ``(N, C)`` float32 of length 1; of an empty mask 0.
    """
    weights = masks.to(features.dtype)
    sums = at_patches(weights, features.shape[:2]) @ features.flatten(0, 1)
    areas = weights.flatten(1).sum(dim=1, keepdim=True)
    return F.normalize(sums / areas.clamp(min=1), dim=1)


def at_patches(weights: Tensor, grid: Sequence[int]) -> Tensor:
    """How much of each mask each patch has, see `pooled_features`.

    Args:
        weights: ``(N, H, W)`` float32, 1 in the masks and 0 elsewhere.
        grid: numbers of patches ``(h, w)``.

    Returns:
        ``(N, h * w)`` float32, patches row by row; the sum of a row is the area of its mask.
    """
    rows = resize_matrix_on(grid[0], weights.shape[1], weights.device)
    columns = resize_matrix_on(grid[1], weights.shape[2], weights.device)
    return (rows.T @ (weights @ columns)).flatten(1)


def mean_patch_feature(features: Tensor) -> Tensor:
    """L2-normalised mean of all patch features of an image: what a mask of all of it would have.

    Args:
        features: ``(h, w, C)`` float32 patch features.

    Returns:
        ``(C,)`` float32 of length 1.
    """
    return F.normalize(features.flatten(0, 1).mean(dim=0), dim=0)


@lru_cache(maxsize=64)
def resize_matrix_on(n_in: int, n_out: int, device: torch.device) -> Tensor:
    """`resize_matrix`, resident on a device: sizes repeat from image to image.

    Several streams may use one. It falls out of the cache many images after it was used last, when
    the device is done with it.
    """
    return resize_matrix(n_in, n_out).to(device)


@lru_cache(maxsize=16)
def resize_matrix(n_in: int, n_out: int) -> Tensor:
    """The matrix ``(n_out, n_in)`` float32 of torch's antialiased bilinear resize of one axis.

    Taken from torch itself, so that it equals ``F.interpolate(..., mode="bilinear",
    align_corners=False, antialias=True)`` bit for bit.
    """
    # An identity image, resized along its first axis only. (torch's antialiased resize is wrong
    # for images of width 1, so the axis that stays must not be thinner.)
    width = max(n_in, 2)
    identity = torch.eye(n_in, width)[None, None]
    resized = F.interpolate(
        identity, size=(n_out, width), mode="bilinear", align_corners=False, antialias=True
    )
    return resized[0, 0, :, :n_in].contiguous()
