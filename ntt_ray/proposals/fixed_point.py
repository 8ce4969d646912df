"""Features as integers: 16 bits for each number of a vector of length 1.

A product of two such vectors is a sum of integers below 2^53, which float64 adds up without
rounding in whatever order: similarities are the same bits on any processor, for any number of
classes and proposals.
"""

from __future__ import annotations

import torch
from torch import Tensor

ONE = 2**15  # what 1.0 is as an integer
_LEAST, _MOST = -(2**15), 2**15 - 1


def to_fixed(features: Tensor) -> Tensor:
    """Numbers from -1 to 1 as int16, to the nearest; of 1.0 the largest there is."""
    return (features.double() * ONE).round().clamp(_LEAST, _MOST).to(torch.int16)


def from_fixed(features: Tensor) -> Tensor:
    """The inverse of `to_fixed`, in float64: multiples of 2^-15."""
    return features.double() / ONE
