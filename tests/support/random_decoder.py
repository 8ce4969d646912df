"""SAM2's prompt encoder and mask decoder with random weights, and features for them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from sam2.modeling.sam.mask_decoder import MaskDecoder
from sam2.modeling.sam.prompt_encoder import PromptEncoder
from sam2.modeling.sam.transformer import TwoWayTransformer
from torch import Tensor

from ntt_ray.models.sam2.decoder.image import Sam2Features

SIDE = 6  # image tokens per side


def random_model(
    channels: int = 32,
    heads: int = 4,
    dtype: torch.dtype = torch.float32,
    mlp_dim: int = 48,
    **switches: Any,
) -> Any:
    """A prompt encoder and a mask decoder whose every weight, norms included, is random."""
    torch.manual_seed(0)
    options = {
        "use_high_res_features": True,
        "pred_obj_scores": True,
        "iou_prediction_use_sigmoid": True,
    } | switches
    encoder = PromptEncoder(channels, (SIDE, SIDE), (16 * SIDE, 16 * SIDE), 16)
    transformer = TwoWayTransformer(
        depth=2,
        embedding_dim=channels,
        num_heads=heads,
        mlp_dim=mlp_dim,
        attention_downsample_rate=2,
    )
    decoder = MaskDecoder(transformer_dim=channels, transformer=transformer, **options)
    for name, parameter in [*encoder.named_parameters(), *decoder.named_parameters()]:
        if "norm" in name or name.endswith("bias"):
            parameter.data += 0.3 * torch.randn_like(parameter)
    encoder.eval().requires_grad_(False)
    decoder.to(dtype).eval().requires_grad_(False)
    return SimpleNamespace(sam_prompt_encoder=encoder, sam_mask_decoder=decoder)


def random_features(channels: int = 32, dtype: torch.dtype = torch.float32) -> Sam2Features:
    random = torch.Generator().manual_seed(1)
    shapes = [(channels, SIDE), (channels // 8, 4 * SIDE), (channels // 4, 2 * SIDE)]
    return Sam2Features(
        *(torch.randn(1, c, side, side, generator=random).to(dtype) for c, side in shapes)
    )


def plain_decode(model: Any, points: Tensor, features: Sam2Features) -> tuple[Tensor, Tensor]:
    """All four masks and predicted IoUs by the stock modules: ``(P, 4, h, w)`` and ``(P, 4)``."""
    encoder, decoder = model.sam_prompt_encoder, model.sam_mask_decoder
    dtype = features.embedding.dtype
    labels = torch.ones(len(points), 1, dtype=torch.int32)
    sparse, dense = encoder(points=(points[:, None], labels), boxes=None, masks=None)
    with torch.inference_mode():
        masks, iou, _, _ = decoder.predict_masks(
            image_embeddings=features.embedding,
            image_pe=encoder.get_dense_pe().to(dtype),
            sparse_prompt_embeddings=sparse.to(dtype),
            dense_prompt_embeddings=dense.to(dtype),
            repeat_image=True,
            high_res_features=[features.high_res_0, features.high_res_1],
        )
    return masks, iou
