"""Upscaling of low-rank image tokens as one Triton kernel: `run.upscale` in one pass over them.

A program takes some image tokens of one point. It reads their attention weights ``p`` once, the
point's ``u`` times the first upscaling, and what all points share; it writes the logits of these
tokens' pixels in float32 and in their place in the mask. What lies between stays on the chip:
products are summed, normed and activated in float32, and the input of the second product alone is
rounded to the decoder's precision.

A survivor of the published decoders takes 558 million operations and, in bfloat16, 1.5 MB from and
to memory: 1.05 MB of ``p``, 0.2 MB of ``u`` and its product, 0.26 MB of logits (`upscale_cost`).
What all points share, 8.6 MB, stays in the second-level cache.

Nothing imports this module but `run`, on a GPU: there is no Triton elsewhere.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ntt_ray.models.sam2.decoder.fold import DecoderWeights
from ntt_ray.models.sam2.decoder.image import ImageMaps
from ntt_ray.models.sam2.decoder.keys import LowRankKeys

# The loop over products has another inside and cannot be pipelined. Fusing multiplications with
# additions is Triton's default, which a later version changes.
COMPILED_WITH = {"num_stages": 1, "enable_fp_fusion": True}


class Cost(NamedTuple):
    """What a call needs at least.

    Attributes:
        flops: operations of its matrix products, two for each multiplication and addition.
        bytes: what is read and written once, in bytes.
    """

    flops: int
    bytes: int


def upscale(
    weights: DecoderWeights, maps: ImageMaps, keys: LowRankKeys, hypernetworks: Tensor
) -> Tensor:
    """One mask per point; the arguments and results of `run.upscale`, logits in float32."""
    first, norm, second, _ = weights.upscaling
    n, c8 = hypernetworks.shape
    tokens, c4 = len(maps.skip_1), len(second)
    side = int(tokens**0.5)
    logits = hypernetworks.new_empty(n, 4 * side, 4 * side, dtype=torch.float32)
    if n == 0:
        return logits
    _, right = keys.factors(first)
    read = [keys.p, right, keys.scale, keys.maps.upscaled, maps.skip_1, maps.skip_0]
    read += [norm.weight, norm.bias, second, hypernetworks]
    block, num_warps = block_and_warps(second.dtype)
    # Triton starts kernels on the current device
    with torch.cuda.device_of(logits):
        upscale_kernel[(n * triton.cdiv(tokens, block),)](
            *(tensor.contiguous() for tensor in read),
            logits,
            norm.eps,
            **constants(right.shape[1], side, c4, c8, block),
            num_warps=num_warps,
            **COMPILED_WITH,
        )
    return logits


def block_and_warps(dtype: torch.dtype) -> tuple[int, int]:
    """Image tokens of a program, and its warps: what fits their registers.

    Without matrix units, as exact float32 asks, twice as many threads share half as many tokens.
    """
    return (32, 8) if dtype == torch.float32 else (64, 4)


def constants(rows: int, side: int, c4: int, c8: int, block: int) -> dict[str, int]:
    """The kernel's sizes, and blocks of them: powers of two that a matrix unit can take."""
    sizes = {"rows": rows, "c4": c4, "c8": c8}
    blocks = {
        f"{name}_block": max(16, triton.next_power_of_2(size)) for name, size in sizes.items()
    }
    return {"side": side, "block": block} | sizes | blocks


@triton.jit
def upscale_kernel(
    p_ptr: tl.tensor,  # (n, rows, tokens)
    right_ptr: tl.tensor,  # (n, rows, 4 * c4)
    scale_ptr: tl.tensor,  # (n, tokens)
    base_ptr: tl.tensor,  # (tokens, 4 * c4)
    skip_1_ptr: tl.tensor,  # (tokens, 4 * c4)
    skip_0_ptr: tl.tensor,  # (4 * tokens, 4 * c8)
    norm_weight_ptr: tl.tensor,  # (c4,)
    norm_bias_ptr: tl.tensor,  # (c4,)
    second_ptr: tl.tensor,  # (c4, 4 * c8)
    hypernetwork_ptr: tl.tensor,  # (n, c8)
    logits_ptr: tl.tensor,  # (n, 4 * side, 4 * side) float32
    eps: float,
    rows: tl.constexpr,
    side: tl.constexpr,
    c4: tl.constexpr,
    c8: tl.constexpr,
    block: tl.constexpr,
    rows_block: tl.constexpr,
    c4_block: tl.constexpr,
    c8_block: tl.constexpr,
) -> None:
    """`upscale` for ``block`` image tokens of a point; programs of a point follow each other."""
    tokens: tl.constexpr = side * side
    blocks: tl.constexpr = (tokens + block - 1) // block
    point = (tl.program_id(0) // blocks).to(tl.int64)  # a step's p may have 2^31 elements and more
    t = tl.program_id(0) % blocks * block + tl.arange(0, block)
    k, c, j = tl.arange(0, rows_block), tl.arange(0, c4_block), tl.arange(0, c8_block)
    is_token, is_row, is_c4, is_c8 = t < tokens, k < rows, c < c4, j < c8

    p_at = p_ptr + point * (rows * tokens) + k[:, None] * tokens + t[None, :]
    p = tl.load(p_at, mask=is_row[:, None] & is_token[None, :], other=0.0)
    scale = tl.load(scale_ptr + point * tokens + t, mask=is_token, other=0.0).to(tl.float32)
    hypernetwork = tl.load(hypernetwork_ptr + point * c8 + j, mask=is_c8, other=0.0)
    hypernetwork = hypernetwork.to(tl.float32)
    norm_weight = tl.load(norm_weight_ptr + c, mask=is_c4, other=0.0).to(tl.float32)
    norm_bias = tl.load(norm_bias_ptr + c, mask=is_c4, other=0.0).to(tl.float32)
    right_at = right_ptr + point * (rows * 4 * c4) + k[:, None] * (4 * c4) + c[None, :]
    first_pixel = 16 * side * (t // side) + 4 * (t % side)

    for outer in range(4):  # the pixels of the first upscaling, 2 y + x
        right = tl.load(right_at + outer * c4, mask=is_row[:, None] & is_c4[None, :], other=0.0)
        x = tl.dot(tl.trans(p), right, input_precision="ieee")
        at = t[:, None] * (4 * c4) + outer * c4 + c[None, :]
        inside = is_token[:, None] & is_c4[None, :]
        base = tl.load(base_ptr + at, mask=inside, other=0.0).to(tl.float32)
        x += tl.load(skip_1_ptr + at, mask=inside, other=0.0).to(tl.float32)
        x += base * scale[:, None]
        x -= tl.sum(x, 1)[:, None] / c4
        if c4 != c4_block:
            x = tl.where(is_c4[None, :], x, 0.0)
        x *= tl.rsqrt(tl.sum(x * x, 1) / c4 + eps)[:, None]
        x = _gelu(x * norm_weight[None, :] + norm_bias[None, :]).to(p.dtype)
        for inner in range(4):  # the pixels of the second in each of them, 2 y + x
            second_at = second_ptr + c[:, None] * (4 * c8) + inner * c8 + j[None, :]
            second = tl.load(second_at, mask=is_c4[:, None] & is_c8[None, :], other=0.0)
            y = tl.dot(x, second, input_precision="ieee")
            at_0 = (4 * t + outer)[:, None] * (4 * c8) + inner * c8 + j[None, :]
            inside_0 = is_token[:, None] & is_c8[None, :]
            y += tl.load(skip_0_ptr + at_0, mask=inside_0, other=0.0).to(tl.float32)
            logit = tl.sum(_gelu(y) * hypernetwork[None, :], 1)
            row, column = 2 * (outer // 2) + inner // 2, 2 * (outer % 2) + inner % 2
            pixel = first_pixel + row * (4 * side) + column
            tl.store(logits_ptr + point * (16 * tokens) + pixel, logit, mask=is_token)


@triton.jit
def _gelu(x: tl.tensor) -> tl.tensor:
    return 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))


def upscale_cost(n: int, rows: int, tokens: int, c4: int, c8: int, itemsize: int) -> Cost:
    """What upscaling n points needs at least, `u` times the first upscaling included.

    Args:
        n: number of points.
        rows: number of attention weights of an image token.
        tokens: number of image tokens.
        c4: number of channels between the upscalings, a quarter of the image tokens'.
        c8: number of channels of the hypernetworks.
        itemsize: bytes of an element of everything but the logits.
    """
    first = rows * 4 * c4 * (tokens + 4 * c4)  # C = 4 * c4
    second = 4 * tokens * c4 * 4 * c8
    masks = 16 * tokens * c8
    own = rows * (tokens + 2 * 4 * c4 + 4 * c4) + tokens + c8
    shared = 2 * tokens * 4 * c4 + 4 * tokens * 4 * c8 + (4 * c4) ** 2 + c4 * 4 * c8 + 2 * c4
    read = (n * own + (shared if n else 0)) * itemsize
    return Cost(2 * n * (first + second + masks), read + n * 16 * tokens * 4)
