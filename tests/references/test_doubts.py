"""Odd references are said by class, with counts; what is not odd is not."""

import numpy as np
import pytest

from ntt_ray.masks import encode_mask
from ntt_ray.records import ClassLabel, ImageEntry, Reference, ReferenceSet
from ntt_ray.references.doubts import doubts

SIZE_HW = (40, 50)


def disc(x=25, y=20, radius=8) -> np.ndarray:
    rows, columns = np.mgrid[: SIZE_HW[0], : SIZE_HW[1]]
    return (columns - x) ** 2 + (rows - y) ** 2 <= radius**2


def rectangle() -> np.ndarray:
    mask = np.zeros(SIZE_HW, bool)
    mask[10:20, 5:30] = True
    return mask


def references(*masks: np.ndarray, move: float = 0.0) -> ReferenceSet:
    image = ImageEntry(1, "a.png", "/a.png")
    own = []
    for number, mask in enumerate(masks, 1):
        ys, xs = np.nonzero(mask)
        box = (
            float(xs.min()) + move,
            float(ys.min()),
            float(np.ptp(xs) + 1),
            float(np.ptp(ys) + 1),
        )
        own.append(Reference(number, 1, image, SIZE_HW, box, encode_mask(mask)))
    return ReferenceSet((ClassLabel(1, "nut"),), tuple(own))


FOUND = {
    "boxes as masks": (references(rectangle(), rectangle(), disc()), "2 of 3 masks are just their"),
    "boxes elsewhere": (references(disc(), move=6.0), "1 of 1 boxes are far from their masks'"),
    "inverted": (references(disc(), ~disc()), "1 of 2 masks cover most of the image"),
}


@pytest.mark.parametrize(("found", "text"), FOUND.values(), ids=FOUND)
def test_what_is_odd(found, text):
    (line,) = doubts(found)
    assert line.startswith(f"class 'nut': {text}")


NOTHING = {
    "discs": references(disc(), disc(10, 10, 5)),
    "one rectangle among others": references(disc(), rectangle()),
    "a box that is a little off": references(disc(), move=2.0),
    "a large object without a corner": references(disc(25, 20, 24) & disc(25, 20, 19)),
    "the whole image": references(np.ones(SIZE_HW, bool), disc()),
}


@pytest.mark.parametrize("found", NOTHING.values(), ids=NOTHING)
def test_what_is_not(found):
    assert doubts(found) == []
