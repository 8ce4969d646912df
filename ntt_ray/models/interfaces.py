"""What the method asks of a model: two small protocols and the records they exchange.

Images are float32 ``(B, 3, H, W)``, RGB, values in about [0, 1], not normalised: each model resizes
and normalises as it was trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True)
class Proposals:
    """The masks SAM2 proposes for one image, in the order of their points.

    Attributes:
        logits: ``(N, h, w)`` float32, low-resolution mask logits; a pixel above 0 is in the mask.
        predicted_iou: ``(N,)`` float32, the model's own estimate of each mask's IoU, 0 to 1.
        point_index: ``(N,)`` int64, which grid point each mask came from, strictly rising.
    """

    logits: Tensor
    predicted_iou: Tensor
    point_index: Tensor

    def __post_init__(self) -> None:
        n = len(self.logits)
        if self.logits.ndim != 3 or self.logits.dtype != torch.float32:
            raise ValueError(f"logits must be float32 (N, h, w), not {tuple(self.logits.shape)}")
        if self.predicted_iou.shape != (n,) or self.point_index.shape != (n,):
            raise ValueError("predicted_iou and point_index need one value per mask")

    @classmethod
    def none(cls, side: int, device: torch.device) -> Proposals:
        """No mask at all, of ``side x side`` pixels."""
        nothing = torch.zeros(0, device=device)
        return cls(nothing.view(0, 1, 1).expand(0, side, side), nothing, nothing.long())

    def __len__(self) -> int:
        return len(self.logits)

    def select(self, index: Tensor) -> Proposals:
        """Keep some proposals: `index` is a bool mask or int64 positions, for all fields alike."""
        return Proposals(self.logits[index], self.predicted_iou[index], self.point_index[index])


@dataclass(frozen=True, slots=True)
class BoxCandidates:
    """The masks SAM2 offers for one box.

    Attributes:
        logits: ``(N, h, w)`` float32, low-resolution mask logits; the first is SAM2's one answer to
            the box, the others are its alternatives.
        predicted_iou: ``(N,)`` float32, the model's own estimate of each mask's IoU, 0 to 1.
    """

    logits: Tensor
    predicted_iou: Tensor

    def __post_init__(self) -> None:
        if self.logits.ndim != 3 or self.logits.dtype != torch.float32 or not len(self.logits):
            raise ValueError(f"logits must be float32 (N, h, w), not {tuple(self.logits.shape)}")
        if self.predicted_iou.shape != (len(self.logits),):
            raise ValueError("predicted_iou needs one value per mask")


class Encoder(Protocol):
    """Image to patch features (DINOv2)."""

    name: str
    image_size: int
    patch_size: int
    feature_dim: int

    def encode(self, images: Tensor) -> Tensor:
        """Images ``(B, 3, H, W)`` to float32 patch features ``(B, h, w, dim)``, not normalised."""
        ...


class Proposer(Protocol):
    """Image to mask proposals (SAM2).

    Attributes:
        points: ``(P, 2)`` float32 (x, y) in pixels of the input, the grid that is asked.
    """

    image_size: int
    points_per_step: int
    device: torch.device
    points: Tensor

    def propose(
        self,
        images: Tensor,
        min_predicted_iou: float,
        wanted: Sequence[int] | None = None,
        points: Tensor | None = None,
    ) -> list[Proposals]:
        """Images ``(B, 3, S, S)`` to proposals whose predicted IoU is above the threshold.

        Proposals are given for the positions in `wanted` only; None wants all. Of the grid only
        `points` are asked, int64 ``(n,)``, rising; None asks all.
        """
        ...


class BoxPrompter(Protocol):
    """Image and boxes to masks (SAM2)."""

    image_size: int

    def candidates(self, image: Tensor, boxes_xyxy: Tensor) -> list[BoxCandidates]:
        """Image ``(3, S, S)`` and boxes ``(N, 4)`` in its pixels to the masks of each box."""
        ...


def normalize_imagenet(images: Tensor) -> Tensor:
    """Subtract ImageNet's mean and divide by its standard deviation, per channel."""
    mean = torch.tensor(IMAGENET_MEAN, dtype=images.dtype, device=images.device)
    std = torch.tensor(IMAGENET_STD, dtype=images.dtype, device=images.device)
    return (images - mean[:, None, None]) / std[:, None, None]
