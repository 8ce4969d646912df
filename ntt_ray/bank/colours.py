"""Patch features as colours: three principal components over all references of a bank together.

Equal colours mean that the encoder sees equal things, in every picture. It knows neither crops nor
files; pictures are small arrays, and the features are not kept.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

MAX_SIDE = 20  # patches; larger grids are averaged: 0.8 MB a reference at 1024 channels
MAX_KEPT = 320  # references whose picture is made, about 0.25 GB at 1024 channels
_QUANTILES = (0.02, 0.98)  # of each component: what becomes black and what full colour

Picture = npt.NDArray[np.uint8]


class PatchColours:
    """Gathers patch features one reference at a time, then colours them.

    The components are those of all references; pictures are made of the first `max_kept`.
    """

    def __init__(self, max_kept: int = MAX_KEPT) -> None:
        self._max_kept = max_kept
        self._kept: dict[int, Tensor] = {}
        self._count = 0
        self._sum = self._products = torch.zeros((), dtype=torch.float64)

    def add(self, identity: int, features: Tensor) -> None:
        """Take the patch features ``(h, w, dim)`` of the next reference."""
        small = _averaged(features.float().cpu())
        flat = small.flatten(0, 1).double()
        self._sum = self._sum + flat.sum(dim=0)
        self._products = self._products + flat.T @ flat
        self._count += len(flat)
        if len(self._kept) < self._max_kept:
            self._kept[identity] = small.half()

    def pictures(self) -> dict[int, Picture]:
        """Pictures of the first references by their identity: RGB ``(h, w, 3)`` uint8."""
        if not self._kept:
            return {}
        mean, components = self._components()
        projected = {i: (kept.double() - mean) @ components for i, kept in self._kept.items()}
        every = torch.cat([p.flatten(0, 1) for p in projected.values()]).numpy()
        low, high = np.quantile(every, _QUANTILES, axis=0)
        span = np.maximum(high - low, 1e-12)
        return {i: _to_bytes((p.numpy() - low) / span) for i, p in projected.items()}

    def _components(self) -> tuple[Tensor, Tensor]:
        """The mean ``(dim,)`` and the three strongest directions ``(dim, 3)``.

        The sign of a direction is free; its entry of the largest size is made positive.
        """
        mean = self._sum / self._count
        _, vectors = torch.linalg.eigh(self._products / self._count - torch.outer(mean, mean))
        strongest = F.pad(vectors[:, -3:].flip(1), (0, max(0, 3 - vectors.shape[1])))
        largest = strongest.gather(0, strongest.abs().argmax(dim=0, keepdim=True))
        return mean, strongest * torch.where(largest < 0, -1.0, 1.0)


def _averaged(features: Tensor) -> Tensor:
    height, width = features.shape[:2]
    if max(height, width) <= MAX_SIDE:
        return features
    side = (min(height, MAX_SIDE), min(width, MAX_SIDE))
    return F.adaptive_avg_pool2d(features.permute(2, 0, 1), side).permute(1, 2, 0)


def _to_bytes(shares: npt.NDArray[Any]) -> Picture:
    picture: Picture = (np.clip(shares, 0, 1) * 255).round().astype(np.uint8)
    return picture
