"""V7: an unpacked export "Darwin JSON 2.0", one JSON for each image, beside or above the images.

Polygons, ellipses and masks have a mask; bounding boxes alone are boxes. Lines, key points,
skeletons, tags and the like outline nothing and are left out. It writes nothing.
"""

from __future__ import annotations

import math
import posixpath
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ntt_ray import storage
from ntt_ray.errors import ImageError, InputError, noted
from ntt_ray.images import image_suffixes
from ntt_ray.masks import decode_rle, encode_mask, is_finite_number, segmentation_to_rle
from ntt_ray.references.importers.shapes import (
    AnnotatedImage,
    Shape,
    box,
    check_size,
    ellipse_points,
    mask,
    outline,
    parsed,
    read_listed,
    usable,
)
from ntt_ray.storage import Storage

NOT_AREAS = (
    *("cuboid", "eye", "graph", "keypoint", "line", "link", "skeleton", "string", "table", "tag"),
    "simple_table",
)


def read_darwin(folder: str, store: Storage) -> list[AnnotatedImage]:
    """Read every JSON below a folder.

    Raises:
        InputError: there is none.
        ReferencesError: with every file, image and annotation that cannot be used.
    """
    names = store.list_files(folder)
    files = [n for n in names if n.lower().endswith(".json") and ".v7" not in n.split("/")]
    if not files:
        raise InputError(f"{storage.redact(folder)}: there is no Darwin JSON file")
    by_base: dict[str, list[str]] = defaultdict(list)
    for name in names:
        if name.lower().endswith(image_suffixes()):
            base = posixpath.basename(name)
            for key in {base, posixpath.splitext(base)[0]}:
                by_base[key].append(name)
    problems: list[str] = []
    left_out: Counter[str] = Counter()
    images = []
    for name in files:
        with noted(problems, name, ImageError, ValueError):
            item, annotations = _content(read_listed(folder, name, store))
            slot = _slot(item)
            image = _image_name(item, slot, by_base)
            size_hw = check_size(read_listed(folder, image, store), _size_hw(slot))
            layers = _layers(annotations, size_hw)
            shapes: list[Shape] = []
            for number, annotation in enumerate(annotations):
                with noted(problems, f"{name}: annotation {number}", ValueError):
                    shapes += _shape(annotation, layers, size_hw, left_out)
            images.append(AnnotatedImage(image, size_hw, tuple(shapes)))
    return usable(images, problems, left_out)


def _content(data: bytes) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The item and its annotations."""
    content = parsed(data)
    annotations = content.get("annotations") if isinstance(content, dict) else None
    if not isinstance(annotations, list) or not all(isinstance(a, dict) for a in annotations):
        raise ValueError("not a Darwin JSON file, it has no list 'annotations'")
    item = content.get("item")
    if not isinstance(item, dict) or not isinstance(item.get("name"), str):
        raise ValueError("not of version 2.0, it has no 'item'; export as Darwin JSON 2.0")
    return item, annotations


def _slot(item: Mapping[str, Any]) -> Mapping[str, Any]:
    """What an item shows: one image."""
    slots = item.get("slots")
    if not isinstance(slots, list) or not all(isinstance(slot, dict) for slot in slots):
        raise ValueError("its item has no list 'slots'")
    if len(slots) != 1 or slots[0].get("type", "image") != "image":
        kinds = ", ".join(str(slot.get("type")) for slot in slots)
        raise ValueError(f"is not of one image ({kinds}); leave it out of the export")
    slot: Mapping[str, Any] = slots[0]
    return slot


def _size_hw(slot: Mapping[str, Any]) -> tuple[int, int] | None:
    height, width = slot.get("height"), slot.get("width")
    return (height, width) if type(height) is int and type(width) is int else None


def _image_name(
    item: Mapping[str, Any], slot: Mapping[str, Any], by_base: Mapping[str, Sequence[str]]
) -> str:
    """The image's name below the folder: V7 names items without an ending, too."""
    path = str(item.get("path") or "").strip("/")
    sources = slot.get("source_files")
    named = [s.get("file_name") for s in sources or () if isinstance(s, dict)]
    for wanted in (item["name"], *named):
        if not isinstance(wanted, str):
            continue
        full = posixpath.join(path, wanted)
        same = by_base.get(posixpath.basename(wanted), ())
        near = [n for n in same if _ends(n, full)] or same
        if len(near) > 1:
            raise ImageError(f"its image {full!r} is below the folder {len(near)} times")
        if near:
            return near[0]
    raise ImageError(f"its image {item['name']!r} is not below the folder")


def _ends(name: str, full: str) -> bool:
    return any(f"/{n}".endswith(f"/{full}") for n in (name, posixpath.splitext(name)[0]))


def _layers(
    annotations: Sequence[Mapping[str, Any]], size_hw: tuple[int, int]
) -> dict[str, npt.NDArray[np.bool_]]:
    """The pixels of every mask, by the id of its annotation."""
    found: dict[str, npt.NDArray[np.bool_]] = {}
    for annotation in annotations:
        layer = annotation.get("raster_layer")
        if isinstance(layer, dict):
            values = _decoded(layer.get("dense_rle"), size_hw)
            ids = layer.get("mask_annotation_ids_mapping")
            if not isinstance(ids, dict) or not all(type(v) is int for v in ids.values()):
                raise ValueError("its raster layer has no mask_annotation_ids_mapping")
            found |= {identity: values == value for identity, value in ids.items()}
    return found


def _decoded(runs: Any, size_hw: tuple[int, int]) -> npt.NDArray[np.int64]:
    """Values row by row, of a list of a value, how often it stands there, the next value ..."""
    if not isinstance(runs, list) or not all(type(run) is int for run in runs) or len(runs) % 2:
        raise ValueError("the dense_rle of its raster layer is no list of values and lengths")
    values, lengths = runs[::2], runs[1::2]
    if min(lengths, default=0) < 0 or sum(lengths) != size_hw[0] * size_hw[1]:
        raise ValueError(
            f"the runs of its raster layer add up to {sum(lengths)} pixels, not to "
            f"{size_hw[1]} x {size_hw[0]}"
        )
    return np.repeat(np.array(values, dtype=np.int64), lengths).reshape(size_hw)


def _shape(
    annotation: Mapping[str, Any],
    layers: Mapping[str, npt.NDArray[np.bool_]],
    size_hw: tuple[int, int],
    left_out: Counter[str],
) -> list[Shape]:
    """An annotation with an area as a list of one; none for lines, points and tags."""
    if "raster_layer" in annotation:
        return []
    label = annotation.get("name")
    if not isinstance(label, str) or not label:
        raise ValueError("it has no name")
    group = _group(annotation.get("instance_id"))
    if (kind := next((kind for kind in NOT_AREAS if kind in annotation), None)) is not None:
        left_out[kind] += 1
        return []
    if "mask" in annotation:
        inside = layers.get(str(annotation.get("id")))
        if inside is None or not inside.any():
            left_out["mask without a pixel"] += 1
            return []
        return [mask(label, group, encode_mask(inside))]
    if "polygon" in annotation:
        inside = np.zeros(size_hw, dtype=np.bool_)
        for path in _paths(annotation["polygon"]):
            flat = [value for point in path for value in point]
            inside ^= decode_rle(segmentation_to_rle([flat], *size_hw))
        return [mask(label, group, encode_mask(inside))]
    if "ellipse" in annotation:
        ellipse = _table(annotation["ellipse"], "ellipse")
        centre, radii = (_point(ellipse.get(part)) for part in ("center", "radius"))
        (angle,) = _numbers(ellipse, "angle")
        around = ellipse_points(centre, radii, math.degrees(angle))
        return [outline(label, group, around, size_hw)]
    if "bounding_box" in annotation:
        found = _table(annotation["bounding_box"], "bounding_box")
        x, y, width, height = _numbers(found, "x", "y", "w", "h")
        return [box(label, group, [(x, y), (x + width, y + height)], size_hw)]
    raise ValueError(f"of {', '.join(sorted(annotation))[:80]} none is a form that is known")


def _group(instance: Any) -> int | None:
    """Shapes with the same instance id are one object."""
    value = instance.get("value") if isinstance(instance, dict) else None
    return value if type(value) is int else None


def _paths(polygon: Any) -> Iterator[list[tuple[float, float]]]:
    """The rings of a polygon; where an even number of rings lie over one another is a hole."""
    paths = polygon.get("paths") if isinstance(polygon, dict) else None
    if not isinstance(paths, list) or not paths or not all(isinstance(p, list) for p in paths):
        raise ValueError("its polygon has no list 'paths'; export as Darwin JSON 2.0")
    for path in paths:
        yield [_point(point) for point in path]


def _point(value: Any) -> tuple[float, float]:
    x, y = _numbers(_table(value, "point"), "x", "y")
    return x, y


def _table(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"its {what} is no table of numbers")
    return value


def _numbers(value: Mapping[str, Any], *names: str) -> list[float]:
    found = [value.get(name) for name in names]
    if not all(is_finite_number(number) for number in found):
        raise ValueError(f"its {', '.join(names)} are not finite numbers")
    return [float(number) for number in found]  # type: ignore[arg-type]
