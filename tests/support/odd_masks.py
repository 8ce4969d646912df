"""Masks with all that polygons find hard, as a table of named cases."""

import numpy as np

SIZE_HW = (40, 60)


def _empty():
    return np.zeros(SIZE_HW, dtype=bool)


def _disc(y, x, radius):
    rows, columns = np.mgrid[: SIZE_HW[0], : SIZE_HW[1]]
    return np.hypot(rows - y, columns - x) < radius


def _pixels(*places):
    mask = _empty()
    for y, x in places:
        mask[y, x] = True
    return mask


def _box(top, left, bottom, right):
    mask = _empty()
    mask[top:bottom, left:right] = True
    return mask


MASKS = {
    "disc": _disc(20, 30, 12),
    "ring": _disc(20, 30, 15) & ~_disc(20, 30, 7),
    "two holes, one behind the other": _box(5, 5, 30, 50)
    & ~_box(10, 10, 20, 20)
    & ~_box(12, 30, 25, 40),
    "an island in a hole": _disc(20, 30, 18) & ~_disc(20, 30, 11) | _disc(20, 30, 5),
    "two parts": _disc(10, 12, 8) | _disc(28, 45, 9),
    "at all borders": _box(0, 0, 40, 60) & ~_box(15, 20, 30, 40),
    "in a corner": _disc(0, 0, 14),
    "one pixel": _pixels((7, 9)),
    "the last pixel": _pixels((39, 59)),
    "pixels that touch at a corner": _pixels((5, 5), (6, 6), (5, 7), (7, 5)),
    "a line": _box(20, 3, 21, 57),
    "the whole image": _box(0, 0, 40, 60),
}
