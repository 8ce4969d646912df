"""What the decoder does with the prompt tokens alone: a few for each point, little arithmetic.

Shapes: b points, T prompt tokens of C channels, H heads of d dimensions. What reads image tokens is
in `run`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ntt_ray.models.sam2.decoder.fold import DecoderWeights, Layer, Linear, Norm
from ntt_ray.models.sam2.decoder.keys import DenseKeys, LowRankKeys
from ntt_ray.models.sam2.decoder.prompts import split_heads


class PromptTokens(NamedTuple):
    """The prompt tokens of some points up to layer 2's attention to the image.

    Attributes:
        tokens: ``(b, T, C)``, the prompt tokens as they entered, which are their positions.
        queries: ``(b, T, C)``, the prompt tokens after layer 2's self-attention and its norm.
        query: ``(b, T, H, d)``, their scaled queries to the image in layer 2.
        key: ``(b, T, H, d)``, their scaled keys for the image tokens of layer 1.
        value: ``(b, T, H, d)``, their values for the image tokens of layer 1.
    """

    tokens: Tensor
    queries: Tensor
    query: Tensor
    key: Tensor
    value: Tensor

    def part(self, points: slice | Tensor) -> PromptTokens:
        """The tokens of a range of points, or of those at some positions."""
        return PromptTokens(*(tensor[points] for tensor in self))


class Decoded(NamedTuple):
    """What the transformer leaves of a step of b points.

    Attributes:
        keys: the image tokens of each point.
        iou: ``(b, 4)``, predicted IoU of all four outputs, at least float32.
        hypernetworks: ``(b, 3, C/8)``, the hypernetworks of masks 1 to 3.
    """

    keys: LowRankKeys | DenseKeys
    iou: Tensor
    hypernetworks: Tensor


def update(layer: Layer, queries: Tensor, attended: Tensor) -> Tensor:
    """The prompt tokens after a block's attention to the image: residual, norm, MLP, norm."""
    queries = normed(layer.cross_norm, queries + attended)
    first, second = layer.mlp
    hidden = F.linear(queries, *first).relu_()
    return normed(layer.mlp_norm, queries + F.linear(hidden, *second))


def keys_and_values(layer: Layer, queries: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """What a block's image tokens read of the prompt tokens: ``(b, T, H, d)`` each, keys scaled."""
    heads = len(layer.image.out)
    key = by_heads(layer.image.key, queries + tokens, heads)
    return key, by_heads(layer.image.value, queries, heads)


def self_attention(weights: DecoderWeights, queries: Tensor, tokens: Tensor) -> Tensor:
    """The prompt tokens ``(b, T, C)`` after layer 2's self-attention, residual and norm."""
    query, key, value, out = weights.self_attention
    heads = weights.tokens_query.shape[2]
    x = queries + tokens
    mixed = F.scaled_dot_product_attention(
        by_heads(query, x, heads).transpose(1, 2),
        by_heads(key, x, heads).transpose(1, 2),
        by_heads(value, queries, heads).transpose(1, 2),
    )
    return normed(weights.self_norm, queries + F.linear(mixed.transpose(1, 2).flatten(2), *out))


def predicted_iou(weights: DecoderWeights, token: Tensor) -> Tensor:
    """Predicted IoU of all outputs, ``(b, 4)``, at least float32; its token is ``(b, C)``."""
    *hidden, last = weights.iou_head
    x = token.to(last.weight.dtype)
    for layer in hidden:
        x = F.linear(x, *layer).relu_()
    x = F.linear(x, *last)
    return x.sigmoid() if weights.iou_sigmoid else x


def hypernetworks(weights: DecoderWeights, queries: Tensor) -> Tensor:
    """``(b, 3, C/8)``; ``queries (b, 4, C)`` starts with the token of the predicted IoU."""
    *hidden, last = weights.hypernetworks
    x = queries[:, 1:].transpose(0, 1)
    for layer in hidden:
        x = torch.baddbmm(layer.bias, x, layer.weight).relu_()
    return torch.baddbmm(last.bias, x, last.weight).transpose(0, 1)


def by_heads(linear: Linear, x: Tensor, heads: int) -> Tensor:
    """``(b, T, C)`` to ``(b, T, H, d)``."""
    return split_heads(F.linear(x, *linear), heads)


def normed(norm: Norm, x: Tensor) -> Tensor:
    """LayerNorm over the last axis."""
    return F.layer_norm(x, x.shape[-1:], *norm)
