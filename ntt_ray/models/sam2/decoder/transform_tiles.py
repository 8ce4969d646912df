"""What `transform_kernels` does with one tile of image tokens, and with the rows of a point.

Imports Triton. Shapes: H heads of d dimensions; `rows` and `columns` are filled up to powers of 2,
`count` and `width` say how many of them there are; a tile is so many image tokens of N.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def dot(a, b, total=None):
    """``a @ b + total``, float32; float32 operands are not rounded."""
    return tl.dot(a, b, total, input_precision="ieee", out_dtype=tl.float32)


@triton.jit
def map_tile(values, at, n, width: tl.constexpr):
    """``(width, tile)`` of a map of all heads, 0 beyond the last image token."""
    c = tl.arange(0, width)[:, None]
    return tl.load(values + (c * n + at[None, :]), mask=(at < n)[None, :], other=0)


@triton.jit
def spread(
    values,
    point,
    count: tl.constexpr,
    rows: tl.constexpr,
    heads: tl.constexpr,
    dims: tl.constexpr,
):
    """``(rows, H * d)`` of a point's ``(count, d)``, zero outside the row's own head."""
    r, c = tl.arange(0, rows)[:, None], tl.arange(0, heads * dims)[None, :]
    own = (r < count) & (r % heads == c // dims)
    return tl.load(values + (point * count + r) * dims + c % dims, mask=own, other=0)


@triton.jit
def own_heads(sums, rows: tl.constexpr, heads: tl.constexpr, dims: tl.constexpr):
    """``(rows, H * d)`` to ``(rows, d)``: what belongs to the row's own head."""
    r, h = tl.arange(0, rows)[:, None, None], tl.arange(0, heads)[None, :, None]
    return tl.sum(tl.where(r % heads == h, tl.reshape(sums, (rows, heads, dims)), 0.0), 1)


@triton.jit
def matrix(
    first,
    count: tl.constexpr,
    rows: tl.constexpr,
    width: tl.constexpr,
    columns: tl.constexpr,
    stride: tl.constexpr,
):
    """``(count, width)`` from a first element on, filled with 0 to ``(rows, columns)``."""
    r, c = tl.arange(0, rows)[:, None], tl.arange(0, columns)[None, :]
    return tl.load(first + r * stride + c, mask=(r < count) & (c < width), other=0)


@triton.jit
def store_matrix(
    first,
    values,
    count: tl.constexpr,
    rows: tl.constexpr,
    width: tl.constexpr,
    columns: tl.constexpr,
    stride: tl.constexpr,
):
    """The opposite of `matrix`."""
    r, c = tl.arange(0, rows)[:, None], tl.arange(0, columns)[None, :]
    tl.store(first + r * stride + c, values, mask=(r < count) & (c < width))


@triton.jit
def doubled(values):
    """Twice the values, in their type: exact."""
    return (values.to(tl.float32) * 2).to(values.dtype)


@triton.jit
def softmax_over_tokens(
    scores, tokens: tl.constexpr, rows: tl.constexpr, heads: tl.constexpr, tile: tl.constexpr
):
    """Softmax of ``(rows, tile)`` over the prompt tokens of each head; 0 for rows beyond them."""
    scores = tl.reshape(scores, (rows // heads, heads, tile)) * LOG2_E
    t = tl.arange(0, rows // heads)[:, None, None]
    scores = tl.where(t < tokens, scores, -float("inf"))
    weights = tl.exp2(scores - tl.max(scores, 0, keep_dims=True))
    return tl.reshape(weights * (1 / tl.sum(weights, 0, keep_dims=True)), (rows, tile))


@triton.jit
def softmax_step(scores, inside, top, total):
    """One tile of a softmax over image tokens.

    Returns the tile's weights, by what earlier sums shrink, the largest score so far (to base 2)
    and the sum of the weights so far.
    """
    scores = tl.where(inside[None, :], scores * LOG2_E, -float("inf"))
    highest = tl.maximum(top, tl.max(scores, 1))
    shrink = tl.exp2(top - highest)
    weights = tl.exp2(scores - highest[:, None])
    return weights, shrink, highest, total * shrink + tl.sum(weights, 1)


@triton.jit
def norm_scale(square, channels: tl.constexpr, eps):
    """The factor of a LayerNorm over centred channels; rounding may leave a negative square."""
    return tl.rsqrt(tl.maximum(square, 0.0) * (1.0 / channels) + eps)
