"""Proposals as a proposer gives them for a full image, with random weights' place taken by a seed.

Random networks propose noise, which says nothing about matching and merging. Here ellipses of all
sizes overlap each other, and the patch features of a region resemble one class, as in images.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ntt_ray.bank.memory import MemoryBank
from ntt_ray.models.interfaces import Proposals
from ntt_ray.records import ClassLabel

REGIONS = 40


def synthetic_bank(dim: int, classes: int) -> MemoryBank:
    """A bank of random prototypes of `dim` channels."""
    generator = torch.Generator().manual_seed(0)
    means = [[(torch.randn(dim, generator=generator), 1.0)] for _ in range(classes)]
    labels = [ClassLabel(i + 1, f"class {i + 1}") for i in range(classes)]
    return MemoryBank.from_means(labels, means, encoder={}, reference_digest="")


def synthetic_features(prototypes: Tensor, grid: int, seed: int = 0) -> Tensor:
    """Patch features ``(grid, grid, C)`` float32: regions that resemble one class each.

    Args:
        prototypes: ``(K, C)`` float32 of length 1.
        grid: patches along a side.
        seed: the seed of the regions and the noise.
    """
    generator = torch.Generator().manual_seed(seed)
    classes, dim = prototypes.shape
    centres = torch.rand(REGIONS, 2, generator=generator) * grid
    label = torch.randint(0, classes, (REGIONS,), generator=generator)
    strength = torch.rand(REGIONS, generator=generator) * 0.7 + 0.15
    ticks = torch.arange(float(grid))
    places = torch.cartesian_prod(ticks, ticks)
    region = torch.cdist(places, centres).argmin(dim=1)
    noise = torch.randn(grid * grid, dim, generator=generator) * 3 / dim**0.5
    own = strength[region, None]
    return (own * prototypes[label[region]] + (1 - own) * noise).view(grid, grid, dim)


def synthetic_proposals(count: int, side: int, seed: int = 0) -> Proposals:
    """Ellipses of 2 to 18 % of the side in radius, at random places; each is proposed twice.

    On images more points than two share an object; with fewer masks for each, more are merged.

    Args:
        count: number of proposals.
        side: side of the low-resolution masks in pixels.
        seed: the seed of places, sizes and predicted IoUs, which lie in [0.4, 1).
    """
    generator = torch.Generator().manual_seed(seed)
    objects = -(-count // 2)
    centre = (torch.rand(objects, 2, generator=generator) * side).repeat(2, 1)[:count]
    radius = torch.exp(torch.rand(objects, 2, generator=generator) * 2.2 + 1.6) * side / 256
    radius = radius.repeat(2, 1)[:count]
    centre += (torch.rand(count, 2, generator=generator) - 0.5) * 0.1 * radius
    iou = torch.rand(count, generator=generator) * 0.6 + 0.4
    ticks = torch.arange(float(side))
    y = ((ticks - centre[:, :1]) / radius[:, :1]).square()
    x = ((ticks - centre[:, 1:]) / radius[:, 1:]).square()
    logits = (6 - 6 * (y[:, :, None] + x[:, None, :])).clamp(-20, 20)
    return Proposals(logits, iou, torch.arange(count))
