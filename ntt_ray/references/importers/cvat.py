"""CVAT: the XML of an export "CVAT for images 1.1", beside its images.

Polygons, ellipses and masks have a mask; boxes, turned ones too, are boxes. Polylines, points,
cuboids, skeletons and tags outline nothing and are left out. It writes nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import numpy as np

from ntt_ray import storage
from ntt_ray.errors import ImageError, InputError, noted
from ntt_ray.masks import Rle
from ntt_ray.references.importers.shapes import (
    AnnotatedImage,
    Shape,
    box,
    check_size,
    ellipse_points,
    mask,
    outline,
    place_mask,
    read_listed,
    turned,
    usable,
)
from ntt_ray.storage import Storage

FILE = "annotations.xml"
NOT_AREAS = ("cuboid", "points", "polyline", "skeleton", "tag")


def read_cvat(folder: str, store: Storage) -> list[AnnotatedImage]:
    """Read ``annotations.xml`` of an unpacked export.

    Raises:
        InputError: there is none, or it is an export of another kind.
        ReferencesError: with every image and shape that cannot be used.
    """
    root = _parsed(storage.join(folder, FILE), store)
    names = set(store.list_files(folder))
    problems: list[str] = []
    left_out: Counter[str] = Counter()
    images = []
    for element in root.iter("image"):
        name = element.get("name", "")
        if all(child.tag in NOT_AREAS for child in element):
            continue
        with noted(problems, f"image {name}", ImageError, ValueError):
            file_name = _image_name(name, element.get("subset", ""), names)
            size_hw = (int(element.get("height", "")), int(element.get("width", "")))
            check_size(read_listed(folder, file_name, store), size_hw)
            shapes: list[Shape] = []
            for number, child in enumerate(element):
                with noted(problems, f"image {name}: {child.tag} {number}", ValueError):
                    try:
                        shapes += _shape(child, size_hw, left_out)
                    except KeyError as error:
                        raise ValueError(f"it has no {error}") from None
            images.append(AnnotatedImage(file_name, size_hw, tuple(shapes)))
    return usable(images, problems, left_out)


def _parsed(uri: str, store: Storage) -> Element:
    shown = storage.redact(uri)
    try:
        text = store.read_bytes(uri).decode("utf-8-sig")
    except FileNotFoundError:
        hint = "unpack the export 'CVAT for images 1.1' and name its folder"
        raise InputError(f"{shown}: no such file; {hint}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{shown}: not an XML file in UTF-8 ({error})") from None
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise InputError(f"{shown}: refused, CVAT writes no document type and no entities")
    try:
        root = ElementTree.fromstring(text)  # noqa: S314
    except ElementTree.ParseError as error:
        raise InputError(f"{shown}: not XML ({error})") from None
    if root.tag != "annotations" or root.find("track") is not None:
        raise InputError(f"{shown}: not an export 'CVAT for images 1.1'; export it as that")
    return root


def _image_name(name: str, subset: str, names: set[str]) -> str:
    """The image's name below the folder; exports keep images in ``images/``, by subset or not."""
    places = (name, f"images/{name}", f"images/{subset}/{name}", f"images/default/{name}")
    for place in places:
        if place in names:
            return place
    raise ImageError("is not below the folder; export with images, or put them beside the XML")


def _shape(element: Element, size_hw: tuple[int, int], left_out: Counter[str]) -> list[Shape]:
    """A shape of an area as a list of one; none for lines, points and tags."""
    kind, values = element.tag, element.attrib
    if kind in NOT_AREAS:
        left_out[kind] += 1
        return []
    label, group = values["label"], int(values.get("group_id", "0")) or None
    if not label:
        raise ValueError("its label is empty")
    degrees = _number(values, "rotation") if "rotation" in values else 0.0
    if kind == "polygon":
        return [outline(label, group, _points(values["points"]), size_hw)]
    if kind == "mask":
        return [mask(label, group, _mask(values, size_hw))]
    if kind == "ellipse":
        centre = (_number(values, "cx"), _number(values, "cy"))
        radii = (_number(values, "rx"), _number(values, "ry"))
        return [outline(label, group, ellipse_points(centre, radii, degrees), size_hw)]
    if kind == "box":
        x1, y1, x2, y2 = (_number(values, key) for key in ("xtl", "ytl", "xbr", "ybr"))
        corners = [(x1, y1), (x2, y1), (x2, y2), (x1, y2)]
        upright = turned(corners, ((x1 + x2) / 2, (y1 + y2) / 2), degrees)
        return [box(label, group, upright, size_hw)]
    raise ValueError("is not known")


def _number(values: Mapping[str, str], key: str) -> float:
    value = float(values[key])
    if not math.isfinite(value):
        raise ValueError(f"its {key} is not a finite number")
    return value


def _points(text: str) -> list[tuple[float, float]]:
    """Points as CVAT writes them, ``x,y;x,y``."""
    pairs = [pair.split(",") for pair in text.split(";")]
    return [(float(x), float(y)) for x, y in pairs]


def _mask(values: Mapping[str, str], size_hw: tuple[int, int]) -> Rle:
    """Runs row by row in the mask's own rectangle, the first one outside."""
    left, top, width, height = (int(values[key]) for key in ("left", "top", "width", "height"))
    runs = [int(run) for run in values["rle"].split(",")]
    if width > size_hw[1] or height > size_hw[0]:
        raise ValueError(f"its mask of {width} x {height} is larger than its image")
    if min(width, height) < 1 or min(runs) < 0 or sum(runs) != width * height:
        raise ValueError(f"its runs add up to {sum(runs)}, not to {width} x {height}")
    inside = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
    return place_mask(inside, left, top, size_hw)
