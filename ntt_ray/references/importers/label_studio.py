"""Label Studio: a JSON export of tasks, beside its images or above their folder.

Polygons and brush masks have a mask; rectangles, turned ones too, are boxes. Of a task the last
annotation that was not cancelled counts; where there is none, its first prediction, as ntt-ray's
profile ``labelstudio`` writes them. Places are per cent of the picture as it was shown. It writes
nothing.
"""

from __future__ import annotations

import math
import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
import numpy.typing as npt

from ntt_ray import storage
from ntt_ray.errors import ImageError, InputError, noted
from ntt_ray.images import image_suffixes
from ntt_ray.masks import BoolMask, encode_mask, is_finite_number
from ntt_ray.references.importers.shapes import (
    AnnotatedImage,
    Shape,
    box,
    check_size,
    ellipse_points,
    mask,
    outline,
    parsed,
    points_of,
    read_listed,
    usable,
)
from ntt_ray.storage import Storage

_KINDS = {  # type of a result -> where its label stands
    kind: kind for kind in ("polygonlabels", "brushlabels", "rectanglelabels", "ellipselabels")
}
_UPLOAD_PREFIX = re.compile(r"^[0-9a-f]{8}-")  # put before the name of a file that was uploaded
_LARGEST_PX = 1 << 28


def read_label_studio(folder: str, store: Storage) -> list[AnnotatedImage]:
    """Read all JSON exports below a folder.

    Raises:
        InputError: there is none.
        ReferencesError: with every file, task and result that cannot be used.
    """
    listed = store.list_files(folder)
    files = [name for name in listed if name.lower().endswith(".json")]
    if not files:
        raise InputError(f"{storage.redact(folder)}: there is no Label Studio JSON file")
    images = [name for name in listed if name.lower().endswith(image_suffixes())]
    by_base: dict[str, list[str]] = defaultdict(list)
    for name in images:
        by_base[posixpath.basename(name)].append(name)
    problems: list[str] = []
    left_out: Counter[str] = Counter()
    found = []
    for name in files:
        with noted(problems, name, ImageError, ValueError):
            for number, task in enumerate(_tasks(read_listed(folder, name, store))):
                with noted(problems, f"{name}: task {number}", ImageError, ValueError):
                    results = results_of(task)
                    if not results:
                        continue
                    image = _image_name(task, set(images), by_base)
                    size_hw = check_size(read_listed(folder, image, store), None)
                    shapes: list[Shape] = []
                    for place, result in enumerate(results):
                        where = f"{name}: task {number}: result {place}"
                        with noted(problems, where, ValueError):
                            shapes += shapes_of(result, size_hw, left_out)
                    found.append(AnnotatedImage(image, size_hw, tuple(shapes)))
    return usable(found, problems, left_out)


def _tasks(data: bytes) -> list[dict[str, Any]]:
    content = parsed(data)
    if not isinstance(content, list) or not all(isinstance(task, dict) for task in content):
        raise ValueError("not a list of tasks; export as JSON, not as JSON-MIN")
    if not all(isinstance(task.get("data"), dict) for task in content):
        raise ValueError("its tasks have no data; export as JSON, not as JSON-MIN")
    return content


def results_of(task: Mapping[str, Any]) -> list[Any]:
    """The results of a task that count; ValueError where they are no list."""
    given, predicted = task.get("annotations") or [], task.get("predictions") or []
    if not isinstance(given, list) or not isinstance(predicted, list):
        raise ValueError("its annotations or predictions are no list")
    made = [item for item in given if isinstance(item, dict) and not item.get("was_cancelled")]
    chosen = made[-1:] or [item for item in predicted if isinstance(item, dict)][:1]
    results = chosen[0].get("result") if chosen else []
    if not isinstance(results, list):
        raise ValueError("its annotation has no list 'result'")
    return results


def _image_name(
    task: Mapping[str, Any], images: set[str], by_base: Mapping[str, Sequence[str]]
) -> str:
    """The image's name below the folder: the only one that ends as the task's address does."""
    addresses = [v for v in task["data"].values() if isinstance(v, str) and "." in v]
    for address in addresses:
        parts = urlsplit(address.replace("\\", "/"))
        path = unquote((parse_qs(parts.query).get("d") or [parts.path])[0]).lstrip("/")
        base = posixpath.basename(path)
        for wanted in (base, _UPLOAD_PREFIX.sub("", base)):
            same = [n for n in by_base.get(wanted, ()) if path.endswith(n)] or by_base.get(wanted)
            if path in images:
                return path
            if same and len(same) > 1:
                raise ImageError(f"its image {base!r} is below the folder {len(same)} times")
            if same:
                return same[0]
    shown = posixpath.basename(addresses[0]) if addresses else "none"
    raise ImageError(f"its image {shown!r} is not below the folder")


def shapes_of(result: Any, size_hw: tuple[int, int], left_out: Counter[str]) -> list[Shape]:
    """The shape of a result as a list of one; none for what outlines nothing."""
    if not isinstance(result, dict) or not isinstance(result.get("value"), dict):
        raise ValueError("it has no value")
    kind, value = str(result.get("type")), result["value"]
    if kind not in _KINDS:
        left_out[kind] += 1
        return []
    said = result.get("original_height"), result.get("original_width")
    if all(type(side) is int for side in said) and said != size_hw:
        raise ValueError(
            f"its image is {size_hw[1]} x {size_hw[0]} pixels, but was annotated at "
            f"{said[1]} x {said[0]}"
        )
    labels = value.get(_KINDS[kind])
    if not isinstance(labels, list) or len(labels) != 1 or not isinstance(labels[0], str):
        raise ValueError("it has not one label")
    label, (height, width) = labels[0], size_hw
    if kind == "polygonlabels":
        points = points_of(value.get("points"))
        pixels = [(x * width / 100, y * height / 100) for x, y in points]
        return [outline(label, None, pixels, size_hw)]
    if kind == "brushlabels":
        return [mask(label, None, encode_mask(_brush_mask(value, size_hw)))]
    if kind == "ellipselabels":
        x, y, across, down, degrees = _numbers(value, "x", "y", "radiusX", "radiusY", "rotation")
        radii = (across * width / 100, down * height / 100)
        around = ellipse_points((x * width / 100, y * height / 100), radii, degrees)
        return [outline(label, None, around, size_hw)]
    x, y, across, down, degrees = _numbers(value, "x", "y", "width", "height", "rotation")
    return [box(label, None, _corners(x, y, across, down, degrees, size_hw), size_hw)]


def _corners(
    x: float, y: float, across: float, down: float, degrees: float, size_hw: tuple[int, int]
) -> list[tuple[float, float]]:
    """Corners in pixels of a rectangle in per cent, turned clockwise around its first corner."""
    height, width = size_hw
    left, top = x * width / 100, y * height / 100
    right, bottom = across * width / 100, down * height / 100
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return [
        (left + dx * cos - dy * sin, top + dx * sin + dy * cos)
        for dx, dy in ((0.0, 0.0), (right, 0.0), (right, bottom), (0.0, bottom))
    ]


def _numbers(value: Mapping[str, Any], *names: str) -> list[float]:
    found = [value.get(name, 0 if name == "rotation" else None) for name in names]
    if not all(is_finite_number(number) for number in found):
        raise ValueError(f"its {', '.join(names)} are not numbers")
    return [float(number) for number in found]


def _brush_mask(value: Mapping[str, Any], size_hw: tuple[int, int]) -> BoolMask:
    """The mask of a brush: `merge.profiles.brush` describes its encoding."""
    rle = value.get("rle")
    if not isinstance(rle, list) or not all(type(b) is int and 0 <= b <= 255 for b in rle):
        raise ValueError("its rle is no list of bytes")
    values = _decoded(np.unpackbits(np.array(rle, dtype=np.uint8)))
    height, width = size_hw
    if len(values) != 4 * height * width:
        raise ValueError("its brush mask is of another size than its image")
    opaque: BoolMask = values.reshape(height, width, 4)[..., 3] > 0
    return opaque


def _decoded(bits: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The values of a run-length encoding; ValueError for one that is damaged."""
    position = 0

    def number(size: int) -> int:
        nonlocal position
        chunk = bits[position : position + size]
        if len(chunk) < size:
            raise ValueError("its rle ends too early")
        position += size
        return int("".join(map(str, chunk.tolist())), 2)

    count, word = number(32), number(5) + 1
    sizes = [number(4) + 1 for _ in range(4)]
    if count > _LARGEST_PX or word != 8:
        raise ValueError("its rle is of no picture")
    values, done = np.zeros(count, dtype=np.uint8), 0
    while done < count:
        is_run, length = number(1), number(sizes[number(2)]) + 1
        if done + length > count:
            raise ValueError("its rle is longer than it says")
        if is_run:
            values[done : done + length] = number(word)
        else:
            values[done : done + length] = [number(word) for _ in range(length)]
        done += length
    return values
