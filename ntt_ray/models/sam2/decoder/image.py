"""What all points of one image share, computed once per image: one matrix product.

Why one is enough, `DECODER.md` says in its section 2. It runs in float32 or better and is stored at
the decoder's precision.

Shapes: N = h x w image tokens of C channels; H heads of d dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ntt_ray.models.sam2.decoder.fold import (
    DecoderWeights,
    Linear,
    Projection,
    TokensToImage,
    centred,
    centred_first,
)
from ntt_ray.models.sam2.decoder.keys import SharedMaps
from ntt_ray.models.sam2.decoder.prompts import double_of


@dataclass(frozen=True, slots=True)
class Sam2Features:
    """What the image encoder gives the mask decoder, for a batch of images.

    Attributes:
        embedding: ``(B, C, S/16, S/16)``, without ``no_mem_embed`` (METHOD 19).
        high_res_0: ``(B, C/8, S/4, S/4)``, after ``conv_s0``.
        high_res_1: ``(B, C/4, S/8, S/8)``, after ``conv_s1``.
    """

    embedding: Tensor
    high_res_0: Tensor
    high_res_1: Tensor

    def image(self, index: int) -> Sam2Features:
        """The features of one image, batch size 1."""
        one = slice(index, index + 1)
        return Sam2Features(self.embedding[one], self.high_res_0[one], self.high_res_1[one])


class ImageLinear(NamedTuple):
    """The product: ``weight (rows, C) @ embedding (C, N) + bias (rows, 1 or N)``.

    Attributes:
        maps: the rows of all maps of heads, in the order in which `image_maps` takes them.
        base: the C rows that give the image tokens before layer 1's norm, centred, without what the
            point adds. For the low-rank form C more for the tokens before layer 2's norm, and one
            for their product with what that layer adds to every image token.
        upscale: first upscaling of the tokens before layer 2's norm; None in the dense form.
        skip_1_bias: ``(4 * C/4,)``, what is added to the high-resolution features of level 1.
        skip_0_bias: ``(4 * C/8,)``, what is added to those of level 0.
    """

    maps: Linear
    base: Linear
    upscale: Linear | None
    skip_1_bias: Tensor
    skip_0_bias: Tensor


class ImageMaps(NamedTuple):
    """What all points of one image share.

    Attributes:
        key_1: ``(1, H, N, d)``, keys of layer 1's attention to the image.
        value_1: ``(1, H, N, d)``, values of layer 1's attention to the image.
        query_1: ``(H, d, N)``, queries of the image tokens in layer 1.
        base: ``(N, C)``, image tokens before layer 1's norm without what the point adds.
        cross: layer 2's attention to the image.
        query_2: projection of the image tokens to their queries in layer 2.
        last: the attention to the image after both layers.
        skip_1: ``(N, 4 * C/4)``, high-resolution features of level 1 and biases, in token order.
        skip_0: ``(4 * N, 4 * C/8)``, high-resolution features of level 0 and biases, in token
            order.
        shared: what the low-rank form needs besides; None chooses the dense form.
    """

    key_1: Tensor
    value_1: Tensor
    query_1: Tensor
    base: Tensor
    cross: TokensToImage
    query_2: Projection
    last: TokensToImage
    skip_1: Tensor
    skip_0: Tensor
    shared: SharedMaps | None


@torch.no_grad()
def fold_image(model: Any, dtype: torch.dtype, low_rank: bool) -> ImageLinear:
    """Fold the parts of a ``SAM2Base``'s decoder that see the image before any point does."""
    encoder, decoder = model.sam_prompt_encoder, model.sam_mask_decoder
    one, two = decoder.transformer.layers
    cross_1, image_1 = one.cross_attn_token_to_image, one.cross_attn_image_to_token
    cross_2, image_2 = two.cross_attn_token_to_image, two.cross_attn_image_to_token
    last = decoder.transformer.final_attn_token_to_image
    (scale_1, shift_1), (scale_2, shift_2) = double_of(one.norm4), double_of(two.norm4)
    (out_1, bias_1), (out_2, bias_2) = double_of(image_1.out_proj), double_of(image_2.out_proj)
    query, query_bias = double_of(image_1.q_proj)
    wide = torch.promote_types(dtype, torch.float32)

    # Layer 1 sees embedding + no-mask token (+ position); its norm sees the output's bias as well.
    pe = encoder.get_dense_pe()[0].flatten(1).double()
    no_mask = encoder.no_mask_embed.weight.detach().double().T.expand_as(pe)
    before_norm = no_mask[:, :1] + bias_1[:, None]
    base = centred(torch.eye(len(pe), dtype=pe.dtype, device=pe.device))
    base_2 = centred(scale_1[:, None] * base)
    maps = [_linear(cross_1, "k_proj", no_mask + pe), _linear(cross_1, "v_proj", no_mask)]
    maps.append(Linear(query, query @ (no_mask + pe) + query_bias[:, None]))
    bases = [base]
    if low_rank:
        rows = [
            centred(out_1).T @ base,
            centred(out_1).T * scale_1 @ base_2,
            centred(out_2).T @ base_2,
            double_of(cross_2.k_proj)[0] * scale_1 @ base,
            double_of(cross_2.v_proj)[0] * scale_1 @ base,
            double_of(image_2.q_proj)[0] * scale_1 @ base,
            double_of(last.k_proj)[0] * scale_2 @ base_2,
            double_of(last.v_proj)[0] * scale_2 @ base_2,
        ]
        maps += [Linear(row, (row @ before_norm).expand(-1, pe.shape[1])) for row in rows]
        bases += [base_2, centred(shift_1 + bias_2)[None] @ base_2]

    conv_1, conv_2 = decoder.output_upscaling[0], decoder.output_upscaling[3]
    first = centred_first(conv_1.weight.detach().double())
    upscale = first * scale_2 @ base_2
    tokens = torch.cat(bases)
    return ImageLinear(
        maps=Linear(*(torch.cat(part).to(wide) for part in zip(*maps))),
        base=Linear(tokens.to(wide), (tokens @ before_norm).to(wide)),
        upscale=Linear(upscale.to(wide), (upscale @ before_norm)[:, 0].to(wide))
        if low_rank
        else None,
        skip_1_bias=(centred(double_of(conv_1)[1]).repeat(4) + first @ shift_2).to(wide),
        skip_0_bias=double_of(conv_2)[1].repeat(4).to(wide),
    )


def image_maps(linear: ImageLinear, weights: DecoderWeights, features: Sam2Features) -> ImageMaps:
    """Everything that the points of one image share.

    Args:
        linear: the product that gives the maps.
        weights: the decoder's; its attentions to the image are completed by maps of this image.
        features: the features of one image.

    Raises:
        ValueError: `features` are those of several images.
    """
    if len(features.embedding) != 1:
        raise ValueError(f"one image at a time, not {len(features.embedding)}")
    dtype, wide = weights.tokens.dtype, linear.maps.weight.dtype
    heads = weights.tokens_query.shape[2]
    embedding = features.embedding[0].flatten(1).to(wide)
    c, n = embedding.shape
    rows = torch.addmm(linear.maps.bias, linear.maps.weight, embedding).to(dtype)
    key, value, query, *others = rows.view(-1, heads, weights.tokens_query.shape[-1], n)
    bases = torch.addmm(linear.base.bias, linear.base.weight, embedding)
    cross, query_2, last, shared = weights.cross, weights.layers[1].image.query, weights.last, None
    if linear.upscale is not None:
        out_1, out_1_scaled, out_2, *projected = others
        squares = bases[:c].square().sum(0), bases[c : 2 * c].square().sum(0)
        upscaled = F.linear(embedding.T, *linear.upscale).to(dtype)
        shared = SharedMaps(out_1, out_1_scaled, out_2, *squares, bases[2 * c], upscaled)
        cross = _with_base(cross, *projected[:2])
        query_2 = query_2._replace(base=projected[2])
        last = _with_base(last, *projected[3:])
    skip_0, skip_1 = _skips(features, wide)
    return ImageMaps(
        key_1=key.mT.contiguous()[None],
        value_1=value.mT.contiguous()[None],
        query_1=query,
        base=bases[:c].T.to(dtype),
        cross=cross,
        query_2=query_2,
        last=last,
        skip_1=(skip_1 + linear.skip_1_bias).to(dtype),
        skip_0=(skip_0 + linear.skip_0_bias).to(dtype),
        shared=shared,
    )


def _skips(features: Sam2Features, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """High-resolution features in token order: ``(4 N, 4 * C/8)``; ``(N, 4 * C/4)``, centred."""
    h, w = features.embedding.shape[-2:]
    skip_1 = features.high_res_1[0].to(dtype).view(-1, h, 2, w, 2)
    skip_1 = centred(skip_1).permute(1, 3, 2, 4, 0).reshape(h * w, -1)
    skip_0 = features.high_res_0[0].to(dtype).view(-1, h, 2, 2, w, 2, 2)
    return skip_0.permute(1, 4, 2, 5, 3, 6, 0).reshape(4 * h * w, -1), skip_1


def _with_base(attention: TokensToImage, key: Tensor, value: Tensor) -> TokensToImage:
    return attention._replace(
        key=attention.key._replace(base=key), value=attention.value._replace(base=value)
    )


def _linear(attention: Any, projection: str, added: Tensor) -> Linear:
    """A projection of embedding + `added`, without its own bias."""
    weight, _ = double_of(getattr(attention, projection))
    return Linear(weight, weight @ added)
