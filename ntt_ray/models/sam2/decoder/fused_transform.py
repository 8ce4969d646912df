"""The transformer of SAM2's mask decoder on a GPU: three kernels, the rest as in `run.transform`.

`transform_kernels` reads and writes the image tokens of low rank, this module prepares what it
needs of the prompt tokens, a few small matrices for each point. What is computed where, the end of
`DECODER.md` says.

Shapes: b points, T prompt tokens of C channels, H heads of d dimensions, R = T * H, N image tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
import triton
from torch import Tensor

from ntt_ray.models.sam2.decoder import transform_kernels
from ntt_ray.models.sam2.decoder.fold import DecoderWeights, Projection, TokensToImage
from ntt_ray.models.sam2.decoder.image import ImageMaps
from ntt_ray.models.sam2.decoder.keys import LowRankKeys, head_means, head_products
from ntt_ray.models.sam2.decoder.tokens import (
    Decoded,
    PromptTokens,
    by_heads,
    hypernetworks,
    keys_and_values,
    normed,
    predicted_iou,
    update,
)


class Launch(NamedTuple):
    """How a kernel is compiled.

    Attributes:
        tile: image tokens that a program holds at a time, a power of 2, at least 16.
        num_warps: warps of a program.
        num_stages: how many tiles are loaded ahead, and the one in use.
        enable_fp_fusion: whether a multiplication and an addition may be one instruction; Triton's
            default, which a later version changes.
    """

    tile: int
    num_warps: int
    num_stages: int
    enable_fp_fusion: bool = True


# For the kernels of layer 1, layer 2 and the last attention: what compiles with few or no spills
# and, on a Hopper GPU, leaves room for two programs or more on each processor.
LAUNCHES_90 = (Launch(64, 4, 1), Launch(64, 4, 1), Launch(64, 4, 2))
LAUNCHES_80 = (Launch(64, 8, 1), Launch(32, 4, 1), Launch(64, 8, 1))
MAJOR_WITH_227_KB = (9, 10)  # of shared memory for a program: Hopper and Blackwell for data centres


class Means(NamedTuple):
    """What S programs for each point found for A prompt rows, each in its part of the image tokens.

    Attributes:
        p: ``(b, S, A, R or 2 R)`` float32, means of the attention weights of the image tokens.
        base: ``(b, S, A, d)`` float32, means of the scaled map of values.
        log_sum: ``(b, S, A)`` float32, logarithm of the sum of the softmax's weights.
    """

    p: Tensor
    base: Tensor
    log_sum: Tensor

    @classmethod
    def empty(cls, like: Tensor, parts: int, rows: int, columns: int, dims: int) -> Means:
        """Without content, for as many points as `like` is of."""
        sizes = (columns,), (dims,), ()
        return cls(
            *(like.new_empty(len(like), parts, rows, *s, dtype=torch.float32) for s in sizes)
        )

    def all_parts(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """`p` and `base` over all image tokens: ``(b, A, R or 2 R)``, ``(b, A, d)``."""
        if self.p.shape[1] == 1:
            return self.p[:, 0].to(dtype), self.base[:, 0].to(dtype)
        share = self.log_sum.softmax(1)[..., None]
        return (self.p * share).sum(1).to(dtype), (self.base * share).sum(1).to(dtype)


def transform(weights: DecoderWeights, maps: ImageMaps, prompt: PromptTokens) -> Decoded:
    """`run.transform` for `LowRankKeys` on a GPU."""
    properties = torch.cuda.get_device_properties(prompt.tokens.device)
    fused = FusedTransform(
        LAUNCHES_90 if properties.major in MAJOR_WITH_227_KB else LAUNCHES_80,
        # enough programs for all processors, which hold two of them
        max(1, 2 * properties.multi_processor_count // len(prompt.tokens)),
    )
    with torch.cuda.device_of(prompt.tokens):  # type: ignore[no-untyped-call]
        return fused(weights, maps, prompt)


@dataclass(frozen=True)
class FusedTransform:
    """`run.transform` for `LowRankKeys`.

    Attributes:
        launches: of the kernels of layer 1, layer 2 and the last attention.
        parts: into how many parts the image tokens of a point are divided at most, each the work of
            one program.
    """

    launches: tuple[Launch, Launch, Launch]
    parts: int

    def __call__(self, weights: DecoderWeights, maps: ImageMaps, prompt: PromptTokens) -> Decoded:
        """See `run.transform`; needs `maps.shared`."""
        tokens = prompt.tokens
        one, two = weights.layers
        heads = len(one.image.out)
        u = head_products(prompt.value, one.image.out).flatten(1, 2)
        scale, p, means = self.layer_1(weights, maps, prompt, u)
        attended = _attended(weights.cross, means, u, tokens.shape[1])
        queries = update(two, prompt.queries, attended)

        key, value = keys_and_values(two, queries, tokens)
        both = _both_layers(weights, u, value)
        queries, tokens = (x.index_select(1, weights.used) for x in (queries, tokens))
        query = by_heads(weights.last.query, queries + tokens, heads)
        keys = self.layer_2(weights, maps, key, (prompt.value, value), (u, both), scale, p)
        means = self.last_attention(weights, maps, query, keys)
        queries = queries + _attended(weights.last, means, both, len(queries[0]))
        queries = normed(weights.last_norm, queries)
        return Decoded(keys, predicted_iou(weights, queries[:, 0]), hypernetworks(weights, queries))

    def layer_1(
        self,
        weights: DecoderWeights,
        maps: ImageMaps,
        prompt: PromptTokens,
        u: Tensor,
    ) -> tuple[Tensor, Tensor, Means]:
        """The image tokens after layer 1, and layer 2's attention of the prompt tokens to them.

        Args:
            weights: the decoder's.
            maps: what all points of the image share.
            prompt: the prompt tokens before layer 2.
            u: ``(b, R, C)``, projected values of layer 1.

        Returns:
            The scale ``(b, N)`` float32, p ``(b, 2 R, N)`` with its first R rows, and the means.
        """
        query = prompt.query
        b, t, heads, d = query.shape
        shared, launch, n = maps.shared, self.launches[0], maps.query_1.shape[-1]
        assert shared is not None
        part, parts = self._parts(n, launch.tile)
        p = u.new_empty(b, 2 * t * heads, n)
        scale = u.new_empty(b, n, dtype=torch.float32)
        means = Means.empty(u, parts, t * heads, t * heads, d)
        transform_kernels.layer_1[b, parts](
            *(prompt.key, prompt.value, u @ u.mT, query, _wanted(query, weights.cross.key, u)),
            *(maps.query_1, shared.out_1, shared.square_1),
            *(maps.cross.key.base, maps.cross.key.position, maps.cross.value.base),
            *(p, scale, *means),
            *(n, part, weights.layers[0].image_eps),
            channels=u.shape[-1],
            tokens=t,
            rows=triton.next_power_of_2(t) * heads,
            heads=heads,
            dims=d,
            **launch._asdict(),
        )
        return scale, p, means

    def layer_2(
        self,
        weights: DecoderWeights,
        maps: ImageMaps,
        key: Tensor,
        values: tuple[Tensor, Tensor],
        us: tuple[Tensor, Tensor],
        scale: Tensor,
        p: Tensor,
    ) -> LowRankKeys:
        """The image tokens after layer 2.

        Args:
            weights: the decoder's.
            maps: what all points of the image share.
            key: ``(b, T, H, d)``, scaled keys of the image tokens' attention in layer 2.
            values: ``(b, T, H, d)`` each, the values of layers 1 and 2 before their projection.
            us: ``(b, R, C)``, projected values of layer 1; ``(b, 2 R, C)``, those of both layers
                as `LowRankKeys.second` takes them.
            scale: ``(b, N)`` float32, of layer 1.
            p: ``(b, 2 R, N)``, of layer 1; overwritten by the result.
        """
        b, t, heads, d = key.shape
        shared, launch, n = maps.shared, self.launches[1], p.shape[-1]
        assert shared is not None
        u_1, u = us
        part, parts = self._parts(n, launch.tile)
        new_scale = u.new_empty(b, 1, n)
        transform_kernels.layer_2[b, parts](
            *(key, _wanted(key, maps.query_2, u_1), *values, u @ u.mT),
            *(maps.query_2.base, maps.query_2.position),
            *(shared.out_1_scaled, shared.out_2, shared.square_2, shared.shift_2),
            *(scale, p, new_scale),
            *(n, part, weights.layers[1].image_eps),
            channels=u.shape[-1],
            tokens=t,
            rows=triton.next_power_of_2(t) * heads,
            heads=heads,
            dims=d,
            **launch._asdict(),
        )
        return LowRankKeys(new_scale, u, p, shared)

    def last_attention(
        self, weights: DecoderWeights, maps: ImageMaps, query: Tensor, keys: LowRankKeys
    ) -> Means:
        """The last attention of the used prompt tokens, ``query (b, 4, H, d)``, to the image."""
        b, used, heads, d = query.shape
        rows, n = keys.p.shape[1:]
        launch, last = self.launches[2], weights.last
        part, parts = self._parts(n, launch.tile)
        means = Means.empty(query, parts, used * heads, rows, d)
        transform_kernels.last_attention[b, parts](
            *(query, _wanted(query, last.key, keys.u)),
            *(maps.last.key.base, maps.last.key.position, maps.last.value.base),
            *(keys.scale, keys.p, *means),
            *(n, part),
            tokens=rows // (2 * heads),
            rows=triton.next_power_of_2(rows // (2 * heads)) * heads,
            asked=max(16, triton.next_power_of_2(used * heads)),
            heads=heads,
            dims=d,
            **launch._asdict(),
        )
        return means

    def _parts(self, n: int, tile: int) -> tuple[int, int]:
        """How many image tokens a program walks through, and how many programs a point has."""
        part = tile * triton.cdiv(triton.cdiv(n, tile), self.parts)
        return part, triton.cdiv(n, part)


def _wanted(query: Tensor, projection: Projection, u: Tensor) -> Tensor:
    """What queries ``(b, T, H, d)`` ask of attention weights: ``(b, T * H, R or 2 R)``."""
    return head_products(query, projection.weight).flatten(1, 2) @ u.mT


def _both_layers(weights: DecoderWeights, u: Tensor, value: Tensor) -> Tensor:
    """Projected values of both layers, ``(b, 2 R, C)``; see `LowRankKeys.second`."""
    image = weights.layers[1].image
    u_1 = u * weights.image_scale
    u_1 -= u_1.mean(-1, keepdim=True)
    u_2 = head_products(value, image.out).flatten(1, 2) + image.shift
    return torch.cat([u_1, u_2], dim=1)


def _attended(attention: TokensToImage, means: Means, u: Tensor, tokens: int) -> Tensor:
    """What an attention to the image adds to the prompt tokens: ``(b, tokens, C)``."""
    mean_p, mean_base = means.all_parts(u.dtype)
    heads = len(attention.value.weight)
    by_head = (mean_p @ u).view(len(u), tokens, heads, -1)
    mixed = mean_base.view(len(u), tokens, -1) + head_means(by_head, attention.value.weight)
    return F.linear(mixed, *attention.out)
