"""DINOv2: images to patch features. timm's ViT with the official checkpoints' key layout.

Knows the published names, how their files map onto timm, and what the encoder does to an image
before the network. It does not know references, masks or scores.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, cast

import timm
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor

from ntt_ray.errors import WeightsError
from ntt_ray.models.compilation import CompileOptions
from ntt_ray.models.protocols import normalize_imagenet
from ntt_ray.models.published import BUNDLED, bundled_file
from ntt_ray.models.weights import load_into, read_state_dict

_TIMM_SIZES = {"s": "small", "b": "base", "l": "large", "g": "giant"}


@dataclass(frozen=True)
class VitDimensions:
    """A ViT of any size in the official layout, see `Dinov2Encoder.load`."""

    embed_dim: int
    depth: int
    num_heads: int
    patch_size: int = 14


class Dinov2Encoder:
    """A loaded DINOv2 in evaluation mode.

    Attributes:
        name: model name, written into the memory bank.
        image_size: side of the square input in pixels, a multiple of `patch_size`.
        patch_size: side of a patch in pixels.
        feature_dim: channels of a patch feature.
    """

    def __init__(
        self,
        model: VisionTransformer,
        name: str,
        image_size: int,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.name = name
        self.image_size = image_size
        self.patch_size = int(model.patch_embed.patch_size[0])
        self.feature_dim = int(model.embed_dim)
        self._device, self._dtype = device, dtype
        self._model = model.to(device=device, dtype=dtype).eval().requires_grad_(False)
        self._forward = self._model.forward_features

    @classmethod
    def load(
        cls,
        checkpoint: Path,
        *,
        name: str,
        image_size: int,
        dimensions: VitDimensions | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Dinov2Encoder:
        """Build the model and load an official ``.pth`` or a safetensors file of the same keys.

        Position embeddings of another grid are resampled to `image_size`, as timm does.

        Args:
            checkpoint: local file.
            name: ``dinov2_vit{s,b,l,g}14`` or ``..._reg``; with `dimensions` any name.
            image_size: side of the square input in pixels.
            dimensions: architecture, when it is not the one of a published name.
            device: where to run.
            dtype: precision of weights and activations.

        Raises:
            WeightsError: keys or shapes do not fit; the first differences are named.
        """
        model = build_vit(name, image_size, dimensions)
        load_into(model, _to_timm_keys(read_state_dict(checkpoint), model, checkpoint), checkpoint)
        return cls(model, name, image_size, torch.device(device), dtype)

    def compile(self, options: CompileOptions) -> None:
        """Compile the network; the first images then take minutes."""
        self._forward = options.compile(self._model.forward_features)

    def prepare(self, images: Tensor) -> Tensor:
        """Resize to the encoder's input and normalise (METHOD 9, 17).

        Bicubic without antialias, overshoot kept; then ImageNet mean and standard deviation.

        Args:
            images: ``(B, 3, H, W)`` float32 in about [0, 1].

        Returns:
            ``(B, 3, image_size, image_size)`` float32.
        """
        side = (self.image_size, self.image_size)
        if tuple(images.shape[-2:]) != side:
            images = F.interpolate(images, size=side, mode="bicubic", align_corners=False)
        return normalize_imagenet(images)

    @torch.inference_mode()
    def encode(self, images: Tensor) -> Tensor:
        """Patch features after the final LayerNorm, without class and register tokens (METHOD 10).

        Args:
            images: ``(B, 3, H, W)`` float32 in about [0, 1], any size.

        Returns:
            ``(B, h, w, feature_dim)`` float32, not L2-normalised, rows top to bottom.
        """
        inputs = self.prepare(images.to(self._device)).to(self._dtype)
        tokens = self._forward(inputs)[:, self._model.num_prefix_tokens :]
        grid = self.image_size // self.patch_size
        return tokens.float().reshape(len(images), grid, grid, self.feature_dim)


def build_vit(name: str, image_size: int, dimensions: VitDimensions | None) -> VisionTransformer:
    """The timm model for a published name, or of the given dimensions; random weights."""
    if name in BUNDLED and dimensions is None:
        dimensions = _bundled_dimensions(name)
    options: dict[str, Any] = {"pretrained": False, "num_classes": 0, "img_size": image_size}
    if dimensions is not None:
        timm_name = "vit_small_patch14_dinov2"
        options |= {**asdict(dimensions), "init_values": 1e-5}
    else:
        size = _TIMM_SIZES[name.removeprefix("dinov2_vit")[0]]
        registers = "reg4_" if name.endswith("_reg") else ""
        timm_name = f"vit_{size}_patch14_{registers}dinov2"
    return cast(VisionTransformer, timm.create_model(timm_name, **options))


def _bundled_dimensions(name: str) -> VitDimensions:
    stored = json.loads(bundled_file(f"{name}.json").read_text(encoding="ascii"))
    return VitDimensions(**{item.name: stored[item.name] for item in fields(VitDimensions)})


def _to_timm_keys(
    tensors: Mapping[str, Tensor], model: VisionTransformer, path: Path
) -> dict[str, Tensor]:
    """Official DINOv2 keys to timm's; timm's own keys pass through unchanged."""
    patch_weight = tensors.get("patch_embed.proj.weight")
    wanted = tuple(model.patch_embed.proj.weight.shape)
    if patch_weight is not None and tuple(patch_weight.shape) != wanted:
        # timm would resample it to another patch size without a word
        raise WeightsError(
            f"{path} does not fit the model: patch_embed.proj.weight is "
            f"{list(patch_weight.shape)}, the model has {list(wanted)}"
        )
    level = logging.getLogger("timm").level
    logging.getLogger("timm").setLevel(logging.WARNING)
    try:
        return dict(checkpoint_filter_fn(dict(tensors), model))
    except (KeyError, RuntimeError, IndexError, ValueError) as error:
        raise WeightsError(f"{path} does not look like a DINOv2 checkpoint: {error}") from None
    finally:
        logging.getLogger("timm").setLevel(level)
