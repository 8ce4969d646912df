"""Image files that are hard on decoders: many scans in few bytes, and damaged files in numbers."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
from PIL import Image

from tests.support import odd_images

_SCAN = b"\xff\xda"


def many_scans(size: int, side: int = 2000) -> bytes:
    """A progressive JPEG of so many bytes, one grey, most of them one scan again and again.

    Each scan of 36 bytes walks over all blocks; 0.4 MB of a side of 2000 pixels are 8 s of CPU.
    """
    sink = io.BytesIO()
    Image.new("L", (side, side), 128).save(sink, "JPEG", progressive=True)
    head, first, second, *others = sink.getvalue().split(_SCAN)
    rest = _SCAN + _SCAN.join(others)
    times = (size - len(sink.getvalue())) // (len(_SCAN) + len(second))
    return _SCAN.join([head, first, *[second] * max(1, times)]) + rest


def mutated(number: int, seed: int = 0) -> Iterator[bytes]:
    """Good files of the corpus with bits flipped, bytes cut out, doubled, exchanged or set.

    Of one seed they are always the same, and the first ones are the same of any number.
    """
    good = [file.data for file in odd_images.corpus() if file.reason is None]
    files = [data for data in good if data and len(data) < 2**20]
    for index in range(number):
        rng = np.random.default_rng((seed, index))
        yield _mutated(bytearray(files[rng.integers(len(files))]), files, rng)


def _mutated(data: bytearray, files: list[bytes], rng: np.random.Generator) -> bytes:
    for _ in range(1 + rng.geometric(0.3)):
        at, length = int(rng.integers(len(data) + 1)), int(rng.geometric(0.05))
        kind = rng.integers(7)
        if kind == 0:
            data[at : at + length] = b""
        elif kind == 1:
            data[at:at] = data[at : at + length]
        elif kind == 2:
            other = files[rng.integers(len(files))]
            data[at : at + length] = other[at : at + length]
        elif kind == 3:
            data[at : at + length] = rng.bytes(length)
        elif kind == 4:
            data[at : at + 4] = rng.choice([b"\0" * 4, b"\xff" * 4, b"\x7f" + b"\xff" * 3])
        else:  # in the header more often than elsewhere
            where = int(rng.integers(min(len(data), 200 if kind == 5 else len(data)) or 1))
            data[where : where + 1] = bytes([int(rng.integers(256))])
    return bytes(data)
