"""What the kernels of `fused_transform` ask of a GPU, for budgets; counted, not measured."""

from __future__ import annotations

from typing import NamedTuple


class KernelCost(NamedTuple):
    """What a kernel does for a step of points.

    Attributes:
        name: of the kernel.
        flops: operations of its matrix products, two for each multiplication and addition, those
            with the zeros between heads included.
        memory_bytes: read and written of what belongs to the points, and once of what they share.
        cache_bytes: read by all programs of what the points share, from the second-level cache.
    """

    name: str
    flops: int
    memory_bytes: int
    cache_bytes: int


def transform_cost(
    points: int, tokens: int, heads: int, dims: int, image_tokens: int, itemsize: int
) -> list[KernelCost]:
    """The three kernels' costs; what surrounds them works on a few tokens for each point.

    Args:
        points: number of points, b.
        tokens: prompt tokens of a point, T.
        heads: attention heads, H.
        dims: dimensions of a head, d.
        image_tokens: number of image tokens, N.
        itemsize: bytes of an element of the decoder's precision.
    """
    rows, width, n = tokens * heads, heads * dims, image_tokens
    asked = 4 * heads
    shared, square, mixed = rows * width, rows * rows, asked * rows
    # for each image token: products with a shared map, with the point's matrices
    flops = (5 * shared + 3 * square, 4 * shared + 4 * square, 3 * asked * width + 4 * mixed)
    scale = 4 * n
    layer_1 = itemsize * (rows * n + 3 * rows * dims + 2 * square) + scale
    layer_1 += 4 * rows * (rows + dims + 1)
    layer_2 = itemsize * (3 * rows * n + 3 * rows * dims + 5 * square + n) + scale
    last = itemsize * (2 * rows * n + asked * dims + 2 * mixed + n)
    last += 4 * asked * (2 * rows + dims + 1)
    maps = (5 * width * itemsize + 4, 4 * width * itemsize + 8, 3 * width * itemsize)
    return [
        KernelCost(name, 2 * points * n * products, points * own + n * common, points * n * common)
        for name, products, own, common in zip(
            ("layer_1", "layer_2", "last_attention"), flops, (layer_1, layer_2, last), maps
        )
    ]
