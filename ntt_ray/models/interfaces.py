"""What the method asks of a model: small protocols, and the records they exchange.

Images are float32 ``(B, 3, H, W)``, RGB, values in about [0, 1], not normalised: each model resizes
and normalises as it was trained. Nothing here knows a model: another proposer is a module beside
this one and a line in `spec`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

BoxPrompt = Literal["box", "centre", "points"]


@dataclass(frozen=True, slots=True)
class Proposals:
    """The masks proposed for one image.

    Attributes:
        logits: ``(N, h, w)`` float32, low-resolution mask logits; a pixel above 0 is in the mask.
        predicted_iou: ``(N,)`` float32, the model's own estimate of each mask's IoU, 0 to 1.
        index: ``(N,)`` int64, strictly rising, the place of each mask among all that the proposer
            considered; of two detections with equal scores the lower one goes first.
        objectness: ``(N,)`` float32, the score that a detector gave the box of each mask, 0 to 1;
            None where nothing is made of it.
    """

    logits: Tensor
    predicted_iou: Tensor
    index: Tensor
    objectness: Tensor | None = None

    def __post_init__(self) -> None:
        n = len(self.logits)
        if self.logits.ndim != 3 or self.logits.dtype != torch.float32:
            raise ValueError(f"logits must be float32 (N, h, w), not {tuple(self.logits.shape)}")
        if self.predicted_iou.shape != (n,) or self.index.shape != (n,):
            raise ValueError("predicted_iou and index need one value per mask")
        if self.objectness is not None and self.objectness.shape != (n,):
            raise ValueError("objectness needs one value per mask")

    @classmethod
    def none(cls, side: int, device: torch.device) -> Proposals:
        """No mask at all, of ``side x side`` pixels."""
        nothing = torch.zeros(0, device=device)
        return cls(nothing.view(0, 1, 1).expand(0, side, side), nothing, nothing.long())

    def __len__(self) -> int:
        return len(self.logits)

    def select(self, kept: Tensor) -> Proposals:
        """Keep some proposals: `kept` is a bool mask or int64 positions, for all fields alike."""
        objectness = None if self.objectness is None else self.objectness[kept]
        return Proposals(self.logits[kept], self.predicted_iou[kept], self.index[kept], objectness)


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
    """Image to patch features (DINOv2, DINOv3).

    Attributes:
        name: model name, written into the memory bank.
        image_size: side of the square input in pixels.
        patch_size: side of a patch in pixels.
        feature_dim: channels of a patch feature.
    """

    name: str
    image_size: int
    patch_size: int
    feature_dim: int

    def encode(self, images: Tensor) -> Tensor:
        """Images ``(B, 3, H, W)`` to float32 patch features ``(B, h, w, dim)`` of any length."""


@runtime_checkable
class SizedEncoder(Encoder, Protocol):
    """An encoder that sees each image in its own proportions; `image_size` is the long side."""

    def input_size(self, size_hw: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the input for an image of some height and width."""

    def encode_sized(
        self, images: Tensor, sizes_hw: Sequence[tuple[int, int] | None]
    ) -> Sequence[Tensor]:
        """Images ``(B, 3, H, W)`` that were stretched to one size to the features of each.

        Args:
            images: the images.
            sizes_hw: height and width of each image before; None, or a missing one at the end,
                wants no features, and what is given for it is not to be used.
        """


def encoded(
    encoder: Encoder, images: Tensor, sizes_hw: Sequence[tuple[int, int] | None]
) -> Tensor | Sequence[Tensor]:
    """Patch features of images as the encoder sees them: all alike, or in their own proportions.

    Args:
        encoder: makes patch features.
        images: ``(B, 3, H, W)``, stretched to one size.
        sizes_hw: height and width of each image before; see `SizedEncoder.encode_sized`.

    Returns:
        ``(h, w, dim)`` float32 at the position of each image that has a size; they cover all of it.
    """
    if isinstance(encoder, SizedEncoder):
        return encoder.encode_sized(images, sizes_hw)
    return encoder.encode(images)


class Proposer(Protocol):
    """Image to masks with scores (SAM2, or any other model that proposes masks).

    Attributes:
        image_size: side S of the square input in pixels.
        device: where images are expected and masks are given.
    """

    image_size: int
    device: torch.device

    def propose(
        self, images: Tensor, min_predicted_iou: float, wanted: Sequence[int] | None = None
    ) -> list[Proposals]:
        """Images ``(B, 3, S, S)`` to proposals whose predicted IoU is above the threshold.

        What one image gets does not depend on the others. Proposals are given for the positions in
        `wanted` only; None wants all.
        """

    def halve_step(self) -> bool:
        """Work in smaller steps from now on, for less memory; False where they cannot be smaller.

        What is proposed stays the same, up to rounding.
        """


@runtime_checkable
class PromptableProposer(Proposer, Protocol):
    """A proposer that looks for masks at points, and can be asked at some of them only.

    Attributes:
        points: ``(P, 2)`` float32 (x, y) in pixels of the input, where `propose` looks.
    """

    points: Tensor

    def propose_at(self, image: Tensor, min_predicted_iou: float, points: Tensor) -> Proposals:
        """Image ``(3, S, S)`` to the proposals that `propose` finds at some of the points.

        Args:
            image: one image.
            min_predicted_iou: proposals have a predicted IoU above it, strictly.
            points: int64 ``(n,)``, positions in `points`, rising; there may be none.
        """


@runtime_checkable
class BoxedProposer(Proposer, Protocol):
    """A proposer that can be asked for the objects in boxes, besides or instead of all objects."""

    def propose_in_boxes(
        self,
        images: Tensor,
        min_predicted_iou: float,
        wanted: Sequence[int],
        boxes_xyxy: Sequence[Tensor],
        *,
        prompt: BoxPrompt,
        everywhere: bool,
    ) -> list[Proposals]:
        """Images ``(B, 3, S, S)`` to the proposals of boxes; what one gets depends on its own.

        Args:
            images: the images.
            min_predicted_iou: proposals have a predicted IoU above it, strictly.
            wanted: the positions in `images` that proposals are given for.
            boxes_xyxy: ``(N, 4)`` float32 for each of `wanted`, in pixels of the input; N may be 0.
            prompt: with what of a box it is asked.
            everywhere: whether what `propose` finds comes first; `index` counts on behind it.
        """


class BoxPrompter(Protocol):
    """Image and boxes to masks (SAM2).

    Attributes:
        image_size: side S of the square input in pixels.
    """

    image_size: int

    def candidates(self, image: Tensor, boxes_xyxy: Tensor) -> list[BoxCandidates]:
        """Image ``(3, S, S)`` and boxes ``(N, 4)`` in its pixels to the masks of each box."""
