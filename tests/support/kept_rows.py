"""Rows of proposals without models: small masks in images of 20 x 30 pixels."""

from __future__ import annotations

import numpy as np

from ntt_ray.masks import encode_mask, rle_area
from ntt_ray.proposals.kept import ImageProposals, KeptView
from ntt_ray.records import ImageEntry, ImageLabels, View

CHANNELS = 6
WHOLE = View(0, 0, 30, 20)


def random_view(count: int, seed: int = 0, rectangle: View = WHOLE) -> KeptView:
    """Rectangles of random places, the first of them empty, with random features of length 1."""
    rng = np.random.default_rng(seed)
    low = rng.integers(0, 10, (count, 2))
    high = low + rng.integers(1, 10, (count, 2))
    masks = np.zeros((count, *rectangle.size_hw), dtype=bool)
    for mask, (x1, y1), (x2, y2) in zip(masks[1:], low[1:], high[1:], strict=True):
        mask[y1 : y2 + 1, x1 : x2 + 1] = True
    rles = [encode_mask(mask) for mask in masks]
    features = rng.normal(size=(count, CHANNELS))
    features /= np.linalg.norm(features, axis=1, keepdims=True) if count else 1
    return KeptView(
        rectangle,
        np.concatenate((low, high), axis=1).astype(np.uint16),
        np.arange(count, dtype=np.int32) * 3,
        (0.5 + rng.random(count) / 2).astype(np.float32),
        np.array([rle_area(rle) for rle in rles], dtype=np.int64),
        tuple(rle["counts"] for rle in rles),
        np.rint(features * (2**15 - 1)).astype(np.int16),
        np.rint((2**15 - 1) * np.eye(CHANNELS)[seed % CHANNELS]).astype(np.int16),
    )


def proposals_of(labels: ImageLabels, seed: int = 0) -> ImageProposals:
    """Proposals of the same image: five, or the same failure."""
    if labels.error is not None:
        return ImageProposals.failed(labels.entry, labels.error, labels.failure)
    assert labels.height is not None
    assert labels.width is not None
    views = (random_view(5, seed, View(0, 0, labels.width, labels.height)),)
    return ImageProposals.kept(labels.entry, (labels.height, labels.width), views)


def four_rows() -> list[ImageProposals]:
    """One with a view, a failed one, one with three views, and one without proposals."""
    tile = random_view(3, 1, View(10, 5, 20, 15))
    three = (random_view(0), tile, random_view(2, 2))
    return [
        ImageProposals.kept(ImageEntry(1, "a.jpg", ""), (20, 30), (random_view(4),), ("turned",)),
        ImageProposals.failed(ImageEntry(2, "b.jpg", ""), "no file", "access"),
        ImageProposals.kept(ImageEntry(3, "c.jpg", ""), (20, 30), three),
        ImageProposals.kept(ImageEntry(4, "d.jpg", ""), (20, 30), (random_view(0),)),
    ]
