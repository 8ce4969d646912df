"""Pascal VOC: ``JPEGImages`` with ``SegmentationObject`` and ``SegmentationClass`` beside it.

Each value of an object's PNG but 0 and 255 is an object; its class is the value that the class's
PNG has there. Classes are those of ``labelmap.txt`` in its order, where there is one, else VOC's.
Coloured PNGs, as CVAT and Datumaro write them ("Segmentation mask 1.1"), are read by the colours
that ``labelmap.txt`` gives the classes; each colour of an object's PNG is an object. Objects that
are boxes in ``Annotations`` only are not read. It writes nothing.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ntt_ray import storage
from ntt_ray.errors import ImageError, InputError, noted
from ntt_ray.images import decode_mask, image_suffixes
from ntt_ray.masks import encode_mask
from ntt_ray.references.importers.shapes import (
    AnnotatedImage,
    Shape,
    check_size,
    mask,
    read_listed,
    usable,
)
from ntt_ray.storage import Storage

IMAGES, OBJECTS, CLASS_MAPS = "JPEGImages", "SegmentationObject", "SegmentationClass"
LABELS = "labelmap.txt"
_BORDER = 255  # neither object nor background
_BORDER_COLOUR = 0xE0E0C0  # of the same, in coloured files
CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)


def is_voc(names: list[str]) -> bool:
    """Whether a listing is that of a VOC folder with masks."""
    return all(any(n.startswith(f"{place}/") for n in names) for place in (IMAGES, OBJECTS))


def read_voc(folder: str, store: Storage) -> list[AnnotatedImage]:
    """Read every image with masks.

    Raises:
        InputError: there are none.
        ReferencesError: with every image, mask and object that cannot be used.
    """
    names = store.list_files(folder)
    if not is_voc(names):
        raise InputError(
            f"{storage.redact(folder)}: there is no {IMAGES} with a {OBJECTS} beside it"
        )
    classes = _classes(folder, names, store)
    images = {
        posixpath.splitext(name)[0].removeprefix(f"{IMAGES}/"): name
        for name in names
        if name.startswith(f"{IMAGES}/") and name.lower().endswith(image_suffixes())
    }
    problems: list[str] = []
    found = []
    for name in names:
        if not name.startswith(f"{OBJECTS}/") or not name.lower().endswith(".png"):
            continue
        stem = posixpath.splitext(name)[0].removeprefix(f"{OBJECTS}/")
        if stem not in images:
            problems.append(f"{name}: there is no image to this mask")
            continue
        with noted(problems, name, ImageError, ValueError):
            size_hw = check_size(read_listed(folder, images[stem], store), None)
            objects, of_classes = (
                _map(read_listed(folder, f"{place}/{stem}.png", store), size_hw)
                for place in (OBJECTS, CLASS_MAPS)
            )
            shapes = _shapes(objects, of_classes, classes)
            found.append(AnnotatedImage(images[stem], size_hw, tuple(shapes)))
    return usable(found, problems, {})


@dataclass(frozen=True)
class _Classes:
    """Names of the classes by their values, 0 is the background; and by their colours."""

    by_value: Mapping[int, str]
    by_colour: Mapping[int, str]

    def name(self, value: int, is_colour: bool) -> str:
        """The name of a value or ``0xRRGGBB``; ValueError where there is none."""
        if is_colour and not self.by_colour:
            raise ValueError(
                f"{CLASS_MAPS} is a coloured picture; put a {LABELS} with lines name:r,g,b:: "
                "beside it, or save it with a palette, whose values count"
            )
        grey = value * 0x010101
        found = None if is_colour else self.by_value.get(value, self.by_colour.get(grey))
        found = self.by_colour.get(value) if is_colour else found
        if found is None:
            raise ValueError(
                f"has the colour {_rgb(value)}, which {LABELS} does not have"
                if is_colour
                else f"has the class {value}, which has no name"
            )
        return found


def _classes(folder: str, names: list[str], store: Storage) -> _Classes:
    if LABELS not in names:
        return _Classes(dict(enumerate(CLASSES, start=1)), {})
    lines = read_listed(folder, LABELS, store).decode("utf-8-sig", "replace").splitlines()
    listed = [line.split(":") for line in lines if line.strip() and not line.startswith("#")]
    classes = [(parts[0].strip(), parts[1:2]) for parts in listed]
    if classes and classes[0][0] == "background":
        classes = classes[1:]
    colours = {_colour(rgb[0]): name for name, rgb in classes if rgb and rgb[0].strip()}
    return _Classes(dict(enumerate((name for name, _ in classes), start=1)), colours)


def _colour(text: str) -> int:
    """``0xRRGGBB`` of ``r,g,b``; -1, which no pixel has, for anything else."""
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 3 or not all(p.isascii() and p.isdigit() and int(p) < 256 for p in parts):
        return -1
    return int.from_bytes(bytes(map(int, parts)), "big")


def _rgb(colour: int) -> str:
    return ",".join(str(part) for part in colour.to_bytes(3, "big"))


Map = tuple[npt.NDArray[np.int64], bool]  # values, and whether these are ``0xRRGGBB``


def _map(data: bytes, size_hw: tuple[int, int]) -> Map:
    values, colours = decode_mask(data)
    if values.shape != size_hw:
        height, width = values.shape
        raise ValueError(f"is {width} x {height} pixels, but its image {size_hw[1]} x {size_hw[0]}")
    return colours, values is not colours


def _shapes(objects: Map, classes: Map, names: _Classes) -> list[Shape]:
    (numbers, coloured), (values, in_colours) = objects, classes
    shapes = []
    for number in np.unique(numbers).tolist():
        if number in (0, _BORDER_COLOUR if coloured else _BORDER):
            continue
        own = numbers == number
        found, counts = np.unique(values[own], return_counts=True)
        try:
            name = names.name(int(found[counts.argmax()]), in_colours)
        except ValueError as error:
            which = f"of the colour {_rgb(number)}" if coloured else str(number)
            raise ValueError(f"object {which}: {error}") from None
        shapes.append(mask(name, None, encode_mask(own)))
    return shapes
