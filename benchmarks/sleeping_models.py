"""Models that only sleep, where a benchmark is about everything around them.

Loaded in the labelling actors alone, so that a driver that is measured does not import torch.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from ntt_ray.models.interfaces import Proposals

SIDE = 64  # of the images that SAM2 would see, in pixels


class SleepingEncoder:
    """Gives the same features for every image."""

    name = "sleeping"
    image_size = 56
    patch_size = 14
    feature_dim = 4

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Features ``(B, 4, 4, 4)``."""
        return torch.ones(len(images), 4, 4, self.feature_dim)


class SleepingProposer:
    """Gives the same masks for every image, after so many seconds."""

    image_size = SIDE
    device = torch.device("cpu")

    def __init__(self, image_s: float, masks: int) -> None:
        self._image_s = image_s
        logits = torch.full((masks, SIDE // 4, SIDE // 4), -5.0)
        for number in range(masks):
            logits[number, 2 : 6 + number, 3:9] = 5.0
        self._proposals = Proposals(logits, torch.full((masks,), 0.9), torch.arange(masks))

    def propose(
        self,
        images: torch.Tensor,
        min_predicted_iou: float,
        wanted: Sequence[int] | None = None,
    ) -> list[Proposals]:
        """The masks, once for each image wanted."""
        time.sleep(self._image_s * len(images))
        return [self._proposals for _ in (images if wanted is None else wanted)]

    def halve_step(self) -> bool:
        """No step is smaller than a nap."""
        return False
