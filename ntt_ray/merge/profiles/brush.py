"""Label Studio's run-length encoding of brush masks, read off its SDK's ``converter/brush.py``.

A mask is a picture of four equal channels, 0 or 255, row by row, as a string of bits: the number
of values (32 bits), the bits of a value less one (5), four sizes less one (4 bits each), then for
each run a 1, which of the sizes its length has (2), its length less one, and its value (8).
Our own because the SDK's encoder takes minutes for a large picture, and decodes it first.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ntt_ray.masks import part_changes
from ntt_ray.merge.mask_parts import MaskPart

_CHANNELS, _VALUE_BITS = 4, 8
_SIZES = np.array((6, 9, 12, 16))  # bits of a length
_LONGEST = 1 << 16
_CODE_BITS = 32


def brush_rle(part: MaskPart) -> list[int]:
    """The bytes of a mask in Label Studio's encoding."""
    height, width = part.size_hw
    changes = part_changes(part.pixels.T, part.y, part.x, width)
    runs = np.diff(np.concatenate(([0], changes, [height * width]))) * _CHANNELS
    values = np.where(np.arange(len(runs)) % 2, 255, 0)
    lengths, values = _divided(runs, values)
    which = np.searchsorted(1 << _SIZES, lengths)
    sizes = _SIZES[which]
    codes = (((4 + which) << sizes | (lengths - 1)) << _VALUE_BITS) | values
    bits = _bits(codes, 3 + sizes + _VALUE_BITS)
    head = [height * width * _CHANNELS, _VALUE_BITS - 1, *(_SIZES - 1).tolist()]
    opening = _bits(np.array(head), np.array([32, 5, 4, 4, 4, 4]))
    return np.packbits(np.concatenate((opening, bits))).tolist()


def _divided(
    runs: npt.NDArray[np.int64], values: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Runs, none of them empty, and those that are too long in pieces."""
    pieces = -(-runs // _LONGEST)
    lengths = np.full(int(pieces.sum()), _LONGEST)
    last = np.cumsum(pieces)[pieces > 0] - 1
    lengths[last] = (runs - (pieces - 1) * _LONGEST)[pieces > 0]
    return lengths, np.repeat(values, pieces)


def _bits(codes: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """The lowest bits of numbers below 2^32, highest first, one number after the other."""
    octets = codes.astype(">u4").view(np.uint8).reshape(-1, 4)
    bits = np.unpackbits(octets, axis=1)
    return np.asarray(bits[np.arange(_CODE_BITS) >= _CODE_BITS - sizes[:, None]])
