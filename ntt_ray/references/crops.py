"""The part of a reference image that defines its class: the object with some context around it.

Geometry and slicing only; resizing and features come later, in `ntt_ray.bank.build`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ntt_ray.images import RgbImage
from ntt_ray.masks import decode_rle
from ntt_ray.records import Reference


@dataclass(frozen=True)
class ReferenceCrop:
    """A reference cut out of its image.

    Attributes:
        reference: the reference that was cut out.
        image_rgb: pixels of the window, uint8 ``(h, w, 3)``.
        mask: the object in the window, bool ``(h, w)``.
    """

    reference: Reference
    image_rgb: RgbImage
    mask: npt.NDArray[np.bool_]


def crop_window(
    bbox_xywh: tuple[float, float, float, float], size_hw: tuple[int, int], context_ratio: float
) -> tuple[int, int, int, int]:
    """The window around a box, with context (METHOD 5, 6).

    A square of ``max(width, height) * (1 + context_ratio)`` around the box's centre, cut off at
    the image's border: there the window is not square, and the later resize stretches it.

    Args:
        bbox_xywh: the annotation's box in pixels.
        size_hw: height and width of the image.
        context_ratio: 0.2 in the paper's configs.

    Returns:
        ``(x1, y1, x2, y2)`` in pixels, x2 and y2 excluded.
    """
    x, y, width, height = bbox_xywh
    # each corner is truncated, not the size: int(x + w), as the paper's code does
    x1, y1, x2, y2 = int(x), int(y), int(x + width), int(y + height)
    half = max(x2 - x1, y2 - y1) * (1 + context_ratio) * 0.5
    middle_x, middle_y = (x1 + x2) * 0.5, (y1 + y2) * 0.5
    return (
        max(0, int(middle_x - half)),
        max(0, int(middle_y - half)),
        min(size_hw[1], int(middle_x + half)),
        min(size_hw[0], int(middle_y + half)),
    )


def cut_reference(reference: Reference, image_rgb: RgbImage, context_ratio: float) -> ReferenceCrop:
    """Cut a reference and its mask out of the decoded image.

    Raises:
        ValueError: the mask has no pixel in the window around the annotation's box.
    """
    x1, y1, x2, y2 = crop_window(reference.bbox_xywh, reference.size_hw, context_ratio)
    mask = decode_rle(reference.rle)[y1:y2, x1:x2]
    if not mask.any():
        raise ValueError("its mask has no pixel inside its box")
    return ReferenceCrop(reference, image_rgb[y1:y2, x1:x2], mask)
