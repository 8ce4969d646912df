"""What a label looks like in a few numbers of its pixels, and which labels look odd or alike.

For any run, and the models are not asked again: colour, edges and shape are read from a thumbnail
of the label. They know no meaning. A label is an *outlier* where the five labels of its
class that look most like it are far away; two labels are *near-duplicates* where the small pictures
of their boxes are nearly the same. Pure arithmetic; it reads nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from ntt_ray.images import RgbImage
from ntt_ray.masks import BoolMask

SIDE = 12  # pixels of the small picture
ALIKE = 0.05  # root mean square difference of two small pictures, of a range of 1
NEIGHBOURS = 5
_EDGES = 8
_BLOCK = 512  # labels whose distances to all others are in memory at once

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Look:
    """A label as numbers.

    Attributes:
        picture: the box of the label, with what is in it besides the object, ``(3 SIDE^2,)``, 0
            to 1.
        object: groups of numbers of the object alone: colours, edges, form, outline.
    """

    picture: Floats
    object: tuple[Floats, ...]


def look_of(image_rgb: RgbImage, mask: BoolMask, box_xywh: tuple[float, ...]) -> Look:
    """What a label looks like.

    Args:
        image_rgb: its image, ``(H, W, 3)`` uint8.
        mask: its mask, ``(H, W)``, with a pixel or more.
        box_xywh: its box in pixels.
    """
    height, width = mask.shape
    x0, y0 = int(box_xywh[0]), int(box_xywh[1])
    x1 = min(width, max(x0 + 1, int(np.ceil(box_xywh[0] + box_xywh[2]))))
    y1 = min(height, max(y0 + 1, int(np.ceil(box_xywh[1] + box_xywh[3]))))
    part, inside = image_rgb[y0:y1, x0:x1], mask[y0:y1, x0:x1]
    small = _small(Image.fromarray(np.ascontiguousarray(part)))
    outline = _small(Image.fromarray(inside.astype(np.uint8) * 255))
    weight = outline + 1e-3
    colours = (small * weight[..., None]).sum((0, 1)) / weight.sum()
    spread = np.sqrt((((small - colours) ** 2) * weight[..., None]).sum((0, 1)) / weight.sum())
    form = [
        np.log((x1 - x0) / (y1 - y0)),
        np.log((inside.sum() + 1) / mask.size),
        inside.sum() / inside.size,
    ]
    groups = (np.concatenate([colours, spread]), _edges(small.mean(-1), weight), form, outline)
    numbers = tuple(np.asarray(group, np.float32).ravel() for group in groups)
    return Look(small.astype(np.float32).ravel(), numbers)


def _small(image: Image.Image) -> npt.NDArray[np.float64]:
    shrunk = image.resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(shrunk, np.float64) / 255


def _edges(
    grey: npt.NDArray[np.float64], weight: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """How much of the contrast runs in each of `_EDGES` directions."""
    down, right = np.gradient(grey)
    direction = np.floor((np.arctan2(down, right) % np.pi) / np.pi * _EDGES) % _EDGES
    strength = np.hypot(down, right) * weight
    found = np.bincount(direction.astype(int).ravel(), strength.ravel(), _EDGES)
    share: npt.NDArray[np.float64] = found / (found.sum() + 1e-3)
    return share


def outlier_factors(looks: list[Look], categories: Ints) -> npt.NDArray[np.float64]:
    """How far each label is from the labels of its class most like it, in times of the usual.

    Args:
        looks: n labels.
        categories: their classes, ``(n,)``.

    Returns:
        ``(n,)``; 1 is the median of the class. Not a number where a class has too few labels:
        `NEIGHBOURS` + 1.
    """
    found = np.full(len(looks), np.nan)
    for category in np.unique(categories):
        own = np.flatnonzero(categories == category)
        if len(own) <= NEIGHBOURS:
            continue
        groups = zip(*(looks[n].object for n in own.tolist()), strict=True)
        numbers = np.concatenate([_even(np.stack(group)) for group in groups], axis=1)
        distance = np.concatenate(
            [
                np.sort(_distances(numbers[i : i + _BLOCK], numbers), axis=1)[:, 1 : NEIGHBOURS + 1]
                for i in range(0, len(own), _BLOCK)
            ]
        ).mean(1)
        found[own] = distance / max(float(np.median(distance)), 1e-6)
    return found


def alike_pairs(looks: list[Look], images: Ints) -> list[tuple[int, int, float]]:
    """Pairs of near-duplicates in different images, each label in one pair at most.

    Of each label the `NEIGHBOURS` most alike behind it are looked at, so that thousands of equal
    labels cost no more than others.

    Args:
        looks: n labels.
        images: the image of each, ``(n,)``.

    Returns:
        Positions of both and their difference, the most alike first.
    """
    if not looks:
        return []
    pictures = np.stack([look.picture for look in looks])
    limit, found = ALIKE * np.sqrt(pictures.shape[1]), []
    for start in range(0, len(pictures), _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, len(pictures)))
        distance = _distances(pictures[rows], pictures)
        distance[(rows[:, None] >= np.arange(len(pictures))) | _same(images, rows)] = np.inf
        nearest = np.argsort(distance, axis=1, kind="stable")[:, :NEIGHBOURS]
        for row, columns in zip(rows.tolist(), nearest.tolist(), strict=True):
            for column in columns:
                if (apart := float(distance[row - start, column])) <= limit:
                    found.append((apart / limit * ALIKE, row, column))
    taken: set[int] = set()
    pairs = []
    for difference, one, other in sorted(found):
        if one not in taken and other not in taken:
            taken |= {one, other}
            pairs.append((one, other, difference))
    return pairs


def _same(images: Ints, rows: Ints) -> npt.NDArray[np.bool_]:
    same: npt.NDArray[np.bool_] = images[rows][:, None] == images
    return same


def _even(numbers: Floats) -> Floats:
    """A group of numbers scaled so that every group weighs the same."""
    centred = numbers - np.median(numbers, axis=0)
    scale = float(np.sqrt((centred**2).sum(1).mean()))
    even: Floats = (centred / max(scale, 1e-6)).astype(np.float32)
    return even


def _distances(some: Floats, every: Floats) -> Floats:
    square = (some**2).sum(1)[:, None] + (every**2).sum(1) - 2 * some @ every.T
    found: Floats = np.sqrt(np.maximum(square, 0))
    return found
