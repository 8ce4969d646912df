"""DINOv2: images to patch features. timm's ViT with the official checkpoints' key layout.

Knows the published names and how their files map onto timm. It does not know references, masks or
scores.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import timm
import torch
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn

from ntt_ray.config import Architecture
from ntt_ray.models.published import BUNDLED, bundled_file
from ntt_ray.models.vit import VitEncoder, to_timm_keys
from ntt_ray.models.weights import load_into, read_state_dict

_TIMM_SIZES = {"s": "small", "b": "base", "l": "large", "g": "giant"}


class Dinov2Encoder(VitEncoder):
    """A loaded DINOv2 in evaluation mode."""

    @classmethod
    def load(
        cls,
        checkpoint: Path,
        *,
        name: str,
        image_size: int,
        architecture: Architecture | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Dinov2Encoder:
        """Build the model and load an official ``.pth`` or a safetensors file of the same keys.

        Position embeddings of another grid are resampled to `image_size`, as timm does.

        Args:
            checkpoint: path of the local file.
            name: ``dinov2_vit{s,b,l,g}14`` or ``..._reg``; with `architecture` any name.
            image_size: side of the square input in pixels.
            architecture: the size of the network, when it is not that of a published name.
            device: device that the network runs on.
            dtype: precision of weights and activations.

        Raises:
            WeightsError: keys or shapes do not fit; the first differences are named.
        """
        model = build_vit(name, image_size, architecture)
        tensors = read_state_dict(checkpoint)
        tensors = to_timm_keys(tensors, model, checkpoint, checkpoint_filter_fn)
        load_into(model, tensors, checkpoint)
        return cls(model, name, image_size, torch.device(device), dtype)


def build_vit(name: str, image_size: int, architecture: Architecture | None) -> VisionTransformer:
    """The timm model for a published name, or of the given size; random weights."""
    if name in BUNDLED and architecture is None:
        architecture = _bundled_architecture(name)
    options: dict[str, Any] = {"pretrained": False, "num_classes": 0, "img_size": image_size}
    if architecture is not None:
        timm_name = "vit_small_patch14_dinov2"
        options |= {**architecture.model_dump(), "init_values": 1e-5}
    else:
        size = _TIMM_SIZES[name.removeprefix("dinov2_vit")[0]]
        registers = "reg4_" if name.endswith("_reg") else ""
        timm_name = f"vit_{size}_patch14_{registers}dinov2"
    return cast(VisionTransformer, timm.create_model(timm_name, **options))


def _bundled_architecture(name: str) -> Architecture:
    stored = json.loads(bundled_file(f"{name}.json").read_text(encoding="ascii"))
    return Architecture(**{key: stored[key] for key in Architecture.model_fields})
