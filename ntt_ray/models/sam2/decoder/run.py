"""SAM2's mask decoder for a whole grid of points: the same results as Meta's module, faster.

What an image cannot change is computed once per model (`fold`), what a point cannot change once per
image (`image`); the image tokens of a point are not stored where the point's own tokens express
them (`keys`). The predicted IoU comes first; only survivors are upscaled, one mask each (METHOD 20
to 25), or up to three with `all_outputs`. `DECODER.md` derives it.

`prompt_tokens`, `transform` and `upscale` are functions of tensors without host synchronisation.
On a GPU kernels compute `transform` (`fused_transform`) and `upscale` (`upscale_kernel`), where
they agree with them (`kernels`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ntt_ray.models.compilation import CompileOptions
from ntt_ray.models.interfaces import Proposals
from ntt_ray.models.sam2.decoder.fold import DecoderWeights, TokensToImage, fold_decoder
from ntt_ray.models.sam2.decoder.image import ImageMaps, Sam2Features, fold_image, image_maps
from ntt_ray.models.sam2.decoder.kernels import (
    checked_transform,
    checked_upscale,
    has_transform_kernels,
    has_upscale_kernel,
)
from ntt_ray.models.sam2.decoder.keys import DenseKeys, LowRankKeys, head_products
from ntt_ray.models.sam2.decoder.tokens import (
    Decoded,
    PromptTokens,
    by_heads,
    hypernetworks,
    keys_and_values,
    normed,
    predicted_iou,
    self_attention,
    update,
)

# Elements of the largest intermediates on a CPU. Larger ones leave the cache, smaller ones make the
# calls the cost; measured on a core with 2 MB of second-level cache.
CACHED_ELEMENTS = 1 << 20
# Elements of any intermediate of a step: libraries and kernels that count them in 32 bits fail
# beyond, some of them without a word.
MAX_ELEMENTS = (1 << 31) - 1
OUTPUTS = 3  # masks of a point that may be proposals: SAM2's first output is none (METHOD 23)


class PointDecoder:
    """Decodes a fixed grid of points.

    Attributes:
        points_per_step: number of points whose image tokens exist at a time. On a CPU few, so that
            they stay in the cache; on a GPU many, but no more than `MAX_ELEMENTS` allows.
        low_rank: whether image tokens are `LowRankKeys`, else `DenseKeys`.
        all_outputs: whether each of outputs 1 to 3 of a point is a proposal of its own, an option
            beyond the paper; else the one with the highest predicted IoU is (METHOD 23).
    """

    all_outputs = False

    def __init__(
        self,
        model: Any,
        points: Tensor,
        *,
        dtype: torch.dtype = torch.float32,
        points_per_step: int | None = None,
        low_rank: bool | None = None,
    ) -> None:
        """Fold the weights, see `fold_decoder`.

        Args:
            model: a ``SAM2Base`` of any size, before it is cast to a 16-bit type.
            points: ``(P, 2)`` float32 (x, y) in pixels of the input.
            dtype: type of weights and activations.
            points_per_step: number of points decoded at a time; None takes as many as fit the cache
                on a CPU, 256 on a GPU, 1024 where kernels keep little else.
            low_rank: form of the image tokens; None takes the low-rank form where the channels
                outnumber the attention weights.

        Raises:
            WeightsError: a decoder that is built differently from the published ones.
        """
        transformer = model.sam_mask_decoder.transformer
        tokens = 7 + int(model.sam_mask_decoder.pred_obj_scores)
        if low_rank is None:
            low_rank = transformer.embedding_dim > tokens * transformer.num_heads
        self.low_rank = low_rank
        self._weights = fold_decoder(model, points, dtype)
        self._image = fold_image(model, dtype, low_rank)
        n, rows = self._image.maps.bias.shape[-1], tokens * transformer.num_heads
        kernels = has_transform_kernels(points.device, dtype, low_rank)
        if points_per_step is None:
            cached = max(1, CACHED_ELEMENTS // (rows * n))
            points_per_step = cached if points.device.type == "cpu" else 1024 if kernels else 256
        largest = n * max(transformer.embedding_dim, 2 * rows)  # `upscale` divides its own
        self.points_per_step = min(points_per_step, max(1, MAX_ELEMENTS // largest))
        self._compiled = False
        self._transform: Callable[..., Decoded] = transform
        self._upscale: Callable[..., Tensor] = upscale
        if kernels:
            self._transform = checked_transform(transform, dtype)
        if has_upscale_kernel(points.device, dtype, low_rank):
            self._upscale = checked_upscale(upscale, dtype)

    @property
    def weights(self) -> DecoderWeights:
        """The folded weights, with the prompts of the grid."""
        return self._weights

    @property
    def for_other_points(self) -> tuple[Callable[..., Decoded], Callable[..., Tensor]]:
        """`transform` and `upscale` for points beside the grid, by kernels where these are used.

        What is compiled is for the steps of the grid alone.
        """
        return (transform, upscale) if self._compiled else (self._transform, self._upscale)

    def maps(self, features: Sam2Features) -> ImageMaps:
        """What all prompts of one image share."""
        return image_maps(self._image, self._weights, features)

    def compile(self, options: CompileOptions) -> None:
        """Compile the two functions that take the time; survivors vary in number, points do not.

        What varies in number is never captured as a CUDA graph: each number would be a new one.
        """
        self._compiled = True
        self._transform = options.compile(transform)
        self._upscale = torch.compile(upscale, backend=options.backend, dynamic=True)

    @torch.inference_mode()
    def decode(
        self, features: Sam2Features, min_predicted_iou: float, points: Tensor | None = None
    ) -> tuple[Proposals, Tensor]:
        """Decode the points of the grid for one image.

        Args:
            features: the features of one image.
            min_predicted_iou: threshold on the predicted IoU; masks must lie above it, strictly.
            points: int64 ``(n,)``, positions of the points to decode in the grid, rising, at least
                one; None decodes every point.

        Returns:
            The surviving proposals in the order of their points, and the predicted IoU of all
            four outputs of the points, ``(P, 4)`` or ``(n, 4)`` float32. The index of a proposal
            is the position of its point in the grid; with `all_outputs` it is three times that,
            and 0 to 2 for outputs 1 to 3 more, in this order.
        """
        asked = None if points is None else self._full_steps(points)
        each = OUTPUTS if self.all_outputs else 1
        masks = _Rows(each * len(self._weights.tokens if asked is None else asked))
        ious, indices, every = [], [], []
        for logits, iou, index, of_all in self.steps(features, min_predicted_iou, asked):
            masks.append(logits)
            ious.append(iou)
            indices.append(index)
            every.append(of_all)
        proposals = Proposals(masks.rows(), torch.cat(ious).float(), torch.cat(indices))
        if points is None or asked is None:
            return proposals, torch.cat(every).float()
        proposals = proposals.select(proposals.index < each * len(points))
        index = each * points[proposals.index // each] + proposals.index % each
        return replace(proposals, index=index), torch.cat(every).float()[: len(points)]

    def _full_steps(self, points: Tensor) -> Tensor:
        """Repeat the last point until steps are full, where what is compiled wants one shape."""
        missing = -len(points) % self.points_per_step if self._compiled else 0
        return torch.cat((points, points[-1:].expand(missing)))

    def steps(
        self, features: Sam2Features, min_predicted_iou: float, points: Tensor | None = None
    ) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Decode step by step; the arguments are those of `decode`.

        Yields:
            For each step the logits ``(n, 4 h, 4 w)`` of its survivors, their predicted IoU, their
            index as of `decode`, with positions in `points` where some are given, and the predicted
            IoU of all four outputs of all its points.
        """
        weights = self._weights
        maps = self.maps(features)
        # compiled steps get the weights as they are, whatever is asked
        prompt = prompt_tokens(weights if points is None else weights.at(points), maps)
        for start in range(0, len(prompt.tokens), self.points_per_step):
            step = slice(start, start + self.points_per_step)
            keys, iou, hypernetworks = self._transform(weights, maps, prompt.part(step))
            if self.all_outputs:
                found = self._every_output(maps, keys, iou, hypernetworks, min_predicted_iou)
                logits, own_iou, index = found
                yield logits, own_iou, index + OUTPUTS * start, iou
                continue
            best_iou, best = iou[:, 1:].max(dim=1)
            index = torch.nonzero(best_iou > min_predicted_iou).squeeze(1)
            if len(index) < len(iou):
                keys = keys.select(index)
            logits = self._upscale(weights, maps, keys, hypernetworks[index, best[index]])
            yield logits, best_iou[index], index + start, iou

    def _every_output(
        self,
        maps: ImageMaps,
        keys: LowRankKeys | DenseKeys,
        iou: Tensor,
        hypernetworks: Tensor,
        min_predicted_iou: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, predicted IoU and index of the outputs of a step above the threshold.

        One output after the other, so that no intermediate is larger than with one mask each.
        """
        found = []
        for output in range(OUTPUTS):
            own_iou = iou[:, 1 + output]
            kept = torch.nonzero(own_iou > min_predicted_iou).squeeze(1)
            own = hypernetworks[kept, output]
            logits = self._upscale(self._weights, maps, keys.select(kept), own)
            found.append((logits, own_iou[kept], OUTPUTS * kept + output))
        logits, own_iou, index = (torch.cat(parts) for parts in zip(*found))
        order = index.argsort()
        return logits[order], own_iou[order], index[order]


class _Rows:
    """Joins tensors as ``torch.cat(tensors).float()`` does, but holds one of them at a time.

    Room for the largest number of rows is asked for once. On a CPU what is not written takes no
    memory, and what is written is still in the cache.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._first: Tensor | None = None
        self._rows: Tensor | None = None
        self._count = 0

    def append(self, tensor: Tensor) -> None:
        """Add the rows of a tensor; all have the same shape but for their number."""
        if self._first is None:
            self._first = tensor
            return
        if self._rows is None:
            sizes = self._most, *tensor.shape[1:]
            self._rows = tensor.new_empty(sizes, dtype=torch.float32)
            self._write(self._rows, self._first)
        self._write(self._rows, tensor)

    def _write(self, rows: Tensor, tensor: Tensor) -> None:
        rows[self._count : self._count + len(tensor)] = tensor
        self._count += len(tensor)

    def rows(self) -> Tensor:
        """All rows, float32; there was one tensor at least."""
        if self._rows is not None:
            return self._rows[: self._count]
        assert self._first is not None
        return self._first.float()


def prompt_tokens(weights: DecoderWeights, maps: ImageMaps) -> PromptTokens:
    """All that the tokens of all points do before they read an image token that a point changed.

    That is layer 1, one attention on one image, and layer 2's self-attention. Of `weights` those of
    the points count: cut them (`DecoderWeights.at`) where some are asked.
    """
    layer = weights.layers[0]
    p, t, heads, d = weights.tokens_query.shape
    query = weights.tokens_query.view(1, p * t, heads, d).transpose(1, 2)
    mixed = F.scaled_dot_product_attention(query, maps.key_1, maps.value_1, scale=1.0)
    mixed = mixed.transpose(1, 2).reshape(p, t, heads * d)
    queries = update(layer, weights.queries, F.linear(mixed, *weights.tokens_out))
    key_and_value = keys_and_values(layer, queries, weights.tokens)
    queries = self_attention(weights, queries, weights.tokens)
    query = by_heads(weights.cross.query, queries + weights.tokens, heads)
    return PromptTokens(weights.tokens, queries, query, *key_and_value)


def transform(weights: DecoderWeights, maps: ImageMaps, prompt: PromptTokens) -> Decoded:
    """The rest of the transformer and the heads on its tokens, for b points."""
    tokens = prompt.tokens
    one, two = weights.layers

    mix = head_products(prompt.key, maps.query_1).softmax(1)
    u = head_products(prompt.value, one.image.out).flatten(1, 2)
    keys: LowRankKeys | DenseKeys
    if maps.shared is None:
        keys = DenseKeys.first(mix, u, maps.base, one.image_eps)
    else:
        keys = LowRankKeys.first(mix, u, prompt.value, maps.shared, one.image_eps)

    queries = update(two, prompt.queries, _attend(maps.cross, prompt.query, keys))
    key, value = keys_and_values(two, queries, tokens)
    mix = keys.scores(key, maps.query_2).softmax(1)
    u = head_products(value, two.image.out).flatten(1, 2) + two.image.shift
    keys = keys.second(mix, u, (prompt.value, value), weights.image_scale, two.image_eps)

    queries, tokens = (x.index_select(1, weights.used) for x in (queries, tokens))
    query = by_heads(maps.last.query, queries + tokens, len(one.image.out))
    queries = queries + _attend(maps.last, query, keys)
    queries = normed(weights.last_norm, queries)
    return Decoded(keys, predicted_iou(weights, queries[:, 0]), hypernetworks(weights, queries))


def upscale(
    weights: DecoderWeights, maps: ImageMaps, keys: LowRankKeys | DenseKeys, hypernetworks: Tensor
) -> Tensor:
    """One mask per point, image token by image token; the pixels are put in order at the end.

    Args:
        weights: the decoder's.
        maps: what all points of the image share.
        keys: image tokens of n points.
        hypernetworks: ``(n, C/8)``, the hypernetwork of each point's chosen output.

    Returns:
        Logits ``(n, 4 h, 4 w)`` for h x w image tokens.
    """
    first, norm, second, order = weights.upscaling
    n, c8 = hypernetworks.shape
    tokens = len(maps.skip_1)
    left, right = keys.factors(first)
    limit = CACHED_ELEMENTS if left.device.type == "cpu" else MAX_ELEMENTS
    step = max(1, min(tokens, limit // max(1, n * 16 * c8)))
    logits = left.new_empty(n, 1, 16 * tokens)
    for start in range(0, tokens if n else 0, step):
        part = slice(start, min(start + step, tokens))
        x = keys.rest(part, maps.skip_1[part]).baddbmm_(left[:, part], right)
        x = normed(norm, x.view(n, -1, 2 * c8))
        x = torch.ops.aten.gelu_(x) @ second
        x += maps.skip_0[4 * part.start : 4 * part.stop]
        x = torch.ops.aten.gelu_(x).view(n, -1, c8)
        pixels = slice(16 * part.start, 16 * part.stop)
        torch.bmm(hypernetworks[:, None], x.mT, out=logits[..., pixels])
    side = 4 * int(tokens**0.5)
    return logits[:, 0].index_select(1, order).view(n, side, side)


def _attend(attention: TokensToImage, query: Tensor, keys: LowRankKeys | DenseKeys) -> Tensor:
    """Attention of prompt tokens to the image tokens by their queries ``(b, T, H, d)``."""
    weights = keys.scores(query, attention.key).softmax(-1)
    return F.linear(keys.means(weights, attention.value), *attention.out)
