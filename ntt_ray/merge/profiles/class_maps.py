"""The profile ``semantic-png``: one map of classes for each image, as in the COCO-20i protocol.

``semantic/<file name>.png`` has the size of its image; a pixel's value is the index of its class,
0 where there is none. Instances are painted by score, the highest on top.
``semantic/classes.json`` names the indices, 1 to N by rising category id. Up to 254 classes it is
a PNG with a palette (255 is left to trainers, as "ignore"), above a grey one of 16 bits.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ntt_ray.errors import InputError
from ntt_ray.merge.image_files import LabelledImage, path_below, write_image_files
from ntt_ray.merge.rendering import Merge, Written
from ntt_ray.records import ClassLabel
from ntt_ray.run.layout import CLASS_MAPS, CLASS_MAPS_FILE

_PALETTE_CLASSES, _MOST_CLASSES = 254, 65_534
_PALETTE_BITS = 8


def write_class_maps(merge: Merge) -> Written:
    """Write the maps, then the list of classes.

    Raises:
        InputError: more classes than 16 bits can tell apart, or two images with the same name
            but for doubled slashes.
    """
    labels = merge.classes
    if len(labels) > _MOST_CLASSES:
        raise InputError(f"{len(labels)} classes are more than a class map can hold; keep fewer")
    indices = {label.category_id: index for index, label in enumerate(labels, start=1)}
    render = partial(map_file, indices=indices)
    files, _ = write_image_files(merge, render, map_name, "class maps")
    text = json.dumps(class_table(labels), indent=1, ensure_ascii=False) + "\n"
    classes_file = merge.source.publish(CLASS_MAPS_FILE, text.encode())
    return Written({CLASS_MAPS_FILE: classes_file}, {CLASS_MAPS: files})


def class_table(labels: Sequence[ClassLabel]) -> list[dict[str, Any]]:
    """What each value means: ``index``, ``category_id``, ``name`` and ``color`` (RGB)."""
    colours = palette()
    background = {"index": 0, "category_id": None, "name": "background", "color": [0, 0, 0]}
    found = [
        {
            "index": index,
            "category_id": label.category_id,
            "name": label.name,
            "color": colours[index % len(colours)].tolist(),
        }
        for index, label in enumerate(labels, start=1)
    ]
    return [background, *found]


def map_file(image: LabelledImage, indices: Mapping[int, int]) -> tuple[bytes, None]:
    """The class map of an image as PNG, with values of pixels by category id; it has no loss."""
    kind = np.uint8 if len(indices) <= _PALETTE_CLASSES else np.uint16
    return _png(class_map(image, indices, kind)), None


def map_name(file_name: str) -> str:
    """The map of an image, relative to the output; its suffix comes after that of the image."""
    return f"{path_below(CLASS_MAPS, file_name)}.png"


def class_map(
    image: LabelledImage, indices: Mapping[int, int], kind: type[np.unsignedinteger[Any]]
) -> npt.NDArray[np.unsignedinteger[Any]]:
    """Values ``(h, w)``; where instances overlap, that of the one with the higher score."""
    values = np.zeros(image.size_hw, dtype=kind)
    for category_id, part in image.instances:  # by falling score: what is painted stays
        height, width = part.pixels.shape
        place = values[part.y : part.y + height, part.x : part.x + width]
        place[part.pixels & (place == 0)] = indices[category_id]
    return values


def palette() -> npt.NDArray[np.uint8]:
    """Colours of the values 0 to 255, ``(256, 3)``: Pascal VOC's, made of the bits of the value."""
    values = np.arange(256)
    colours = np.zeros((256, 3), dtype=np.uint8)
    for bit in range(_PALETTE_BITS):
        for channel in range(3):
            share = (values >> (3 * bit + channel)) & 1
            colours[:, channel] |= (share << (_PALETTE_BITS - 1 - bit)).astype(np.uint8)
    return colours


def _png(values: npt.NDArray[np.unsignedinteger[Any]]) -> bytes:
    picture = Image.fromarray(values)
    if values.dtype == np.uint8:
        picture.putpalette(palette().tobytes())  # which makes it a picture of indices
    sink = io.BytesIO()
    picture.save(sink, "PNG")
    return sink.getvalue()
