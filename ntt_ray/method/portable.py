"""Functions whose last bits a processor may choose: torch's in float32, the same ones in float64.

Libraries work out exponentials, powers and sums in other ways on other instruction sets, so their
last bits differ. Labels from kept proposals are computed in float64 and must be the same bytes on
any machine: here they are made of single additions, multiplications and divisions, which IEEE 754
settles, in an order of their own. What is float32 goes to torch, as the paper's code does it.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

# of ln 2; the high part has so few bits that 1,100 times it is exact
_LN2_HIGH, _LN2_LOW = float.fromhex("0x1.62e42fee00000p-1"), float.fromhex("0x1.a39ef35793c76p-33")
_EXP_TERMS, _LOG_TERMS = 14, 12
_LEAST_EXPONENT = -745.0  # e to less than it is 0


def exponential(x: Tensor) -> Tensor:
    """The exponential of each element, at most some hundreds; of less than -745 it is 0."""
    if x.dtype != torch.float64:
        return torch.exp(x)
    x = x.clamp(min=_LEAST_EXPONENT)
    twos = (x / math.log(2)).round()
    rest = (x - twos * _LN2_HIGH) - twos * _LN2_LOW  # at most ln 2 / 2 away from 0
    value = torch.ones_like(x)
    for term in range(_EXP_TERMS, 0, -1):
        value = 1 + rest * value / term
    half = (twos / 2).floor()  # in two steps: 2 to the power of -1075 is no number
    return value * _two_to(half) * _two_to(twos - half)


def power(x: Tensor, exponent: float) -> Tensor:
    """Each element, 0 to 1, to an exponent above 0."""
    if x.dtype != torch.float64:
        return torch.pow(x, exponent)
    return torch.where(x > 0, exponential(_logarithm(x.clamp(min=5e-324)) * exponent), 0.0)


def soft_max(x: Tensor, dim: int) -> Tensor:
    """Weights that add up to 1 along an axis, by the exponential of what may be -inf."""
    if x.dtype != torch.float64:
        return x.softmax(dim=dim)
    raised = exponential(x - x.amax(dim=dim, keepdim=True))
    return raised / row_sum(raised, dim).unsqueeze(dim)


def row_sum(x: Tensor, dim: int) -> Tensor:
    """Sum along an axis, one element after the other."""
    if x.dtype != torch.float64:
        return x.sum(dim=dim)
    return x.cumsum(dim=dim).select(dim, -1)


def product(matrix: Tensor, vector: Tensor) -> Tensor:
    """Matrix ``(n, m)`` times vector ``(m,)``; m is at least 1."""
    if matrix.dtype != torch.float64:
        return matrix @ vector
    return row_sum(matrix * vector, 1)


def length(vector: Tensor) -> Tensor:
    """Euclidean length of a vector ``(n,)``, n at least 1."""
    if vector.dtype != torch.float64:
        norm: Tensor = torch.linalg.vector_norm(vector)
        return norm
    return square_root(row_sum(vector * vector, 0))


def square_root(x: Tensor) -> Tensor:
    """Square roots; of float64 by NumPy, for those of MKL, which torch takes, are not exact."""
    if x.dtype != torch.float64:
        return x.sqrt()
    root: Tensor = torch.as_tensor(np.sqrt(x.numpy()))
    return root


def _logarithm(x: Tensor) -> Tensor:
    """Natural logarithm of what is above 0, by the series of the inverse hyperbolic tangent."""
    mantissa, twos = torch.frexp(x)  # 0.5 to 1
    small = mantissa < math.sqrt(0.5)
    mantissa = torch.where(small, 2 * mantissa, mantissa)
    twos = twos.double() - small.double()
    ratio = (mantissa - 1) / (mantissa + 1)  # at most 0.172 away from 0
    square = ratio * ratio
    series = torch.zeros_like(x)
    for term in range(_LOG_TERMS, -1, -1):
        series = 1 / (2 * term + 1) + square * series
    return twos * _LN2_HIGH + (twos * _LN2_LOW + 2 * ratio * series)


def _two_to(exponent: Tensor) -> Tensor:
    return torch.ldexp(torch.ones_like(exponent), exponent.int())
