"""Pixels on their way into the models: from bytes to the values that both models start from."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ntt_ray.images import RgbImage

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def to_input(resized_rgb: Sequence[RgbImage], device: torch.device | None = None) -> Tensor:
    """Images at the proposer's size to the tensor both models start from (METHOD 16).

    The bytes travel to the device, a quarter of what the float values would be.

    Args:
        resized_rgb: uint8 ``(S, S, 3)`` each, at least one.
        device: where the tensor shall be; None is the CPU.

    Returns:
        ``(B, 3, S, S)`` float32 in [0, 1].
    """
    stacked = torch.from_numpy(np.stack(resized_rgb))
    if device is not None and device.type == "cuda":
        stacked = stacked.pin_memory().to(device, non_blocking=True)
    return stacked.permute(0, 3, 1, 2).contiguous().float() / 255


def normalize_imagenet(images: Tensor) -> Tensor:
    """Subtract ImageNet's mean and divide by its standard deviation, per channel."""
    mean, std = _imagenet(images.dtype, images.device)
    return (images - mean) / std


@lru_cache(maxsize=8)
def _imagenet(dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation, ``(3, 1, 1)`` each, resident on a device."""
    mean, std = (torch.tensor(values, dtype=dtype) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return mean.view(3, 1, 1).to(device), std.view(3, 1, 1).to(device)
