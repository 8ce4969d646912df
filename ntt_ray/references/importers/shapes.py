"""What people annotated in a tool, as a COCO file. The tools' formats are read elsewhere.

A shape is an outline, a mask or a box. A box has no mask yet: it is written without one, and
``ntt-ray references from-boxes`` makes it. Shapes of one label and group are one object.

Written here, because no converter we found reads both tools' masks, ellipses and groups and is
small enough to install everywhere; the formats are plain JSON and XML.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ntt_ray import storage
from ntt_ray.errors import ImageError, ReferencesError, StorageError
from ntt_ray.images import stored_size
from ntt_ray.masks import (
    BoolMask,
    Rle,
    decode_rle,
    encode_mask,
    is_finite_number,
    rle_area,
    rle_bbox_xywh,
    segmentation_to_rle,
)
from ntt_ray.storage import Storage

logger = logging.getLogger(__name__)

TITLE = "this cannot be converted:"
ELLIPSE_POINTS = 90

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Shape:
    """One shape.

    Attributes:
        label: name of the class.
        group: shapes of one label and group are one object; None stands alone.
        rle: the mask at the image's size; None for a box.
        bbox_xywh: the tight box around the shape, in pixels.
    """

    label: str
    group: int | None
    rle: Rle | None
    bbox_xywh: tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class AnnotatedImage:
    """An image with its shapes; `file_name` is relative to the export's folder."""

    file_name: str
    size_hw: tuple[int, int]
    shapes: tuple[Shape, ...]


def usable(
    images: list[AnnotatedImage], problems: Sequence[str], left_out: Mapping[str, int]
) -> list[AnnotatedImage]:
    """The images that were read, after a warning of how many shapes of each type were left out.

    Raises:
        ReferencesError: there are problems.
    """
    if problems:
        raise ReferencesError(TITLE, problems)
    for kind, count in sorted(left_out.items()):
        logger.warning("%d shapes of type %s outline no object and are left out", count, kind)
    return images


def read_listed(folder: str, name: str, store: Storage) -> bytes:
    """A file that a listing names; ImageError says why it cannot be read."""
    try:
        return store.read_bytes(storage.join(folder, name))
    except FileNotFoundError:
        raise ImageError("cannot be read: a link to nothing, or deleted meanwhile") from None
    except StorageError as error:
        raise ImageError(f"cannot be read: {error}") from None


def parsed(data: bytes) -> Any:
    """The content of a JSON file; ValueError says why it is none."""
    try:
        return json.loads(data)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"not JSON ({error})") from None


def points_of(value: Any) -> list[tuple[float, float]]:
    """Points of a list of ``[x, y]``, at least one; ValueError for anything else."""
    pairs = value if isinstance(value, list) else []
    if not pairs or not all(isinstance(p, list) and len(p) == 2 for p in pairs):
        raise ValueError("its points are not a list of [x, y]")
    if not all(is_finite_number(v) for pair in pairs for v in pair):
        raise ValueError("it has a point that is not a finite number")
    return [(float(x), float(y)) for x, y in pairs]


def outline(label: str, group: int | None, points: Points, size_hw: tuple[int, int]) -> Shape:
    """The area inside a polygon, x and y in pixels; ValueError for fewer than three points."""
    flat = [float(value) for point in points for value in point]
    return mask(label, group, segmentation_to_rle([flat], *size_hw))


def mask(label: str, group: int | None, rle: Rle) -> Shape:
    """A mask at the image's size; ValueError for an empty one."""
    if not rle_area(rle):
        raise ValueError("it covers no pixel of its image")
    x, y, width, height = rle_bbox_xywh(rle)
    return Shape(label, group, rle, (x, y, width, height))


def box(label: str, group: int | None, points: Points, size_hw: tuple[int, int]) -> Shape:
    """The upright box around some corners, cut off at the image's border."""
    xs = [min(max(float(x), 0.0), float(size_hw[1])) for x, _ in points]
    ys = [min(max(float(y), 0.0), float(size_hw[0])) for _, y in points]
    if not all(map(math.isfinite, xs + ys)):
        raise ValueError("it has a corner that is not a finite number")
    x, y, width, height = min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)
    if min(width, height) < 1:
        raise ValueError(f"its box of {width:g} x {height:g} pixels is too tiny")
    return Shape(label, group, None, (x, y, width, height))


def ellipse_points(
    centre_xy: tuple[float, float], radii_xy: tuple[float, float], degrees: float = 0.0
) -> list[tuple[float, float]]:
    """Points around an ellipse that is turned clockwise, as seen with y downwards."""
    angles = np.arange(ELLIPSE_POINTS) * (2 * math.pi / ELLIPSE_POINTS)
    around = [(radii_xy[0] * math.cos(a), radii_xy[1] * math.sin(a)) for a in angles]
    return turned([(centre_xy[0] + x, centre_xy[1] + y) for x, y in around], centre_xy, degrees)


def turned(
    points: Points, centre_xy: tuple[float, float], degrees: float
) -> list[tuple[float, float]]:
    """Points turned clockwise around a centre."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    x0, y0 = centre_xy
    moved = [(x - x0, y - y0) for x, y in points]
    return [(x0 + x * cos - y * sin, y0 + x * sin + y * cos) for x, y in moved]


def place_mask(part: BoolMask, left: int, top: int, size_hw: tuple[int, int]) -> Rle:
    """A mask of which only a part is given, at the image's size; what sticks out is cut off."""
    whole = np.zeros(size_hw, dtype=np.bool_)
    if left < 0 or top < 0:
        raise ValueError(f"its mask begins at {left}, {top}, outside its image")
    part = part[: max(0, size_hw[0] - top), : max(0, size_hw[1] - left)]
    whole[top : top + part.shape[0], left : left + part.shape[1]] = part
    return encode_mask(whole)


def check_size(data: bytes, size_hw: tuple[int, int] | None) -> tuple[int, int]:
    """Height and width of an image file, checked against what the annotations say.

    Raises:
        ImageError: no image, another size, or stored turned: tools show the picture upright,
            but pixels are taken as stored.
    """
    found, turn = stored_size(data)
    if turn != 1:
        raise ImageError(
            "is stored turned (EXIF orientation), but was annotated upright; store it upright"
        )
    if size_hw is not None and found != size_hw:
        raise ImageError(
            f"is {found[1]} x {found[0]} pixels, but was annotated at {size_hw[1]} x {size_hw[0]}"
        )
    return found


def shapes_to_coco(images: Sequence[AnnotatedImage], source: str) -> dict[str, Any]:
    """A COCO file: classes numbered by name, images by file name, from 1.

    Args:
        images: the images in any order; those without shapes are left out.
        source: name of the format they come from, for ``info``.

    Raises:
        ReferencesError: there is no object in the images.
    """
    shown = sorted((i for i in images if i.shapes), key=lambda i: i.file_name)
    if not shown:
        raise ReferencesError(TITLE, ["there is no object in it"])
    names = sorted({shape.label for image in shown for shape in image.shapes})
    category_ids = {name: number for number, name in enumerate(names, start=1)}
    annotations: list[dict[str, Any]] = []
    for image_id, image in enumerate(shown, start=1):
        for shape in _objects(image):
            identity = {"id": len(annotations) + 1, "image_id": image_id}
            annotations.append({**identity, **_annotation(shape, category_ids)})
    return {
        "info": {"description": f"made from {source} by ntt-ray references convert"},
        "licenses": [],
        "images": [
            {"id": i, "file_name": m.file_name, "width": m.size_hw[1], "height": m.size_hw[0]}
            for i, m in enumerate(shown, start=1)
        ],
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for name, i in category_ids.items()],
    }


def _annotation(shape: Shape, category_ids: Mapping[str, int]) -> dict[str, Any]:
    x, y, width, height = shape.bbox_xywh
    found: dict[str, Any] = {
        "category_id": category_ids[shape.label],
        "bbox": [x, y, width, height],
        "area": width * height if shape.rle is None else rle_area(shape.rle),
        "iscrowd": 0,
    }
    return found if shape.rle is None else {**found, "segmentation": shape.rle}


def _objects(image: AnnotatedImage) -> list[Shape]:
    """Shapes with those of a group made one, in the order in which they were annotated."""
    objects: dict[object, list[Shape]] = {}
    for number, shape in enumerate(image.shapes):
        alone = shape.group is None
        key = (number,) if alone else (shape.label, shape.group)
        objects.setdefault(key, []).append(shape)
    return [own[0] if len(own) == 1 else _joined(own, image.size_hw) for own in objects.values()]


def _joined(shapes: Sequence[Shape], size_hw: tuple[int, int]) -> Shape:
    """One object of several shapes: all that their masks cover; boxes beside masks do not count."""
    label, group = shapes[0].label, shapes[0].group
    if rles := [shape.rle for shape in shapes if shape.rle is not None]:
        return mask(label, group, encode_mask(np.any([decode_rle(r) for r in rles], axis=0)))
    corners = [(x, y) for x, y, _, _ in (s.bbox_xywh for s in shapes)]
    corners += [(x + w, y + h) for x, y, w, h in (s.bbox_xywh for s in shapes)]
    return box(label, group, corners, size_hw)
