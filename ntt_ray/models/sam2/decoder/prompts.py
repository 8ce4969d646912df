"""Prompts to the tokens by which they enter SAM2's decoder, as far as no image can change them.

A prompt is a few points, each with a label: a click is one, a box its two corners. What becomes of
its tokens before they see an image, `DECODER.md` says in its section 1. The grid is folded when the
model is loaded, other prompts when they come; both in float64.

Shapes: P prompts of T tokens of C channels; H heads of d dimensions.
"""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

POINT, UPPER_LEFT, LOWER_RIGHT = 1, 2, 3  # labels of SAM2's prompt encoder


class FoldedPrompts(NamedTuple):
    """Prompts up to their first look at an image.

    Attributes:
        tokens: ``(P, T, C)``, the prompt tokens as they enter: outputs, points, padding.
        queries: ``(P, T, C)``, the prompt tokens after layer 1's self-attention and its norm.
        tokens_query: ``(P, T, H, d)``, their scaled queries to the image in layer 1.
    """

    tokens: Tensor
    queries: Tensor
    tokens_query: Tensor


class PromptFolder:
    """What folds prompts of any kind, in full precision."""

    def __init__(self, model: Any, dtype: torch.dtype, *, later: bool = False) -> None:
        """Take what is needed of a model.

        Args:
            model: a ``SAM2Base`` with its prompt encoder in float32: fold before casting down.
            dtype: type of what is folded.
            later: whether prompts come when the model was cast down; then what is needed of it is
                copied, 2 MB of a published model.
        """
        own = copy.deepcopy if later else _itself
        decoder = model.sam_mask_decoder
        one = decoder.transformer.layers[0]
        embeddings = [decoder.obj_score_token] if decoder.pred_obj_scores else []
        embeddings += [decoder.iou_token, decoder.mask_tokens]
        self._outputs = torch.cat([module.weight.detach().double() for module in embeddings])
        self._encoder = own(model.sam_prompt_encoder)
        parts = one.self_attn, one.norm1, one.cross_attn_token_to_image.q_proj
        self._self, self._norm, self._query = map(own, parts)
        last = decoder.transformer.final_attn_token_to_image
        self._heads = decoder.transformer.num_heads
        self._scale = (last.internal_dim // self._heads) ** -0.5
        self._dtype = dtype

    @torch.no_grad()
    def __call__(self, points: Tensor, labels: tuple[int, ...]) -> FoldedPrompts:
        """Fold prompts of one kind.

        Args:
            points: ``(P, n, 2)`` float32 (x, y) in pixels of the input.
            labels: what each of the n points is; the same for all prompts.
        """
        tokens = self._tokens(points, labels)
        queries = _normed(self._norm, _attend(self._self, tokens))
        query = split_heads(_apply(self._query, queries + tokens) * self._scale, self._heads)
        return FoldedPrompts(*(x.to(self._dtype).contiguous() for x in (tokens, queries, query)))

    def _tokens(self, points: Tensor, labels: tuple[int, ...]) -> Tensor:
        # made on the device: no copy to it
        kinds = [torch.full_like(points[:, 0, 0], label, dtype=torch.int32) for label in labels]
        given = (points, torch.stack(kinds, dim=1))
        sparse, _ = self._encoder(points=given, boxes=None, masks=None)
        return torch.cat([self._outputs.expand(len(points), -1, -1), sparse.double()], dim=1)


def _itself(module: Any) -> Any:
    return module


def _attend(attention: Any, x: Tensor) -> Tensor:
    def split(module: Any) -> Tensor:
        return split_heads(_apply(module, x), attention.num_heads).transpose(1, 2)

    mixed = F.scaled_dot_product_attention(
        split(attention.q_proj), split(attention.k_proj), split(attention.v_proj)
    )
    return _apply(attention.out_proj, mixed.transpose(1, 2).flatten(2))


def _apply(module: Any, x: Tensor) -> Tensor:
    return F.linear(x, *double_of(module))


def _normed(module: Any, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], *double_of(module), module.eps)


def double_of(module: Any) -> tuple[Tensor, Tensor]:
    """Weight and bias in float64."""
    return module.weight.detach().double(), module.bias.detach().double()


def split_heads(x: Tensor, heads: int) -> Tensor:
    """``(..., H * d)`` to ``(..., H, d)``."""
    return x.view(*x.shape[:-1], heads, -1)
