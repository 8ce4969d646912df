"""The part of patch features that says where a patch lies, and features without that part.

What an encoder says of an image with nothing in it differs from patch to patch by their places
alone. The directions in which it differs are taken out of the features of every image: the
positional debias of INSID3 (arXiv 2603.28480). Pure functions; it knows no encoder.

Shapes: ``h, w`` the patch grid, ``C`` feature channels, ``k`` directions.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# of the norm of all features: what the rounding of a network in float32 adds up to, at most
ROUNDING = 1e-6


def positional_basis(features: Tensor, count: int) -> Tensor:
    """The directions in which the patch features of an empty image differ most.

    Features of length 1 are the columns of ``E``, ``C x hw``. Their mean over the patches is
    subtracted; of the thin singular value decomposition ``U S V^T`` of what is left the first
    `count` columns of ``U`` are taken. In float64 on the CPU, whatever computed the features, so
    that rounding decides nothing; the signs of the columns do not matter (`without_positions`).

    Args:
        features: ``(h, w, C)`` float32 patch features of an image of zeros, before normalisation.
        count: how many directions are wanted, k, at least 1.

    Returns:
        ``(C, k)`` float32 on the CPU: orthonormal columns, by falling singular value.

    Raises:
        ValueError: the features differ in fewer directions.
    """
    patches = F.normalize(features.flatten(0, 1).cpu().double(), dim=1)
    left, values, _ = torch.linalg.svd((patches - patches.mean(dim=0)).T, full_matrices=False)
    directions = int((values > ROUNDING * math.sqrt(len(patches))).sum())
    if count > directions:
        raise ValueError(f"{count}: features of an empty image differ in {directions} directions")
    basis: Tensor = left[:, :count].float()
    return basis


def without_positions(features: Tensor, basis: Tensor) -> Tensor:
    """Features without what they say of places: ``norm((I - U U^T) norm(f))`` for each patch.

    Args:
        features: ``(..., C)`` float32 patch features of any length.
        basis: ``(C, k)`` float32 on the same device, ``U``: orthonormal columns.

    Returns:
        ``(..., C)`` float32 of length 1, orthogonal to the columns of the basis.
    """
    directions = F.normalize(features, dim=-1)
    return F.normalize(directions - (directions @ basis) @ basis.T, dim=-1)
