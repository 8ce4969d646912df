"""Which of the decoder's functions kernels compute on a GPU, and on what each is compared first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ntt_ray.models.sam2.decoder.checked import CheckedKernel
from ntt_ray.models.sam2.decoder.fold import DecoderWeights
from ntt_ray.models.sam2.decoder.image import ImageMaps
from ntt_ray.models.sam2.decoder.keys import LowRankKeys
from ntt_ray.models.sam2.decoder.tokens import Decoded, PromptTokens

# Points that a kernel is compared on before it is used, and by how many roundings its results may
# differ from the plain function's; up to 4 and 5 were measured (`DECODER.md`, section 6).
COMPARED_POINTS = 4
COMPARED_ROUNDINGS = 16


def has_transform_kernels(device: torch.device, dtype: torch.dtype, low_rank: bool) -> bool:
    """Whether kernels are there for it: on a GPU, for image tokens of low rank, in 16 bits.

    Matrix units round float32: what asks for it is computed plainly.
    """
    return device.type == "cuda" and low_rank and dtype in (torch.bfloat16, torch.float16)


def has_upscale_kernel(device: torch.device, dtype: torch.dtype, low_rank: bool) -> bool:
    """Whether a kernel is there for it: on a GPU, for image tokens of low rank."""
    return device.type == "cuda" and low_rank and dtype != torch.float64


def checked_transform(
    plain: Callable[..., Decoded], dtype: torch.dtype
) -> CheckedKernel[..., Decoded]:
    """The kernels in the place of `plain`, the transformer from layer 1's image update on."""

    def kernels(*args: Any) -> Decoded:
        from ntt_ray.models.sam2.decoder import fused_transform  # imports Triton

        return fused_transform.transform(*args)

    def few(
        weights: DecoderWeights, maps: ImageMaps, prompt: PromptTokens
    ) -> tuple[DecoderWeights, ImageMaps, PromptTokens]:
        return weights, maps, prompt.part(slice(COMPARED_POINTS))

    tolerance = COMPARED_ROUNDINGS * torch.finfo(dtype).eps
    return CheckedKernel("SAM2's transformer", kernels, plain, few=few, tolerance=tolerance)


def checked_upscale(plain: Callable[..., Tensor], dtype: torch.dtype) -> CheckedKernel[..., Tensor]:
    """The kernel in the place of `plain`, the upscaling of the survivors' chosen masks."""

    def kernel(*args: Any) -> Tensor:
        from ntt_ray.models.sam2.decoder import upscale_kernel  # imports Triton

        return upscale_kernel.upscale(*args)

    def few(
        weights: DecoderWeights, maps: ImageMaps, keys: LowRankKeys, hypernetworks: Tensor
    ) -> tuple[DecoderWeights, ImageMaps, LowRankKeys, Tensor]:
        some = slice(COMPARED_POINTS)
        return weights, maps, keys.select(some), hypernetworks[some]

    tolerance = COMPARED_ROUNDINGS * torch.finfo(dtype).eps
    return CheckedKernel("SAM2's upscaling", kernel, plain, few=few, tolerance=tolerance)
