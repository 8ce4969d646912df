"""YOLO: ``data.yaml`` with the names, ``images/`` and ``labels/`` with a text for each image.

A line is a class and the corners of a polygon, as shares of width and height; or a class and a box
(its centre, width and height), which has no mask. Images without a text have no object. What
ntt-ray's profile ``yolo-seg`` writes can be read. It writes nothing.
"""

from __future__ import annotations

import math
import posixpath
from collections.abc import Mapping
from typing import Any

from ntt_ray import storage
from ntt_ray.errors import ImageError, InputError, noted
from ntt_ray.images import image_suffixes
from ntt_ray.references.importers.shapes import (
    AnnotatedImage,
    Shape,
    box,
    check_size,
    outline,
    read_listed,
    usable,
)
from ntt_ray.storage import Storage
from ntt_ray.yaml_input import parse_yaml

NAMES_FILES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
_OUTSIDE = 0.01  # shares that lie outside by rounding


def read_yolo(folder: str, store: Storage) -> list[AnnotatedImage]:
    """Read all texts below a folder.

    Raises:
        InputError: there is no file of names, or no text.
        ReferencesError: with every image, text and line that cannot be used.
    """
    listed = store.list_files(folder)
    names = _names(folder, listed, store)
    images = {_label_name(n): n for n in listed if n.lower().endswith(image_suffixes())}
    texts = [n for n in listed if n.endswith(".txt") and (n in images or "labels" in n.split("/"))]
    if not texts:
        raise InputError(f"{storage.redact(folder)}: there is no text of labels beside an image")
    problems: list[str] = []
    found = []
    for name in texts:
        if name not in images:
            problems.append(f"{name}: there is no image to it")
            continue
        with noted(problems, name, ImageError, ValueError):
            size_hw = check_size(read_listed(folder, images[name], store), None)
            lines = read_listed(folder, name, store).decode("utf-8-sig").splitlines()
            shapes: list[Shape] = []
            for number, line in enumerate(lines, start=1):
                with noted(problems, f"{name}: line {number}", ValueError):
                    shapes += _shapes(line, names, size_hw)
            found.append(AnnotatedImage(images[name], size_hw, tuple(shapes)))
    return usable(found, problems, {})


def _names(folder: str, listed: list[str], store: Storage) -> Mapping[int, str]:
    """The names of the classes by number."""
    file = next((name for name in NAMES_FILES if name in listed), None)
    if file is None:
        wanted = ", ".join(NAMES_FILES[:2])
        raise InputError(f"{storage.redact(folder)}: there is no file of names ({wanted})")
    try:
        content = parse_yaml(read_listed(folder, file, store))
        names: Any = content.get("names") if isinstance(content, dict) else None
        if isinstance(names, list):
            names = dict(enumerate(names))
        if not isinstance(names, dict) or not names:
            raise ValueError("it has no list or table 'names'")
        if not all(type(n) is int and isinstance(v, str) and v for n, v in names.items()):
            raise ValueError("its 'names' are not texts by number")
    except (ImageError, ValueError) as error:
        raise InputError(f"{storage.redact(storage.join(folder, file))}: {error}") from None
    return names


def _label_name(image: str) -> str:
    """Where the text of an image lies: below ``labels`` as the image below ``images``."""
    parts = posixpath.splitext(image)[0].split("/")
    for n in range(len(parts) - 2, -1, -1):
        if parts[n] == "images":
            parts[n] = "labels"
            break
    return "/".join(parts) + ".txt"


def _shapes(line: str, names: Mapping[int, str], size_hw: tuple[int, int]) -> list[Shape]:
    """The shape of a line as a list of one; none for an empty line."""
    words = line.split()
    if not words:
        return []
    try:
        number, shares = int(words[0]), [float(word) for word in words[1:]]
    except ValueError:
        raise ValueError("it is not a class and numbers") from None
    if number not in names:
        raise ValueError(f"there is no name of class {number}")
    if not all(math.isfinite(s) and -_OUTSIDE <= s <= 1 + _OUTSIDE for s in shares):
        raise ValueError("it has a number that is no share of the image, 0 to 1")
    height, width = size_hw
    if len(shares) == 4:
        x, y, half_width, half_height = shares[0], shares[1], shares[2] / 2, shares[3] / 2
        corners = [(x - half_width, y - half_height), (x + half_width, y + half_height)]
        return [box(names[number], None, [(x * width, y * height) for x, y in corners], size_hw)]
    if len(shares) < 6 or len(shares) % 2:
        raise ValueError(f"{len(shares)} numbers are neither a box nor a polygon")
    points = list(zip(shares[::2], shares[1::2], strict=True))
    return [outline(names[number], None, [(x * width, y * height) for x, y in points], size_hw)]
