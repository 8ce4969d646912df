"""Near-copies among reference pictures: the same picture encoded again, or at another size.

A picture must not help to label its own copy. Copies are found by the brightness of 16 by 16 cells
of the whole picture. Measured on a photograph and on 30 drawn pictures, the cells of a copy differ
by at most 3 of 255 as a JPEG of quality 20, and 9 at a third of the size without smoothing; those
of a fixed camera by 25 where a bright thing of 0.2 % of the picture has moved. It does not find
crops (5 % less makes 40), mirrored or turned pictures.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ntt_ray.errors import ImageError
from ntt_ray.images import annotated_orientation, decode_square
from ntt_ray.settings import AnnotatedOrientation, DecodeSettings

SIDE = 16
MAX_DIFFERENCE = 10.0  # of 255, between any two cells
CONTRAST_SHARE = 0.5  # of the standard deviation of the cells, for pictures that are nearly flat
_BRIGHTNESS = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # of RGB, as JPEG has it

Signature = npt.NDArray[np.float32]


def signature_of(
    data: bytes, size_hw: tuple[int, int], orientation: AnnotatedOrientation
) -> Signature | None:
    """The brightness of `SIDE` by `SIDE` cells, flat, 0 to 255; None where it cannot be read.

    Args:
        data: bytes of the encoded file.
        size_hw: height and width of the image according to its annotations.
        orientation: how it was seen when it was annotated.
    """
    try:
        seen = annotated_orientation(data, size_hw, orientation)
        square, _ = decode_square(data, SIDE, DecodeSettings(orientation=seen))
    except ImageError:
        return None
    return np.asarray(square.reshape(-1, 3) @ _BRIGHTNESS)


def grouped(signatures: Sequence[Signature | None]) -> list[int]:
    """For each picture the position of the first one of its group of near-copies.

    A picture without a signature is alone. Copies of a copy are of the same group.
    """
    group = list(range(len(signatures)))
    known = {i: s for i, s in enumerate(signatures) if s is not None}
    order = sorted(known, key=lambda i: float(known[i].mean()))
    cells = np.asarray([known[i] for i in order], dtype=np.float32).reshape(len(order), SIDE**2)
    means = cells.mean(axis=1)
    limits = np.minimum(MAX_DIFFERENCE, CONTRAST_SHARE * cells.std(axis=1))
    for n, i in enumerate(order):  # the means of copies differ as little as their cells
        end = int(np.searchsorted(means, means[n] + MAX_DIFFERENCE, side="right"))
        differences = np.abs(cells[n + 1 : end] - cells[n]).max(axis=1)
        for near in np.flatnonzero(differences <= limits[n]).tolist():
            _join(group, i, order[n + 1 + near])
    return [_first(group, i) for i in range(len(group))]


def _first(group: list[int], i: int) -> int:
    while group[i] != i:
        i = group[i]
    return i


def _join(group: list[int], a: int, b: int) -> None:
    first, second = sorted((_first(group, a), _first(group, b)))
    group[second] = first
