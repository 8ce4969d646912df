"""DINOv2 on images in their own proportions, not stretched to a square.

As in FSOD-VFM (arXiv 2602.03137): the long side of the input is as configured, the short side is in
proportion, and position embeddings are interpolated to the patch grid of each image, as timm does
it. Unlike there, the input is made of the image as SAM2 gets it, and features are those after the
final LayerNorm. A grid of any proportions covers the whole image, as masks do.

It does not know references, masks or scores.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from ntt_ray.config import Architecture
from ntt_ray.models.dinov2 import PATCH_SIZE, Dinov2Encoder, build_vit, load_vit
from ntt_ray.models.inputs import normalize_imagenet
from ntt_ray.models.weights import read_state_dict


def aspect_size(size_hw: tuple[int, int], long_side: int, patch_size: int) -> tuple[int, int]:
    """The input's size for an image: its long side as given, its short side in proportion.

    The short side is the multiple of `patch_size` that is nearest to the proportion, of two the
    larger one, and one patch at least: 480 x 640 at a long side of 630 becomes 476 x 630, because
    34 patches of 14 are nearer to 472.5 pixels than 33.

    Args:
        size_hw: height and width of the image in pixels.
        long_side: long side of the input in pixels, a multiple of `patch_size`.
        patch_size: side of a patch in pixels.

    Returns:
        Height and width of the input in pixels.
    """
    short, long = min(size_hw), max(size_hw)
    # in integers: halves must be halves on every machine
    patches = max(1, (2 * short * long_side + long * patch_size) // (2 * long * patch_size))
    inputs = (patches * patch_size, long_side)
    return inputs if size_hw[0] <= size_hw[1] else inputs[::-1]


class AspectEncoder(Dinov2Encoder):
    """A DINOv2 whose `image_size` is the long side of inputs in the proportions of each image.

    Images go through the network one by one: their inputs differ in size, and the features of one
    must not depend on which others come with it.
    """

    @classmethod
    def _loaded(
        cls, checkpoint: Path, name: str, image_size: int, architecture: Architecture | None
    ) -> VisionTransformer:
        """The network with the positions of the checkpoint's own grid, for inputs of any size."""
        tensors = read_state_dict(checkpoint)
        patch_size = PATCH_SIZE if architecture is None else architecture.patch_size
        if (positions := tensors.get("pos_embed")) is not None and positions.ndim == 3:
            image_size = patch_size * math.isqrt(positions.shape[1])  # one more may be the class
        model = build_vit(name, image_size, architecture, any_size=True)
        return load_vit(model, tensors, checkpoint)

    def input_size(self, size_hw: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the input for an image of some height and width."""
        return aspect_size(size_hw, self.image_size, self.patch_size)

    def encode(self, images: Tensor) -> Tensor:
        """Patch features of images ``(B, 3, H, W)`` that are in their own proportions.

        Returns:
            ``(B, h, w, feature_dim)`` float32; see `encode_sized`.
        """
        size_hw = (images.shape[-2], images.shape[-1])
        return torch.stack(self.encode_sized(images, [size_hw] * len(images)))

    @torch.inference_mode()
    def encode_sized(
        self, images: Tensor, sizes_hw: Sequence[tuple[int, int] | None]
    ) -> list[Tensor]:
        """Patch features after the final LayerNorm of images that were stretched to one size.

        Each is resized straight to its input: bicubic, with antialias, because the short side may
        shrink to a small part. Images are float32 in about [0, 1].

        Args:
            images: ``(B, 3, H, W)`` float32.
            sizes_hw: height and width of each original image; None, or a missing one at the end,
                wants no features.

        Returns:
            For each of `sizes_hw` features ``(h, w, feature_dim)`` float32, not L2-normalised, rows
            top to bottom; of None ``(0, 0, feature_dim)``.
        """
        return [
            image.new_zeros(0, 0, self.feature_dim)
            if size is None
            else self._encoded(image[None], self.input_size(size))
            for image, size in zip(images, sizes_hw)
        ]

    def _encoded(self, image: Tensor, size_hw: tuple[int, int]) -> Tensor:
        image = image.to(self._device)
        if tuple(image.shape[-2:]) != size_hw:
            image = F.interpolate(
                image, size=size_hw, mode="bicubic", align_corners=False, antialias=True
            )
        inputs = normalize_imagenet(image).to(self._dtype)
        tokens: Tensor = self._forward(inputs)[0, self._model.num_prefix_tokens :]
        assert self.basis is None, "directions of places are those of one size of input"
        height, width = (side // self.patch_size for side in size_hw)
        return tokens.float().reshape(height, width, self.feature_dim)
