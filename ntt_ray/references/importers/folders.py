"""A folder per class, with images and PNG masks of the same name. It writes nothing.

::

    references/bolt/0001.jpg  0001.png                     the mask beside an image that is no PNG
    references/bolt/0002.png  0002_mask.png                or with the ending _mask
    references/bolt/0003.jpg  0003_mask_1.png  0003_mask_2.png      one for each object
    references/nut/images/0001.png  nut/masks/0001.png     or in folders of these names

A mask has one object: its pixels are those of the one value that is not 0, or, in a soft mask of
grey values, those above half of the greatest. Where a PNG has transparent parts, they are outside.
"""

from __future__ import annotations

import posixpath
import re
from collections import defaultdict

import numpy as np

from ntt_ray import storage
from ntt_ray.errors import ImageError, InputError, noted
from ntt_ray.images import IMAGE_SUFFIXES, decode_mask
from ntt_ray.masks import Rle, encode_mask
from ntt_ray.references.importers.shapes import AnnotatedImage, Shape, check_size, mask, usable
from ntt_ray.storage import Storage

_MASK = re.compile(r"^(?P<image>.+?)[._-]mask([._-]?\d+)?$")
_SOFT_VALUES = 16  # more grey values than these are soft edges, fewer are several objects


def read_folders(folder: str, store: Storage) -> list[AnnotatedImage]:
    """Read all class folders.

    Raises:
        InputError: there are none.
        ReferencesError: with every image without a mask, every mask without an image, and every
            file that cannot be used.
    """
    names = store.list_files(folder, IMAGE_SUFFIXES)
    if not any("/" in name for name in names):
        raise InputError(f"{storage.redact(folder)}: there is no folder of a class with images")
    problems = [f"{name}: lies in no class's folder" for name in names if "/" not in name]
    masks = masks_by_image([name for name in names if "/" in name], problems)
    images = []
    for image, own in sorted(masks.items()):
        label = image.split("/", 1)[0]
        shapes: list[Shape] = []
        with noted(problems, image, ImageError):
            size_hw = check_size(store.read_bytes(storage.join(folder, image)), None)
            for name in own:
                with noted(problems, name, ImageError, ValueError):
                    rle = _read_mask(store.read_bytes(storage.join(folder, name)), size_hw)
                    shapes.append(mask(label, None, rle))
            images.append(AnnotatedImage(image, size_hw, tuple(shapes)))
    return usable(images, problems, {})


def masks_by_image(names: list[str], problems: list[str]) -> dict[str, list[str]]:
    """Which masks belong to which image; see the module for the layouts."""
    stems: dict[str, list[str]] = defaultdict(list)
    for name in names:
        stems[_stem(name)].append(name)
    images: list[str] = []
    masks: list[str] = []
    for name in names:
        others = [n for n in stems[_stem(name)] if not n.lower().endswith(".png")]
        is_mask = name.lower().endswith(".png") and (
            bool(others) or _MASK.match(_stem(name)) or "masks" in name.split("/")[1:-1]
        )
        (masks if is_mask else images).append(name)
    by_stem = {_stem(name): name for name in images}
    found: dict[str, list[str]] = {name: [] for name in images}
    for name in masks:
        if image := by_stem.get(_image_stem(name, by_stem)):
            found[image].append(name)
        else:
            problems.append(f"{name}: there is no image to this mask")
    problems += [
        f"{name}: there is no mask to this image" for name, own in found.items() if not own
    ]
    return found


def _image_stem(name: str, known: dict[str, str]) -> str:
    """Where the image of a mask should be, without its ending."""
    folder, stem = posixpath.split(_stem(name))
    parts = ["images" if part == "masks" else part for part in folder.split("/")]
    beside = "/".join([*parts, stem])
    ending = _MASK.match(stem)
    return beside if beside in known or not ending else "/".join([*parts, ending["image"]])


def _stem(name: str) -> str:
    return posixpath.splitext(name)[0]


def _read_mask(data: bytes, size_hw: tuple[int, int]) -> Rle:
    values = decode_mask(data)
    if values.shape != size_hw:
        height, width = values.shape
        raise ValueError(f"is {width} x {height} pixels, but its image {size_hw[1]} x {size_hw[0]}")
    found = np.unique(values[values > 0])
    if 1 < len(found) <= _SOFT_VALUES:
        raise ValueError(f"has {len(found)} values besides 0; one file for each object is needed")
    return encode_mask(values > (found.max() / 2 if len(found) else 0))
