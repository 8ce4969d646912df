"""The profile ``yolo-seg``: labels that Ultralytics trains on, one text file for each image.

``yolo/labels/<file name without suffix>.txt`` has a line for each instance: the index of its class,
then the corners of one polygon as shares of width and height. ``yolo/data.yaml`` names the classes;
the images go, or are linked, to ``yolo/images``. The format has no scores and one polygon for a
mask: holes and further parts are joined to it by lines walked there and back.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from functools import partial

import numpy as np
import yaml

from ntt_ray import storage
from ntt_ray.masks import mask_iou, rasterise
from ntt_ray.outputs.image_files import (
    ImageFile,
    LabelledImage,
    check_distinct,
    path_below,
    write_image_files,
)
from ntt_ray.outputs.mask_parts import MaskPart
from ntt_ray.outputs.outlines import Points, mask_polygons, one_polygon
from ntt_ray.outputs.rendering import Loss, Merge, Written

LABELS, DATA_FILE = "yolo/labels/", "yolo/data.yaml"
# Readers cut shares times size down to whole pixels: what lies on a left edge must not fall short.
_SHIFT_PX = 0.02
_DIGITS, _MORE_DIGITS, _LARGE_PX = 6, 8, 10_000  # behind the point; more for sides above


def write_yolo(merge: Merge) -> Written:
    """Write the label files, then ``data.yaml``.

    Raises:
        InputError: names of two images differ in their suffix only, so their labels would too.
    """
    check_distinct(merge, label_name, "label files")
    labels = sorted(merge.classes, key=lambda label: label.category_id)
    indices = {label.category_id: index for index, label in enumerate(labels)}
    count, loss = write_image_files(merge, partial(label_file, indices=indices))
    data = {
        "train": "images",
        "val": "images",
        "names": {indices[label.category_id]: label.name for label in labels},
        "category_ids": {index: number for number, index in indices.items()},
    }
    text = yaml.safe_dump(data, allow_unicode=True, sort_keys=False)
    source = merge.source
    source.store.publish_bytes(storage.join(source.output, DATA_FILE), text.encode())
    return Written((DATA_FILE,), {LABELS: count}, loss or Loss())


def label_name(file_name: str) -> str:
    """The label file of an image, relative to the output."""
    return f"{posixpath.splitext(path_below(LABELS, file_name))[0]}.txt"


def label_file(image: LabelledImage, indices: Mapping[int, int]) -> ImageFile:
    """The label file of an image; an empty one where nothing was found.

    Args:
        image: with its instances.
        indices: class index by category id.
    """
    lines, ious = [], []
    height, width = image.size_hw
    for category_id, part in image.instances:
        shares = polygon_shares(part)
        digits = _digits(height, width)
        text = " ".join([f"{value:.{digits}f}" for value in shares.ravel().tolist()])
        lines.append(f"{indices[category_id]} {text}\n")
        drawn = (shares * (width, height)).ravel().tolist()
        ious.append(mask_iou(part.rle, rasterise([drawn], height, width)))
    return ImageFile(label_name(image.file_name), "".join(lines).encode(), Loss.of(ious))


def polygon_shares(part: MaskPart) -> Points:
    """A mask as one polygon ``(n, 2)``, x and y as shares of width and height."""
    height, width = part.size_hw
    polygon = one_polygon(mask_polygons(part.pixels)) + np.array((part.x, part.y)) + _SHIFT_PX
    return np.asarray(np.round(polygon / (width, height), _digits(height, width)))


def _digits(height: int, width: int) -> int:
    return _DIGITS if max(height, width) <= _LARGE_PX else _MORE_DIGITS
