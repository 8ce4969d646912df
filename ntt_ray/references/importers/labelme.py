"""LabelMe: one JSON per image, beside it or anywhere below the same folder.

Polygons, circles and masks have a mask; rectangles, turned ones too, are boxes. Lines and points
outline nothing and are left out. It writes nothing.
"""

from __future__ import annotations

import base64
import binascii
import math
import posixpath
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from ntt_ray import storage
from ntt_ray.errors import ImageError, InputError, noted
from ntt_ray.images import decode_mask
from ntt_ray.references.importers.shapes import (
    AnnotatedImage,
    Shape,
    box,
    check_size,
    ellipse_points,
    mask,
    outline,
    parsed,
    place_mask,
    points_of,
    read_listed,
    usable,
)
from ntt_ray.storage import Storage

NOT_AREAS = ("line", "linestrip", "point", "points")
NOT_CLASSES = ("__ignore__", "_background_")  # in LabelMe's own lists of labels
BOXES = ("rectangle", "oriented_rectangle", "rotation")  # the last is X-AnyLabeling's


def read_labelme(folder: str, store: Storage) -> list[AnnotatedImage]:
    """Read all JSON files below a folder.

    Raises:
        InputError: there is none.
        ReferencesError: with every file, image and shape that cannot be used.
    """
    names = store.list_files(folder)
    files = [name for name in names if name.lower().endswith(".json")]
    if not files:
        raise InputError(f"{storage.redact(folder)}: there is no LabelMe JSON file")
    problems: list[str] = []
    left_out: Counter[str] = Counter()
    images = []
    for name in files:
        with noted(problems, name, ImageError, ValueError):
            content = _content(read_listed(folder, name, store))
            image_name = _image_name(content, name, set(names))
            data = read_listed(folder, image_name, store)
            size_hw = check_size(data, _size_hw(content))
            shapes: list[Shape] = []
            for number, shape in enumerate(content["shapes"]):
                with noted(problems, f"{name}: shape {number}", ValueError):
                    shapes += _shape(shape, size_hw, left_out)
            images.append(AnnotatedImage(image_name, size_hw, tuple(shapes)))
    return usable(images, problems, left_out)


def _content(data: bytes) -> dict[str, Any]:
    content = parsed(data)
    if isinstance(content, list):
        raise ValueError("not a LabelMe file but a list; of Label Studio: use --from labelstudio")
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        raise ValueError("not a LabelMe file, it has no list 'shapes'")
    return content


def _image_name(content: Mapping[str, Any], name: str, names: set[str]) -> str:
    """The image's name below the folder: as the file says, else beside the JSON."""
    said = content.get("imagePath")
    if not isinstance(said, str) or not said:
        raise ValueError("it has no imagePath")
    path = said.replace("\\", "/")  # written on Windows
    beside = posixpath.dirname(name)
    for candidate in (path, posixpath.basename(path)):
        found = posixpath.normpath(posixpath.join(beside, candidate))
        if found in names:
            return found
    embedded = (
        " (the JSON holds a copy in imageData: save that)" if content.get("imageData") else ""
    )
    raise ImageError(f"its image {said!r} is not below the folder{embedded}")


def _size_hw(content: Mapping[str, Any]) -> tuple[int, int] | None:
    height, width = content.get("imageHeight"), content.get("imageWidth")
    return (height, width) if isinstance(height, int) and isinstance(width, int) else None


def _shape(shape: Any, size_hw: tuple[int, int], left_out: Counter[str]) -> list[Shape]:
    """A shape of an area as a list of one; none for lines and points."""
    if not isinstance(shape, dict) or not isinstance(shape.get("label"), str):
        raise ValueError("it has no label")
    label, group = shape["label"], shape.get("group_id")
    if not label or not (group is None or type(group) is int):
        raise ValueError("its label is empty or its group_id is no whole number")
    kind = shape.get("shape_type") or "polygon"
    if kind in NOT_AREAS or label in NOT_CLASSES:
        left_out[label if label in NOT_CLASSES else kind] += 1
        return []
    points = points_of(shape.get("points"))
    if kind == "polygon":
        return [outline(label, group, points, size_hw)]
    if kind in BOXES:
        return [box(label, group, points, size_hw)]
    if kind == "circle" and len(points) == 2:
        radius = math.dist(*points)
        around = ellipse_points(points[0], (radius, radius))
        return [outline(label, group, around, size_hw)]
    if kind == "mask" and len(points) == 2:
        (x1, y1), (x2, y2) = ((int(x), int(y)) for x, y in points)
        part = _mask_part(shape.get("mask"), (y2 - y1 + 1, x2 - x1 + 1))
        return [mask(label, group, place_mask(part, x1, y1, size_hw))]
    raise ValueError(
        f"a {kind} of {len(points)} points is not known; make it a polygon, or delete it"
    )


def _mask_part(text: Any, size_hw: tuple[int, int]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """The PNG of a mask in base64, as large as its two corners, both included."""
    try:
        values, _ = decode_mask(base64.b64decode(text, validate=True))
    except (TypeError, binascii.Error, ImageError) as error:
        raise ValueError(f"its mask is not a PNG in base64 ({error})") from None
    if values.shape != size_hw:
        raise ValueError(f"its mask is {values.shape}, its corners span {size_hw}")
    return values > 0
