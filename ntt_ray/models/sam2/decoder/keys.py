"""The image tokens of a step of points, each changed by its own prompt tokens.

`LowRankKeys` expresses an image token x by its R attention weights p and what all points of the
image share: ``x = scale * base + U^T p`` (`DECODER.md`, section 3). With few channels x itself is
smaller than its weights: `DenseKeys` stores it.

Both lack the scale and shift of the last norm, which `fold` moves into what reads them. Shapes: b
points, T prompt tokens, H heads of d dimensions, R = T * H token major, N image tokens, C channels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ntt_ray.models.sam2.decoder.fold import Projection


class SharedMaps(NamedTuple):
    """What `LowRankKeys` needs of an image besides projections.

    `base` is the image token before layer 1's norm without what the point adds, `base_2` the same
    before layer 2's: `base` times the first norm's scale. Both are centred over channels.

    Attributes:
        out_1: ``(H, d, N)``, layer 1's output projection times `base`.
        out_1_scaled: ``(H, d, N)``, the same, scaled as its norm does, times `base_2`.
        out_2: ``(H, d, N)``, layer 2's output projection times `base_2`.
        square_1: ``(N,)``, squared length of `base`.
        square_2: ``(N,)``, squared length of `base_2`.
        shift_2: ``(N,)``, product of `base_2` and what layer 2 adds to every image token.
        upscaled: ``(N, C)``, first upscaling of `base_2`.
    """

    out_1: Tensor
    out_1_scaled: Tensor
    out_2: Tensor
    square_1: Tensor
    square_2: Tensor
    shift_2: Tensor
    upscaled: Tensor


class LowRankKeys(NamedTuple):
    """``x = scale * base + U^T p``, with R rows after layer 1 and 2 R after layer 2.

    Attributes:
        scale: ``(b, 1, N)``, by what the norms so far have multiplied `base`.
        u: ``(b, R or 2 R, C)``, what an attention weight of 1 adds to an image token.
        p: ``(b, R or 2 R, N)``, attention weights, multiplied by the norms since.
        maps: what all points of the image share.
    """

    scale: Tensor
    u: Tensor
    p: Tensor
    maps: SharedMaps

    @classmethod
    def first(
        cls, mix: Tensor, u: Tensor, value: Tensor, maps: SharedMaps, eps: float
    ) -> LowRankKeys:
        """After layer 1: ``norm(base + U^T mix)``.

        The norm needs ``|base + U^T p|^2 = |base|^2 + 2 p.(U base) + p.(U U^T) p``.

        Args:
            mix: ``(b, T, H, N)``, attention weights; overwritten.
            u: ``(b, R, C)``, projected values.
            value: ``(b, T, H, d)``, the values before their projection.
            maps: what all points of the image share.
            eps: epsilon of the norm.
        """
        p = mix.flatten(1, 2)
        products = head_products(value, maps.out_1).flatten(1, 2)
        products.baddbmm_(u @ u.mT, p, beta=2)
        square = maps.square_1 + _dot(products, p)
        scale = _norm_scale(square, u, eps)
        return cls(scale, u, p.mul_(scale), maps)

    def second(
        self, mix: Tensor, u: Tensor, values: tuple[Tensor, Tensor], scale: Tensor, eps: float
    ) -> LowRankKeys:
        """After layer 2: ``norm(scale * x + U^T mix)``.

        Args:
            mix: ``(b, T, H, N)``, attention weights of layer 2.
            u: ``(b, R, C)``, projected values of layer 2 and their shift.
            values: ``(b, T, H, d)`` each, the values of layers 1 and 2 before their projection.
            scale: ``(C,)``, scale of the norm that made `self`.
            eps: epsilon of layer 2's norm.
        """
        maps = self.maps
        rows = u.shape[1]
        p_1, p_2 = self.p, mix.flatten(1, 2)
        u_1 = self.u * scale
        u_1 -= u_1.mean(-1, keepdim=True)
        u = torch.cat([u_1, u], dim=1)
        gram = u @ u.mT
        products = head_products(values[0], maps.out_1_scaled).flatten(1, 2)
        products *= 2 * self.scale
        products.baddbmm_(gram[:, :rows, :rows], p_1)
        products.baddbmm_(gram[:, :rows, rows:], p_2, alpha=2)
        square = _dot(products, p_1)
        products = head_products(values[1], maps.out_2).flatten(1, 2)
        products *= 2 * self.scale
        products.baddbmm_(gram[:, rows:, rows:], p_2)
        square += _dot(products, p_2)
        old = self.scale[:, 0].to(square.dtype)
        square += old * (old * maps.square_2 + 2 * maps.shift_2)
        norm_scale = _norm_scale(square, u, eps)
        p = _joined_products(p_1, p_2, norm_scale)
        return LowRankKeys(self.scale * norm_scale, u, p, maps)

    def scores(self, query: Tensor, projection: Projection) -> Tensor:
        """Products of queries ``(b, T, H, d)`` with projected x: ``(b, T, H, N)``."""
        assert projection.base is not None
        assert projection.position is not None
        wanted = head_products(query, projection.weight).flatten(1, 2)
        scores = head_products(query, projection.base)
        flat = scores.flatten(1, 2)
        flat *= self.scale
        flat.baddbmm_(wanted @ self.u.mT, self.p)
        return add_head_products_(scores, query, projection.position)

    def means(self, weights: Tensor, projection: Projection) -> Tensor:
        """Means of projected x by ``weights (b, T, H, N)``, overwritten: ``(b, T, H * d)``."""
        assert projection.base is not None
        flat = weights.flatten(1, 2)
        mixed = (self.p @ flat.mT).mT @ self.u
        flat *= self.scale
        by_head = mixed.view(*weights.shape[:3], -1)
        return head_means(weights, projection.base) + head_means(by_head, projection.weight)

    def select(self, index: Tensor | slice) -> LowRankKeys:
        """The image tokens of some of the points: a range, or their positions ``(n,)`` int64."""
        return LowRankKeys(self.scale[index], self.u[index], self.p[index], self.maps)

    def factors(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Factors ``(b, N, K)`` and ``(b, K, n)`` of x times ``weight (n, C)``, without `base`."""
        return self.p.mT, self.u @ weight.T

    def rest(self, tokens: slice, skip: Tensor) -> Tensor:
        """What `factors` leaves out and `skip` ``(n, C)``, at some image tokens: ``(b, n, C)``."""
        return torch.addcmul(skip, self.maps.upscaled[tokens], self.scale[:, 0, tokens, None])


class DenseKeys(NamedTuple):
    """Image tokens as they are, ``(b, N, C)``. The methods are those of `LowRankKeys`."""

    x: Tensor

    @classmethod
    def first(cls, mix: Tensor, u: Tensor, base: Tensor, eps: float) -> DenseKeys:
        """After layer 1: ``norm(base + U^T mix)``."""
        x = torch.baddbmm(base.expand(len(u), -1, -1), mix.flatten(1, 2).mT, u)
        return cls(F.layer_norm(x, x.shape[-1:], eps=eps))

    def second(
        self, mix: Tensor, u: Tensor, _values: tuple[Tensor, Tensor], scale: Tensor, eps: float
    ) -> DenseKeys:
        """After layer 2: ``norm(scale * x + U^T mix)``."""
        x = (self.x * scale).baddbmm_(mix.flatten(1, 2).mT, u)
        return DenseKeys(F.layer_norm(x, x.shape[-1:], eps=eps))

    def scores(self, query: Tensor, projection: Projection) -> Tensor:
        """See `LowRankKeys.scores`."""
        assert projection.position is not None
        wanted = head_products(query, projection.weight)
        scores = (wanted.flatten(1, 2) @ self.x.mT).view(*wanted.shape[:3], -1)
        return add_head_products_(scores, query, projection.position)

    def means(self, weights: Tensor, projection: Projection) -> Tensor:
        """See `LowRankKeys.means`."""
        means = (weights.flatten(1, 2) @ self.x).view(*weights.shape[:3], -1)
        return head_means(means, projection.weight)

    def select(self, index: Tensor | slice) -> DenseKeys:
        """See `LowRankKeys.select`."""
        return DenseKeys(self.x[index])

    def factors(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """See `LowRankKeys.factors`."""
        return self.x, weight.T.expand(len(self.x), -1, -1)

    def rest(self, _tokens: slice, skip: Tensor) -> Tensor:
        """See `LowRankKeys.rest`."""
        return skip.repeat(len(self.x), 1, 1)


def head_products(query: Tensor, maps: Tensor) -> Tensor:
    """Products over each head's dimensions: ``(b, T, H, d)``, ``(H, d, n)`` to ``(b, T, H, n)``."""
    b, t, heads, _ = query.shape
    if not _one_product_per_head(query):
        return torch.mm(_block_diagonal(query), maps.flatten(0, 1)).view(b, t, heads, -1)
    if torch.compiler.is_compiling():  # the compiler loses the strides of what is written below
        products = torch.bmm(_by_head(query), maps).transpose(0, 1).contiguous()
        return products.view(b, t, heads, -1)
    products = query.new_empty(b, t, heads, maps.shape[-1])
    products.view(b * t, heads, -1).transpose(0, 1).baddbmm_(_by_head(query), maps, beta=0)
    return products


def add_head_products_(target: Tensor, query: Tensor, maps: Tensor) -> Tensor:
    """`head_products`, added to ``target (b, T, H, n)`` in place."""
    b, t, heads, _ = query.shape
    if torch.compiler.is_compiling():
        target += head_products(query, maps)
    elif _one_product_per_head(query):
        target.view(b * t, heads, -1).transpose(0, 1).baddbmm_(_by_head(query), maps)
    else:
        target.view(b * t * heads, -1).addmm_(_block_diagonal(query), maps.flatten(0, 1))
    return target


def head_means(weights: Tensor, maps: Tensor) -> Tensor:
    """Weighted sums per head: ``(b, T, H, n)``, ``(H, d, n)`` to ``(b, T, H * d)``."""
    b, t, heads, n = weights.shape
    if _one_product_per_head(maps):
        sums = torch.bmm(weights.view(b * t, heads, n).transpose(0, 1), maps.mT).transpose(0, 1)
    else:
        every = torch.mm(weights.view(-1, n), maps.flatten(0, 1).T)
        sums = every.view(b * t, heads, heads, -1).diagonal(dim1=1, dim2=2).mT
    return sums.reshape(b, t, -1)


def _one_product_per_head(rows: Tensor) -> bool:
    """Else one product for all heads, with zeros in between: H times the arithmetic, on a GPU free.

    A head has 16 dimensions in the published models, too few to fill a GPU's matrix units.
    """
    return rows.device.type == "cpu"


def _by_head(query: Tensor) -> Tensor:
    b, t, heads, d = query.shape
    return query.reshape(b * t, heads, d).transpose(0, 1)


def _block_diagonal(query: Tensor) -> Tensor:
    """``(b, T, H, d)`` to ``(b * T * H, H * d)``, zero outside the row's own head."""
    return torch.diag_embed(query.mT, dim1=2, dim2=3).view(-1, query.shape[2] * query.shape[3])


def _joined_products(first: Tensor, second: Tensor, scale: Tensor) -> Tensor:
    """``cat([first, second], dim=1) * scale`` without a copy: ``(b, R, N)`` each, ``(b, 1, N)``."""
    if torch.compiler.is_compiling():  # the compiler joins the copy to the product by itself
        return torch.cat([first, second], dim=1).mul_(scale)
    rows = first.shape[1]
    joined = first.new_empty(len(first), rows + second.shape[1], first.shape[2])
    torch.mul(first, scale, out=joined[:, :rows])
    torch.mul(second, scale, out=joined[:, rows:])
    return joined


def _dot(products: Tensor, p: Tensor) -> Tensor:
    """Sum of ``products * p`` over R: ``(b, N)``, at least float32. Overwrites `products`."""
    wide = torch.promote_types(p.dtype, torch.float32)
    return products.mul_(p).sum(1, dtype=wide)


def _norm_scale(square: Tensor, u: Tensor, eps: float) -> Tensor:
    """The factor ``(b, 1, N)`` of a LayerNorm over centred channels from their squared length."""
    # Rounding may leave a tiny negative square where the mix cancels the base.
    return torch.rsqrt(square.clamp(min=0) / u.shape[-1] + eps)[:, None].to(u.dtype)
