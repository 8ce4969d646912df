"""Three Triton kernels for the image tokens of SAM2's transformer; `DECODER.md`, section 6.

A program walks through the image tokens of one point, or through a part of them, a tile at a time.
What it needs of the point stays in fast memory: rows ``(R, d)`` spread over heads with zeros in
between, so that one matrix product serves all heads, and products ``(R, R)``. Accumulators and
squared lengths are float32; what enters a matrix product has the type of the tensors.

Imports Triton: only `fused_transform` imports this module, and only where it is used.
Shapes: b points of S parts, T prompt tokens, H heads of d dimensions, R = T * H rows token major,
N image tokens; `rows` is R with T filled up to a power of 2. Maps are ``(H, d, N)``.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ntt_ray.models.sam2.decoder.transform_tiles import (
    LOG2_E,
    dot,
    doubled,
    map_tile,
    matrix,
    norm_scale,
    own_heads,
    softmax_over_tokens,
    softmax_step,
    spread,
    store_matrix,
)


@triton.jit
def layer_1(
    key,  # (b, R, d), keys of the image tokens' attention in layer 1
    value,  # (b, R, d), its values
    gram,  # (b, R, R), U U^T of layer 1
    query,  # (b, R, d), queries of layer 2's attention to the image
    wanted,  # (b, R, R), those queries times what an attention weight of 1 adds to a key
    query_map,  # ImageMaps.query_1
    out_map,  # SharedMaps.out_1
    square_map,  # SharedMaps.square_1
    key_map,  # layer 2's attention to the image: base of its key
    position_map,  # position of its key
    value_map,  # base of its value
    p,  # written, (b, 2 R, N): the first R rows
    scale,  # written, (b, N) float32
    mean_p,  # written, (b, S, R, R) float32: means of p by the attention's weights
    mean_base,  # written, (b, S, R, d) float32: means of the scaled value_map
    log_sum,  # written, (b, S, R) float32: logarithm of the sum of the weights
    n,  # N
    part,  # image tokens of a program
    eps,
    channels: tl.constexpr,
    tokens: tl.constexpr,
    rows: tl.constexpr,
    heads: tl.constexpr,
    dims: tl.constexpr,
    tile: tl.constexpr,
):
    """The image tokens after layer 1, and layer 2's attention of the prompt tokens to them."""
    point, split = tl.program_id(0).to(tl.int64), tl.program_id(1)
    count: tl.constexpr = tokens * heads
    key_rows = spread(key, point, count, rows, heads, dims)
    value_rows = doubled(spread(value, point, count, rows, heads, dims))
    query_rows = spread(query, point, count, rows, heads, dims)
    gram_rows = matrix(gram + point * count * count, count, rows, count, rows, count)
    wanted_rows = matrix(wanted + point * count * count, count, rows, count, rows, count)

    top = tl.full((rows,), -float("inf"), tl.float32)
    total = tl.zeros((rows,), tl.float32)
    sum_p = tl.zeros((rows, rows), tl.float32)
    sum_base = tl.zeros((rows, heads * dims), tl.float32)
    r = tl.arange(0, rows)[:, None]
    for start in range(split * part, tl.minimum(n, (split + 1) * part), tile):
        at = start + tl.arange(0, tile)
        inside = at < n
        mix = dot(key_rows, map_tile(query_map, at, n, heads * dims))
        mix = softmax_over_tokens(mix, tokens, rows, heads, tile).to(key_rows.dtype)
        products = dot(value_rows, map_tile(out_map, at, n, heads * dims))
        products = dot(gram_rows, mix, products)
        square = tl.load(square_map + at, mask=inside, other=0).to(tl.float32)
        square += tl.sum(products * mix, 0)
        factor = norm_scale(square, channels, eps)
        tl.store(scale + point * n + at, factor, mask=inside)
        target = p + point * 2 * count * n + (r * n + at[None, :])
        tl.store(target, mix * factor[None, :], mask=(r < count) & inside[None, :])

        scores = dot(query_rows, map_tile(key_map, at, n, heads * dims))
        scores = dot(wanted_rows, mix, scores) * factor[None, :]
        scores = dot(query_rows, map_tile(position_map, at, n, heads * dims), scores)
        weights, shrink, top, total = softmax_step(scores, inside, top, total)
        weights = (weights * factor[None, :]).to(key_rows.dtype)
        sum_p = dot(weights, tl.trans(mix), sum_p * shrink[:, None])
        base = map_tile(value_map, at, n, heads * dims)
        sum_base = dot(weights, tl.trans(base), sum_base * shrink[:, None])

    at = point * tl.num_programs(1) + split
    store_matrix(
        mean_p + at * count * count, sum_p / total[:, None], count, rows, count, rows, count
    )
    sum_base = own_heads(sum_base, rows, heads, dims)
    mean_base += at * count * dims
    store_matrix(mean_base, sum_base / total[:, None], count, rows, dims, dims, dims)
    r = tl.arange(0, rows)
    tl.store(log_sum + at * count + r, top / LOG2_E + tl.log(total), mask=r < count)


@triton.jit
def layer_2(
    key,  # (b, R, d), keys of the image tokens' attention in layer 2
    wanted,  # (b, R, R), those keys times what a weight of layer 1 adds to a query
    value_1,  # (b, R, d), values of that attention in layer 1
    value_2,  # (b, R, d), the same in layer 2
    gram,  # (b, 2 R, 2 R), U U^T of both layers
    query_map,  # ImageMaps.query_2: base
    position_map,  # its position
    out_1_map,  # SharedMaps.out_1_scaled
    out_2_map,  # SharedMaps.out_2
    square_map,  # SharedMaps.square_2
    shift_map,  # SharedMaps.shift_2
    old_scale,  # (b, N) float32, of layer 1
    p,  # (b, 2 R, N): the first R rows are read, all are written
    scale,  # written, (b, N)
    n,  # N
    part,  # image tokens of a program
    eps,
    channels: tl.constexpr,
    tokens: tl.constexpr,
    rows: tl.constexpr,
    heads: tl.constexpr,
    dims: tl.constexpr,
    tile: tl.constexpr,
):
    """The image tokens after layer 2.

    A tile of p is written after all of it was read: its norm needs every row.
    """
    point, split = tl.program_id(0).to(tl.int64), tl.program_id(1)
    count: tl.constexpr = tokens * heads
    key_rows = spread(key, point, count, rows, heads, dims)
    wanted_rows = matrix(wanted + point * count * count, count, rows, count, rows, count)
    rows_1 = doubled(spread(value_1, point, count, rows, heads, dims))
    rows_2 = doubled(spread(value_2, point, count, rows, heads, dims))
    gram += point * 4 * count * count
    gram_11 = matrix(gram, count, rows, count, rows, 2 * count)
    gram_12 = doubled(matrix(gram + count, count, rows, count, rows, 2 * count))
    gram_22 = matrix(gram + (2 * count + 1) * count, count, rows, count, rows, 2 * count)
    r = tl.arange(0, rows)[:, None]
    for start in range(split * part, tl.minimum(n, (split + 1) * part), tile):
        at = start + tl.arange(0, tile)
        inside = at < n
        old = tl.load(old_scale + point * n + at, mask=inside, other=0)
        target = p + point * 2 * count * n + (r * n + at[None, :])
        valid = (r < count) & inside[None, :]
        p_1 = tl.load(target, mask=valid, other=0)

        mix = dot(key_rows, map_tile(query_map, at, n, heads * dims)) * old[None, :]
        mix = dot(wanted_rows, p_1, mix)
        mix = dot(key_rows, map_tile(position_map, at, n, heads * dims), mix)
        p_2 = softmax_over_tokens(mix, tokens, rows, heads, tile).to(p_1.dtype)

        square = tl.load(shift_map + at, mask=inside, other=0).to(tl.float32) * 2
        square += tl.load(square_map + at, mask=inside, other=0).to(tl.float32) * old
        products = dot(rows_1, map_tile(out_1_map, at, n, heads * dims)) * old[None, :]
        products = dot(gram_11, p_1, dot(gram_12, p_2, products)) * p_1
        more = dot(rows_2, map_tile(out_2_map, at, n, heads * dims)) * old[None, :]
        products += dot(gram_22, p_2, more) * p_2
        norm = norm_scale(tl.sum(products, 0) + square * old, channels, eps)
        tl.store(scale + point * n + at, old * norm, mask=inside)
        tl.store(target, p_1 * norm[None, :], mask=valid)
        tl.store(target + count * n, p_2 * norm[None, :], mask=valid)


@triton.jit
def last_attention(
    query,  # (b, A, d), queries of the last attention to the image, A = 4 H
    wanted,  # (b, A, 2 R), those queries times what an attention weight of 1 adds to a key
    key_map,  # the last attention to the image: base of its key
    position_map,  # position of its key
    value_map,  # base of its value
    scale,  # (b, N)
    p,  # (b, 2 R, N)
    mean_p,  # written, (b, S, A, 2 R) float32: means of p by the attention's weights
    mean_base,  # written, (b, S, A, d) float32: means of the scaled value_map
    log_sum,  # written, (b, S, A) float32: logarithm of the sum of the weights
    n,  # N
    part,  # image tokens of a program
    tokens: tl.constexpr,
    rows: tl.constexpr,
    asked: tl.constexpr,  # A filled up to a power of 2, at least 16
    heads: tl.constexpr,
    dims: tl.constexpr,
    tile: tl.constexpr,
):
    """The attention of the four prompt tokens that are read at the end to the image tokens."""
    point, split = tl.program_id(0).to(tl.int64), tl.program_id(1)
    count: tl.constexpr = tokens * heads
    used: tl.constexpr = 4 * heads
    query_rows = spread(query, point, used, asked, heads, dims)
    wanted += point * used * 2 * count
    wanted_1 = matrix(wanted, used, asked, count, rows, 2 * count)
    wanted_2 = matrix(wanted + count, used, asked, count, rows, 2 * count)

    top = tl.full((asked,), -float("inf"), tl.float32)
    total = tl.zeros((asked,), tl.float32)
    sum_1 = tl.zeros((asked, rows), tl.float32)
    sum_2 = tl.zeros((asked, rows), tl.float32)
    sum_base = tl.zeros((asked, heads * dims), tl.float32)
    r = tl.arange(0, rows)[:, None]
    for start in range(split * part, tl.minimum(n, (split + 1) * part), tile):
        at = start + tl.arange(0, tile)
        inside = at < n
        factor = tl.load(scale + point * n + at, mask=inside, other=0).to(tl.float32)
        source = p + point * 2 * count * n + (r * n + at[None, :])
        valid = (r < count) & inside[None, :]
        p_1 = tl.load(source, mask=valid, other=0)
        p_2 = tl.load(source + count * n, mask=valid, other=0)

        scores = dot(query_rows, map_tile(key_map, at, n, heads * dims)) * factor[None, :]
        scores = dot(wanted_2, p_2, dot(wanted_1, p_1, scores))
        scores = dot(query_rows, map_tile(position_map, at, n, heads * dims), scores)
        weights, shrink, top, total = softmax_step(scores, inside, top, total)
        narrow = weights.to(p_1.dtype)
        sum_1 = dot(narrow, tl.trans(p_1), sum_1 * shrink[:, None])
        sum_2 = dot(narrow, tl.trans(p_2), sum_2 * shrink[:, None])
        narrow = (weights * factor[None, :]).to(p_1.dtype)
        base = map_tile(value_map, at, n, heads * dims)
        sum_base = dot(narrow, tl.trans(base), sum_base * shrink[:, None])

    at = point * tl.num_programs(1) + split
    mean_p += at * used * 2 * count
    store_matrix(mean_p, sum_1 / total[:, None], used, asked, count, rows, 2 * count)
    store_matrix(mean_p + count, sum_2 / total[:, None], used, asked, count, rows, 2 * count)
    sum_base = own_heads(sum_base, asked, heads, dims)
    mean_base += at * used * dims
    store_matrix(mean_base, sum_base / total[:, None], used, asked, dims, dims, dims)
    a = tl.arange(0, asked)
    tl.store(log_sum + at * used + a, top / LOG2_E + tl.log(total), mask=a < used)
