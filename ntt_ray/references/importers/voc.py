"""Pascal VOC: ``JPEGImages`` with ``SegmentationObject`` and ``SegmentationClass`` beside it.

Each value of an object's PNG but 0 and 255 is an object; its class is the value that the class's
PNG has there. Classes are those of ``labelmap.txt`` in its order, where there is one, else VOC's.
Objects that are boxes in ``Annotations`` only are not read. It writes nothing.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping

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
                _indices(read_listed(folder, f"{place}/{stem}.png", store), size_hw)
                for place in (OBJECTS, CLASS_MAPS)
            )
            shapes = _shapes(objects, of_classes, classes)
            found.append(AnnotatedImage(images[stem], size_hw, tuple(shapes)))
    return usable(found, problems, {})


def _classes(folder: str, names: list[str], store: Storage) -> Mapping[int, str]:
    """Names of the classes by the value that they have; 0 is the background."""
    if LABELS not in names:
        return dict(enumerate(CLASSES, start=1))
    lines = read_listed(folder, LABELS, store).decode("utf-8-sig", "replace").splitlines()
    listed = [line.split(":")[0].strip() for line in lines if line.strip()]
    listed = [name for name in listed if not name.startswith("#")]
    if listed and listed[0] == "background":
        listed = listed[1:]
    return dict(enumerate(listed, start=1))


def _indices(data: bytes, size_hw: tuple[int, int]) -> npt.NDArray[np.int64]:
    values, colours = decode_mask(data)
    if values is not colours:
        raise ValueError("is a coloured picture; save it with a palette, whose values count")
    if values.shape != size_hw:
        height, width = values.shape
        raise ValueError(f"is {width} x {height} pixels, but its image {size_hw[1]} x {size_hw[0]}")
    return values


def _shapes(
    objects: npt.NDArray[np.int64],
    classes: npt.NDArray[np.int64],
    names: Mapping[int, str],
) -> list[Shape]:
    shapes = []
    for number in np.unique(objects).tolist():
        if number in (0, _BORDER):
            continue
        own = objects == number
        values, counts = np.unique(classes[own], return_counts=True)
        value = int(values[counts.argmax()])
        if value not in names:
            raise ValueError(f"object {number} has the class {value}, which has no name")
        shapes.append(mask(names[value], None, encode_mask(own)))
    return shapes
