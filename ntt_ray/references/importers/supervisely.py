"""Supervisely: a project or a data set of it, ``img/NAME`` with ``ann/NAME.json`` beside it.

Bitmaps and polygons have a mask; rectangles are boxes. Points, lines and graphs outline nothing and
are left out. Images without a JSON, and JSONs without objects, have no object. It writes nothing.
"""

from __future__ import annotations

import base64
import binascii
import posixpath
import zlib
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ntt_ray import storage
from ntt_ray.errors import ImageError, InputError, noted
from ntt_ray.images import decode_mask
from ntt_ray.masks import decode_rle, encode_mask, segmentation_to_rle
from ntt_ray.references.importers.shapes import (
    AnnotatedImage,
    Points,
    Shape,
    box,
    check_size,
    mask,
    parsed,
    place_mask,
    points_of,
    read_listed,
    usable,
)
from ntt_ray.storage import Storage

NOT_AREAS = ("cuboid", "graph", "line", "point", "polyline")
_LARGEST_PNG_BYTES = 64 << 20  # of one mask; more is no mask that anybody drew


def read_supervisely(folder: str, store: Storage) -> list[AnnotatedImage]:
    """Read every JSON in a folder ``ann``.

    Raises:
        InputError: there is none.
        ReferencesError: with every file, image and object that cannot be used.
    """
    names = store.list_files(folder)
    files = [n for n in names if n.split("/")[-2:-1] == ["ann"] and n.endswith(".json")]
    if not files:
        raise InputError(f"{storage.redact(folder)}: there is no ann/NAME.json of Supervisely")
    problems: list[str] = []
    left_out: Counter[str] = Counter()
    images = []
    for name in files:
        with noted(problems, name, ImageError, ValueError):
            content = _content(read_listed(folder, name, store))
            image = _image_name(name, set(names))
            size_hw = check_size(read_listed(folder, image, store), _size_hw(content))
            shapes: list[Shape] = []
            for number, item in enumerate(content["objects"]):
                with noted(problems, f"{name}: object {number}", ValueError):
                    shapes += _shape(item, size_hw, left_out)
            images.append(AnnotatedImage(image, size_hw, tuple(shapes)))
    return usable(images, problems, left_out)


def _content(data: bytes) -> dict[str, Any]:
    content = parsed(data)
    if not isinstance(content, dict) or not isinstance(content.get("objects"), list):
        raise ValueError("not a Supervisely file, it has no list 'objects'")
    return content


def _image_name(file: str, names: set[str]) -> str:
    """The image of ``ann/NAME.json``; exports of old versions leave its ending out of NAME."""
    folder, base = posixpath.split(file.removesuffix(".json"))
    wanted = posixpath.join(posixpath.dirname(folder), "img", base)
    if wanted in names:
        return wanted
    same = sorted(name for name in names if posixpath.splitext(name)[0] == wanted)
    if len(same) != 1:
        raise ImageError(f"there is no image {wanted}" if not same else f"has {len(same)} images")
    return same[0]


def _size_hw(content: Mapping[str, Any]) -> tuple[int, int] | None:
    size = content.get("size")
    sides = (size.get("height"), size.get("width")) if isinstance(size, dict) else (None, None)
    return sides if all(type(side) is int for side in sides) else None  # type: ignore[return-value]


def _shape(item: Any, size_hw: tuple[int, int], left_out: Counter[str]) -> list[Shape]:
    """An object with an area as a list of one; none for points and lines."""
    label = item.get("classTitle") if isinstance(item, dict) else None
    if not isinstance(label, str) or not label:
        raise ValueError("it has no classTitle")
    default = "bitmap" if isinstance(item.get("bitmap"), dict) else "polygon"
    kind = item.get("geometryType") or item.get("shape") or default
    if kind in NOT_AREAS:
        left_out[kind] += 1
        return []
    if kind in ("bitmap", "alpha_mask"):
        part, (left, top) = _bitmap(item.get(kind) or item.get("bitmap"))
        return [mask(label, None, place_mask(part, left, top, size_hw))]
    points = item.get("points")
    outside, holes = (
        (points.get("exterior"), points.get("interior") or ())
        if isinstance(points, dict)
        else (None, ())
    )
    if kind == "rectangle":
        (x1, y1), (x2, y2) = _two(points_of(outside))
        corners = [(min(x1, x2), min(y1, y2)), (max(x1, x2) + 1, max(y1, y2) + 1)]
        return [box(label, None, corners, size_hw)]
    if kind == "polygon" and isinstance(holes, list | tuple):
        inside = _inside(points_of(outside), size_hw)
        for hole in holes:
            inside &= ~_inside(points_of(hole), size_hw)
        return [mask(label, None, encode_mask(inside))]
    raise ValueError(f"a {kind} is not known; make it a polygon or a bitmap, or delete it")


def _bitmap(value: Any) -> tuple[npt.NDArray[np.bool_], tuple[int, int]]:
    """The pixels of a mask and where it begins, x and y: a PNG, packed by zlib, in base64."""
    origin = value.get("origin") if isinstance(value, dict) else None
    if not isinstance(origin, list) or [type(v) for v in origin] != [int, int]:
        raise ValueError("its bitmap has no origin [x, y]")
    try:
        data = base64.b64decode(value.get("data"), validate=True)
        if not data.startswith(b"\x89PNG"):
            data = zlib.decompressobj().decompress(data, _LARGEST_PNG_BYTES)
        values, _ = decode_mask(data)
    except (TypeError, binascii.Error, zlib.error, ImageError) as error:
        raise ValueError(f"its bitmap is not a packed PNG in base64 ({error})") from None
    return values > values.max() / 2, (origin[0], origin[1])


def _inside(points: Points, size_hw: tuple[int, int]) -> npt.NDArray[np.bool_]:
    flat = [value for point in points for value in point]
    return decode_rle(segmentation_to_rle([flat], *size_hw))


def _two(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    if len(points) != 2:
        raise ValueError(f"its rectangle has {len(points)} corners, not two")
    return points
