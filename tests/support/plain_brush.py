"""A plain decoder of Label Studio's brush encoding, written after its published source."""

import numpy as np


def plain_decode(data):
    bits = "".join(f"{octet:08b}" for octet in data)
    position = 0

    def read(size):
        nonlocal position
        position += size
        return int(bits[position - size : position], 2)

    count, word = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    values = []
    while len(values) < count:
        is_run, length = read(1), read(sizes[read(2)]) + 1
        values += [read(word)] * length if is_run else [read(word) for _ in range(length)]
    assert len(bits) - position < 8
    return np.array(values, dtype=np.uint8)
