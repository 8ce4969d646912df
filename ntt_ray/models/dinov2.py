"""DINOv2: images to patch features. timm's ViT with the official checkpoints' key layout.

Knows the published names and how their files map onto timm. It does not know references, masks or
scores.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import timm
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor

from ntt_ray.config import Architecture
from ntt_ray.models.published import BUNDLED, bundled_file
from ntt_ray.models.vit import VitEncoder, to_timm_keys
from ntt_ray.models.weights import load_into, read_state_dict

PATCH_SIZE = 14  # of the published ones, and of the bundled one
_TIMM_SIZES = {"s": "small", "b": "base", "l": "large", "g": "giant"}


class Dinov2Encoder(VitEncoder):
    """A loaded DINOv2 in evaluation mode.

    Its names are ``dinov2_vit{s,b,l,g}14`` and ``..._reg``; checkpoints are the official ``.pth``.
    Position embeddings of another grid are resampled to the image size, as timm does.
    """

    @classmethod
    def _loaded(
        cls, checkpoint: Path, name: str, image_size: int, architecture: Architecture | None
    ) -> VisionTransformer:
        model = build_vit(name, image_size, architecture)
        return load_vit(model, read_state_dict(checkpoint), checkpoint)


def load_vit(
    model: VisionTransformer, tensors: Mapping[str, Tensor], path: Path
) -> VisionTransformer:
    """Put the tensors of an official checkpoint into timm's model, and give it back.

    Raises:
        WeightsError: keys or shapes of the checkpoint `path` do not fit.
    """
    load_into(model, to_timm_keys(tensors, model, path, checkpoint_filter_fn), path)
    return model


def build_vit(
    name: str, image_size: int, architecture: Architecture | None, *, any_size: bool = False
) -> VisionTransformer:
    """The timm model for a published name, or of the given size; random weights.

    Args:
        name: a published name; with `architecture` any name.
        image_size: side of the square input in pixels, to which its positions belong.
        architecture: the size of the network, when it is not that of a published name.
        any_size: whether inputs may have other sizes, and positions are resampled for them.
    """
    if name in BUNDLED and architecture is None:
        architecture = _bundled_architecture(name)
    options: dict[str, Any] = {"pretrained": False, "num_classes": 0, "img_size": image_size}
    options |= {"dynamic_img_size": True} if any_size else {}
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
