"""Pixels on their way into the models: from bytes to the values that both models start from."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from queue import SimpleQueue
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ntt_ray.images import RgbImage

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def to_input(resized_rgb: Sequence[RgbImage], ring: InputRing | None = None) -> Tensor:
    """Images at the proposer's size to the tensor both models start from (METHOD 16).

    The bytes travel to the device, a quarter of what the float values would be.

    Args:
        resized_rgb: uint8 ``(S, S, 3)`` each, at least one.
        ring: the way to a device; None stays on the CPU.

    Returns:
        ``(B, 3, S, S)`` float32 in [0, 1].
    """
    stacked = torch.from_numpy(np.stack(resized_rgb)) if ring is None else ring.copy(resized_rgb)
    return stacked.permute(0, 3, 1, 2).contiguous().float() / 255


class InputRing:
    """The way of images to a GPU: a few buffers of pinned memory, which are used in turn.

    Images are copied once on the host, from where their decoder left them; the GPU copies them from
    there while the host goes on. A buffer is filled anew when the GPU is done with it.
    """

    def __init__(self, device: torch.device, buffers: int = 2) -> None:
        """Take no memory yet.

        Args:
            device: where images shall be.
            buffers: how many batches may be on their way.
        """
        self._device = device
        self._idle = SimpleQueue[_Buffer]()
        for _ in range(buffers):
            self._idle.put(_Buffer())

    @classmethod
    def to(cls, device: torch.device) -> InputRing | None:
        """The way to a device; None where there is none to go."""
        return cls(device) if device.type == "cuda" else None

    def copy(self, images_rgb: Sequence[RgbImage]) -> Tensor:
        """Copy images, uint8 ``(S, S, 3)`` each, to the device: ``(B, S, S, 3)``."""
        buffer = self._idle.get()
        try:
            return buffer.copy(images_rgb, self._device)
        finally:
            self._idle.put(buffer)


class _Buffer:
    """Pinned memory for a batch; as large as the batch before."""

    def __init__(self) -> None:
        self._pinned = torch.empty(0)
        self._copied: Any = None

    def copy(self, images_rgb: Sequence[RgbImage], device: torch.device) -> Tensor:
        """See `InputRing.copy`; waits for the copy before."""
        cuda: Any = torch.cuda
        if self._copied is None:
            self._copied = cuda.Event()
        self._copied.synchronize()  # at once where nothing was recorded
        shape = (len(images_rgb), *images_rgb[0].shape)
        if self._pinned.shape != shape:
            self._pinned = _pinned(shape)
        for place, image in zip(self._pinned.numpy(), images_rgb, strict=True):
            np.copyto(place, image)
        on_device = self._pinned.to(device, non_blocking=True, copy=True)
        self._copied.record(cuda.current_stream(device))
        return on_device


def _pinned(shape: tuple[int, ...]) -> Tensor:
    return torch.empty(shape, dtype=torch.uint8, pin_memory=True)


def normalize_imagenet(images: Tensor) -> Tensor:
    """Subtract ImageNet's mean and divide by its standard deviation, per channel."""
    mean, std = _imagenet(images.dtype, images.device)
    return (images - mean) / std


@lru_cache(maxsize=8)
def _imagenet(dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation, ``(3, 1, 1)`` each, resident on a device."""
    mean, std = (torch.tensor(values, dtype=dtype) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return mean.view(3, 1, 1).to(device), std.view(3, 1, 1).to(device)
