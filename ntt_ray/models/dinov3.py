"""DINOv3: images to patch features, with patches of 16 pixels and rotary positions.

timm's network; checkpoints are Meta's ``.pth`` files or timm's safetensors. The weights are under
the DINOv3 License (https://ai.meta.com/resources/models-and-libraries/dinov3-license/), which is
not an open-source licence: Meta gives them to those who accept it, so there is no address here from
which they could be fetched. Nothing depends on this module.

It does not know references, masks or scores.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import timm
import torch
from timm.models.eva import Eva, checkpoint_filter_fn
from torch import Tensor

from ntt_ray.config import Architecture
from ntt_ray.errors import WeightsError
from ntt_ray.models.vit import VitEncoder, to_timm_keys
from ntt_ray.models.weights import load_into, read_state_dict

TIMM_NAMES: Mapping[str, str] = {
    "dinov3_vits16": "vit_small_patch16_dinov3",
    "dinov3_vits16plus": "vit_small_plus_patch16_dinov3",
    "dinov3_vitb16": "vit_base_patch16_dinov3",
    "dinov3_vitl16": "vit_large_patch16_dinov3",
    "dinov3_vith16plus": "vit_huge_plus_patch16_dinov3",
    "dinov3_vit7b16": "vit_7b_patch16_dinov3",
}
PERIODS = "rope_embed.periods"  # in Meta's files: as rounded in training


class Dinov3Encoder(VitEncoder):
    """A loaded DINOv3 in evaluation mode.

    Its names are those of `TIMM_NAMES`; checkpoints are Meta's ``.pth``, or a safetensors file of
    Meta's or timm's keys.
    """

    def __init__(
        self,
        model: Eva,
        name: str,
        image_size: int,
        device: torch.device,
        dtype: torch.dtype,
        positional_debias: int | None = None,
    ) -> None:
        rope: Any = model.rope
        positions = rope.pos_embed_cached.to(device, copy=True)
        super().__init__(model, name, image_size, device, dtype, positional_debias)
        rope.pos_embed_cached = positions  # exact, also where weights and activations have 16 bits

    @classmethod
    def _loaded(
        cls, checkpoint: Path, name: str, image_size: int, architecture: Architecture | None
    ) -> Eva:
        tensors = read_state_dict(checkpoint)
        biases = any(key.endswith(("attn.qkv.bias", "attn.q_bias")) for key in tensors)
        model = build_dinov3(name, image_size, architecture, biases=biases)
        load_into(model, to_timm_keys(tensors, model, checkpoint, checkpoint_filter_fn), checkpoint)
        if PERIODS in tensors:
            _set_periods(model, tensors[PERIODS], checkpoint)
        return model


def build_dinov3(
    name: str, image_size: int, architecture: Architecture | None, *, biases: bool
) -> Eva:
    """The timm model for a published name, or of the given size; random weights.

    Args:
        name: model name, one of `TIMM_NAMES`; with `architecture` any name.
        image_size: side of the square input in pixels.
        architecture: the size of the network, when it is not that of a published name.
        biases: whether queries and values have biases. Meta's files have them, all zero in those
            of timm, which leaves them out.

    Raises:
        WeightsError: this timm knows no DINOv3.
    """
    timm_name = TIMM_NAMES["dinov3_vits16" if architecture is not None else name]
    if not timm.is_model(timm_name):
        raise WeightsError(f"timm {timm.__version__} knows no DINOv3; install a newer one")
    options: dict[str, Any] = {"pretrained": False, "num_classes": 0, "img_size": image_size}
    options |= {"dynamic_img_size": False, "qkv_bias": biases}
    if architecture is not None:
        options |= architecture.model_dump()
    return cast(Eva, timm.create_model(timm_name, **options))


@torch.no_grad()
def _set_periods(model: Eva, periods: Tensor, path: Path) -> None:
    """Take the periods of the rotary positions from a checkpoint."""
    rope: Any = model.rope
    if periods.shape != rope.periods.shape:
        raise WeightsError(
            f"{path} does not fit the model: {PERIODS} is {list(periods.shape)}, "
            f"the model has {list(rope.periods.shape)}"
        )
    rope.periods.copy_(periods)
    rope.pos_embed_cached.copy_(rope.get_embed(shape=model.patch_embed.grid_size))
