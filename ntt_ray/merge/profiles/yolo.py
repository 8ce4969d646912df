"""The profile ``yolo-seg``: labels that Ultralytics trains on, one text file for each image.

``yolo/labels/<file name without suffix>.txt`` has a line for each instance: the index of its class,
then the corners of one polygon as shares of width and height. ``yolo/data.yaml`` names the classes
and ``train.txt`` and ``val.txt``, the lists of images (`yolo_lists`), which go, or are linked, to
``yolo/images``. The format has no scores and one polygon for a
mask: holes and further parts are joined to it by lines walked there and back. Readers paint those
between parts, and so it is measured.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from functools import partial

import numpy as np
import numpy.typing as npt
import yaml

from ntt_ray.masks import BoolMask, mask_iou, rasterise, rle_area
from ntt_ray.merge.image_files import LabelledImage, path_below, write_image_files
from ntt_ray.merge.mask_parts import MaskPart
from ntt_ray.merge.outlines import NUDGE_PX, Points, mask_polygons, one_polygon
from ntt_ray.merge.profiles.yolo_lists import write_lists
from ntt_ray.merge.rendering import Loss, Merge, Written
from ntt_ray.run.layout import YOLO_FILE, YOLO_LABELS, YOLO_TRAIN, YOLO_VAL

_DIGITS, _MORE_DIGITS, _LARGE_PX = 6, 8, 10_000  # behind the point; more for sides above


def write_yolo(merge: Merge) -> Written:
    """Write the label files, the lists of images, then ``data.yaml``.

    Raises:
        InputError: names of two images differ in their suffix only, so their labels would too.
    """
    indices = {label.category_id: index for index, label in enumerate(merge.classes)}
    render = partial(label_file, indices=indices)
    files, loss = write_image_files(merge, render, label_name, "label files")
    lists = write_lists(merge)
    train, val = posixpath.basename(YOLO_TRAIN), posixpath.basename(YOLO_VAL)
    data = {
        "train": train,
        "val": val if YOLO_VAL in lists else train,
        "names": {index: label.name for index, label in enumerate(merge.classes)},
        "category_ids": {index: label.category_id for index, label in enumerate(merge.classes)},
    }
    text = yaml.safe_dump(data, allow_unicode=True, sort_keys=False)
    data_file = merge.source.publish(YOLO_FILE, text.encode())
    return Written({**lists, YOLO_FILE: data_file}, {YOLO_LABELS: files}, loss or Loss())


def label_name(file_name: str) -> str:
    """The label file of an image, relative to the output."""
    return f"{posixpath.splitext(path_below(YOLO_LABELS, file_name))[0]}.txt"


def label_file(image: LabelledImage, indices: Mapping[int, int]) -> tuple[bytes, Loss]:
    """The label file of an image, with class indices by category id; empty without instances."""
    lines, ious = [], []
    height, width = image.size_hw
    for category_id, part in image.instances:
        shares = polygon_shares(part)
        digits = _digits(height, width)
        text = " ".join([f"{value:.{digits}f}" for value in shares.ravel().tolist()])
        lines.append(f"{indices[category_id]} {text}\n")
        ious.append(painted_iou(part, shares * (width, height)))
    return "".join(lines).encode(), Loss.of(ious)


def painted_iou(part: MaskPart, polygon: Points) -> float:
    """IoU of a mask with what readers make of its polygon that fill it and paint its outline.

    Outlines lie in pixels of the mask; the lines between its parts do not. Like Ultralytics and
    OpenCV, but for a pixel of a slanted line here and there.

    Args:
        part: the mask.
        polygon: ``(n, 2)`` as x, y in pixels of the image.
    """
    filled = rasterise([polygon.ravel().tolist()], *part.size_hw)
    iou, area, filled_area = mask_iou(part.rle, filled), rle_area(part.rle), rle_area(filled)
    both = iou / (1 + iou) * (area + filled_area)
    outside = _pixels_of_lines(polygon.astype(np.int64) - (part.x, part.y), part.pixels)
    return float(both / (area + filled_area - both + outside))


def _pixels_of_lines(corners: npt.NDArray[np.int64], pixels: BoolMask) -> int:
    """How many pixels outside of a mask lie on the lines from corner to corner, ``(n, 2)``."""
    ways = np.roll(corners, -1, axis=0) - corners
    steps = np.abs(ways).max(axis=1)
    line = np.repeat(np.arange(len(corners)), steps)
    step = np.arange(len(line)) - np.repeat(np.cumsum(steps) - steps, steps)
    places = corners[line] + ways[line] * (step / steps[line])[:, None]
    x, y = np.rint(places).astype(np.int64).T
    outside = ~pixels[y, x]
    return len(np.unique(y[outside] * pixels.shape[1] + x[outside]))


def polygon_shares(part: MaskPart) -> Points:
    """A mask as one polygon ``(n, 2)``, x and y as shares of width and height."""
    height, width = part.size_hw
    polygon = one_polygon(mask_polygons(part.pixels)) + np.array((part.x, part.y)) + NUDGE_PX
    return np.asarray(np.round(polygon / (width, height), _digits(height, width)))


def _digits(height: int, width: int) -> int:
    return _DIGITS if max(height, width) <= _LARGE_PX else _MORE_DIGITS
