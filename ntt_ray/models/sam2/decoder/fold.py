"""SAM2's mask decoder with everything folded away that no image or no point can change.

Why that is exact, `DECODER.md` derives in its section 1. All of it is done in float64.

Shapes: P points of T prompt tokens; N image tokens of C channels; H heads of d dimensions.
This module knows weights; `image`, `keys` and `run` compute with them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ntt_ray.errors import WeightsError
from ntt_ray.models.sam2.decoder.prompts import POINT, FoldedPrompts, PromptFolder, double_of


class Linear(NamedTuple):
    """A linear layer: ``weight (out, in)`` and ``bias (out,)``."""

    weight: Tensor
    bias: Tensor


class Norm(NamedTuple):
    """A LayerNorm over the last axis."""

    weight: Tensor
    bias: Tensor
    eps: float


class Projection(NamedTuple):
    """A projection, head by head, of image tokens that lack the scale and shift of their norm.

    Attributes:
        weight: ``(H, d, C)``, the projection's weight times the norm's scale.
        position: ``(H, d, N)``, what is added to the product: the projected positional encoding
            and those biases that do not cancel; None where nothing is added.
        base: ``(H, d, N)``, the projection of what the tokens of all points share; set for each
            image, and for the low-rank form only.
    """

    weight: Tensor
    position: Tensor | None = None
    base: Tensor | None = None


class TokensToImage(NamedTuple):
    """Attention of the prompt tokens to the image tokens.

    Attributes:
        query: projection of the prompt tokens, scaled by ``d ** -0.5``.
        key: projection of the image tokens, without a bias, which would cancel in the softmax.
        value: projection of the image tokens, without its bias, which is in `out`.
        out: output projection.
    """

    query: Linear
    key: Projection
    value: Projection
    out: Linear


class ImageToTokens(NamedTuple):
    """Attention of the image tokens to the prompt tokens.

    Attributes:
        query: projection of the image tokens.
        key: projection of the prompt tokens, scaled by ``d ** -0.5``.
        value: projection of the prompt tokens, with its bias.
        out: ``(H, d, C)``, output projection, centred over C.
        shift: ``(C,)``, what every image token gets besides, divided by H: it is added to each row
            of projected values, since the weights of an image token sum to H.
    """

    query: Projection
    key: Linear
    value: Linear
    out: Tensor
    shift: Tensor


class Layer(NamedTuple):
    """What both blocks of the transformer have.

    Attributes:
        cross_norm: norm of the prompt tokens after their attention to the image.
        mlp: the two layers of their MLP, with ReLU in between.
        mlp_norm: norm of the prompt tokens after the MLP.
        image: attention of the image tokens to the prompt tokens.
        image_eps: epsilon of the image tokens' norm, whose scale and shift are folded away.
    """

    cross_norm: Norm
    mlp: tuple[Linear, ...]
    mlp_norm: Norm
    image: ImageToTokens
    image_eps: float


class Upscaling(NamedTuple):
    """Both transposed convolutions per image token; their biases are in the skips.

    Attributes:
        first: ``(4 * C/4, C)``, weight of the first, sub-pixel major, centred over each C/4.
        norm: the norm over C/4 channels between them.
        second: ``(C/4, 4 * C/8)``, weight of the second.
        order: ``(16 * N,)`` int64, for each pixel its position among the outputs of the tokens.
    """

    first: Tensor
    norm: Norm
    second: Tensor
    order: Tensor


class DecoderWeights(NamedTuple):
    """Everything that does not depend on the image.

    Attributes:
        tokens: ``(P, T, C)``, the prompt tokens as they enter: outputs, point, padding.
        queries: ``(P, T, C)``, the prompt tokens after layer 1's self-attention and its norm.
        tokens_query: ``(P, T, H, d)``, their scaled queries to the image in layer 1.
        tokens_out: output projection of layer 1's attention to the image.
        layers: the two blocks.
        image_scale: ``(C,)``, scale of the image tokens' norm in layer 1.
        self_attention: query, key, value and output projection of layer 2's self-attention.
        self_norm: norm after layer 2's self-attention.
        cross: layer 2's attention to the image.
        last: the attention to the image after both layers.
        last_norm: norm after that last attention.
        used: ``(4,)`` int64, positions of the prompt tokens that are read at the end: predicted
            IoU, masks 1 to 3.
        iou_head: layers of the MLP that predicts the IoUs, at least float32.
        iou_sigmoid: whether a sigmoid follows the IoU head.
        hypernetworks: layers of the MLPs of masks 1 to 3, each ``(3, in, out)`` and
            ``(3, 1, out)``.
        upscaling: both transposed convolutions, token by token.
    """

    tokens: Tensor
    queries: Tensor
    tokens_query: Tensor
    tokens_out: Linear
    layers: tuple[Layer, Layer]
    image_scale: Tensor
    self_attention: tuple[Linear, ...]
    self_norm: Norm
    cross: TokensToImage
    last: TokensToImage
    last_norm: Norm
    used: Tensor
    iou_head: tuple[Linear, ...]
    iou_sigmoid: bool
    hypernetworks: tuple[Linear, ...]
    upscaling: Upscaling

    def at(self, points: Tensor) -> DecoderWeights:
        """The weights for some points of the grid, by their positions ``(n,)`` int64."""
        own = (self.tokens, self.queries, self.tokens_query)
        return self.of(FoldedPrompts(*(tensor[points] for tensor in own)))

    def of(self, prompts: FoldedPrompts) -> DecoderWeights:
        """The weights for other prompts than the grid, of any number of points each."""
        return self._replace(**prompts._asdict())


@torch.no_grad()
def fold_decoder(model: Any, points: Tensor, dtype: torch.dtype) -> DecoderWeights:
    """Fold a ``SAM2Base``'s prompt encoder and mask decoder for a grid of points.

    Args:
        model: a ``SAM2Base`` with its prompt encoder in float32 and the rest of any type: fold
            before casting down.
        points: ``(P, 2)`` float32 (x, y) in pixels of the input.
        dtype: type of weights and activations; the IoU head stays at least float32.

    Raises:
        WeightsError: a decoder that is built differently from the published ones.
    """
    encoder, decoder = model.sam_prompt_encoder, model.sam_mask_decoder
    check_decoder(decoder)
    transformer = decoder.transformer
    one, two = transformer.layers
    cross_1, cross_2 = one.cross_attn_token_to_image, two.cross_attn_token_to_image
    last, self_2 = transformer.final_attn_token_to_image, two.self_attn
    store = _Store(dtype, transformer.num_heads, last.internal_dim // transformer.num_heads)

    prompts = PromptFolder(model, dtype)(points[:, None], (POINT,))
    pe = encoder.get_dense_pe()[0].flatten(1).double()
    (scale_1, shift_1), (scale_2, shift_2) = double_of(one.norm4), double_of(two.norm4)
    head = decoder.iou_prediction_head
    return DecoderWeights(
        *prompts,
        tokens_out=store.output(cross_1, torch.zeros_like(shift_1)),
        layers=(_fold_layer(one, None, pe, store), _fold_layer(two, one.norm4, pe, store)),
        image_scale=store(scale_1),
        self_attention=tuple(
            store.linear(m) for m in (self_2.q_proj, self_2.k_proj, self_2.v_proj, self_2.out_proj)
        ),
        self_norm=store.norm(two.norm1),
        cross=_fold_tokens_to_image(cross_2, scale_1, shift_1, pe, store),
        last=_fold_tokens_to_image(last, scale_2, shift_2, pe, store),
        last_norm=store.norm(transformer.norm_final_attn),
        used=torch.tensor([0, 2, 3, 4], device=pe.device) + int(decoder.pred_obj_scores),
        iou_head=tuple(Linear(*(store.wide(x) for x in double_of(m))) for m in head.layers),
        iou_sigmoid=bool(head.sigmoid_output),
        hypernetworks=fold_hypernetworks(decoder.output_hypernetworks_mlps[1:], dtype),
        upscaling=_fold_upscaling(
            decoder.output_upscaling, scale_2, encoder.image_embedding_size, store
        ),
    )


def check_decoder(decoder: Any) -> None:
    """Refuse what the folding does not know.

    Raises:
        WeightsError: the decoder has a part that the folding does not know, which is named.
    """
    transformer = decoder.transformer
    layers = list(transformer.layers)
    if not decoder.use_high_res_features:
        raise WeightsError("SAM2 mask decoders without high-resolution features are not supported")
    if decoder.num_mask_tokens != 4:
        raise WeightsError(f"SAM2 mask decoder with {decoder.num_mask_tokens} outputs, not 4")
    if [layer.skip_first_layer_pe for layer in layers] != [True, False]:
        raise WeightsError(f"SAM2 mask decoder with {len(layers)} layers, not the two of SAM2")
    upscaling = decoder.output_upscaling
    activations = [layer.mlp.act for layer in layers]
    if not all(isinstance(act, nn.ReLU) for act in activations) or not all(
        isinstance(act, nn.GELU) and act.approximate == "none" for act in upscaling[2::2]
    ):
        raise WeightsError("SAM2 mask decoder with other activations than SAM2's")


class _Store:
    """Stores folded float64 weights at the decoder's precision."""

    def __init__(self, dtype: torch.dtype, heads: int, head_dim: int) -> None:
        self.dtype, self.heads, self.softmax_scale = dtype, heads, head_dim**-0.5

    def __call__(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.dtype).contiguous()

    def wide(self, tensor: Tensor) -> Tensor:
        return tensor.to(torch.promote_types(self.dtype, torch.float32)).contiguous()

    def linear(self, module: Any, scale: float = 1.0) -> Linear:
        return Linear(*(self(x * scale) for x in double_of(module)))

    def norm(self, module: Any) -> Norm:
        weight, bias = double_of(module)
        return Norm(self(weight), self(bias), module.eps)

    def per_head(self, rows: Tensor) -> Tensor:
        """``(H * d, n)`` to ``(H, d, n)``."""
        return self(rows.view(self.heads, -1, rows.shape[-1]))

    def output(self, attention: Any, shift: Tensor) -> Linear:
        """Output projection with the bias of values whose inputs lack `shift`."""
        value, value_bias = double_of(attention.v_proj)
        out, out_bias = double_of(attention.out_proj)
        return Linear(self(out), self(out @ (value @ shift + value_bias) + out_bias))


def _fold_layer(block: Any, norm_before: Any, pe: Tensor, store: _Store) -> Layer:
    """A block whose image tokens come out of `norm_before`, without its scale and shift."""
    attention = block.cross_attn_image_to_token
    query, query_bias = double_of(attention.q_proj)
    out, out_bias = double_of(attention.out_proj)
    if norm_before is None:
        scale, shift, added = torch.ones_like(out_bias), torch.zeros_like(out_bias), None
    else:
        scale, shift = double_of(norm_before)
        added = centred(shift + out_bias) / store.heads
    return Layer(
        cross_norm=store.norm(block.norm2),
        mlp=tuple(store.linear(m) for m in block.mlp.layers),
        mlp_norm=store.norm(block.norm3),
        image=ImageToTokens(
            query=Projection(
                store.per_head(query * scale),
                store.per_head(query @ (pe + shift[:, None]) + query_bias[:, None]),
            ),
            key=store.linear(attention.k_proj, store.softmax_scale),
            value=store.linear(attention.v_proj),
            out=store.per_head(centred(out).T),
            shift=store(torch.zeros_like(out_bias) if added is None else added),
        ),
        image_eps=block.norm4.eps,
    )


def _fold_tokens_to_image(
    attention: Any, scale: Tensor, shift: Tensor, pe: Tensor, store: _Store
) -> TokensToImage:
    key, value = double_of(attention.k_proj)[0], double_of(attention.v_proj)[0]
    return TokensToImage(
        query=store.linear(attention.q_proj, store.softmax_scale),
        key=Projection(store.per_head(key * scale), store.per_head(key @ pe)),
        value=Projection(store.per_head(value * scale)),
        out=store.output(attention, shift),
    )


def _fold_upscaling(modules: Any, scale: Tensor, size: tuple[int, int], store: _Store) -> Upscaling:
    first = centred_first(modules[0].weight.detach().double())
    second = modules[3].weight.detach().double().permute(0, 2, 3, 1)
    # Token row, token column, then y and x within it after the first and the second upscaling.
    h, w = size
    order = torch.arange(16 * h * w, device=scale.device).view(h, w, 2, 2, 2, 2)
    return Upscaling(
        store(first * scale),
        store.norm(modules[1]),
        store(second.flatten(1)),
        order.permute(0, 2, 4, 1, 3, 5).flatten(),
    )


def fold_hypernetworks(networks: Any, dtype: torch.dtype) -> tuple[Linear, ...]:
    """The layers of n MLPs side by side: ``(n, in, out)`` and ``(n, 1, out)`` each."""
    return tuple(
        Linear(
            torch.stack([double_of(m)[0].T for m in depth]).to(dtype).contiguous(),
            torch.stack([double_of(m)[1][None] for m in depth]).to(dtype).contiguous(),
        )
        for depth in zip(*(mlp.layers for mlp in networks))
    )


def centred(x: Tensor) -> Tensor:
    """Without its mean over the first axis."""
    return x - x.mean(0, keepdim=True)


def centred_first(weight: Tensor) -> Tensor:
    """A transposed convolution ``(C, C/4, 2, 2)`` as ``(4 * C/4, C)``, centred over each C/4."""
    weight = weight.permute(2, 3, 1, 0)
    return (weight - weight.mean(2, keepdim=True)).flatten(0, 2)
