"""A folder per class, with images and PNG masks of the same name. It writes nothing.

::

    references/bolt/0001.jpg  0001.png                     the mask beside an image that is no PNG
    references/bolt/0002.png  0002_mask.png                or with the ending _mask
    references/bolt/0003.jpg  0003_mask_1.png  0003_mask_2.png      one for each object
    references/nut/images/0001.png  nut/masks/0001.png     or in folders of these names

A mask has one object: its pixels are those of the one value that is not 0, or, in a mask with soft
edges, those above half of the greatest. Where a PNG has transparent parts, they are outside.
Several values or colours, each with pixels around which all are the same, are several objects:
with `objects` ``value`` each is one, as in the PNGs of instance ids that many tools write.
"""

from __future__ import annotations

import posixpath
import re
from collections import defaultdict
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from ntt_ray import storage
from ntt_ray.errors import ImageError, InputError, noted
from ntt_ray.images import decode_mask, image_suffixes
from ntt_ray.masks import Rle, encode_mask
from ntt_ray.references.importers.shapes import (
    AnnotatedImage,
    Shape,
    check_size,
    mask,
    read_listed,
    usable,
)
from ntt_ray.references.importers.voc import is_voc
from ntt_ray.storage import Storage

_MASK = re.compile(r"^(?P<image>.+?)[._-]mask([._-]?\d+)?$")
_EDGE_PX = 3  # what is farther from the rest of the object is not its soft edge
_FEW_VALUES = 16  # more are a map of probabilities, whose greatest values may lie side by side
_NEAR = 0.02  # of the greatest value: this near to it, or to 0, even areas say nothing then
_LARGE = 0.05  # of all even pixels: as many are no accident
_SHOWN = 4


def read_folders(
    folder: str, store: Storage, objects: Literal["file", "value"] = "file"
) -> list[AnnotatedImage]:
    """Read all class folders.

    Args:
        folder: the folder of the class folders.
        store: access to files.
        objects: what is an object: what a file shows, or each value or colour of it but 0.

    Raises:
        InputError: there are none.
        ReferencesError: with every image without a mask, every mask without an image, and every
            file that cannot be used.
    """
    names = store.list_files(folder, image_suffixes())
    if is_voc(names):
        raise InputError(f"{storage.redact(folder)}: is a folder of Pascal VOC; use --from voc")
    if any(name.startswith("labels/") for name in store.list_files(folder, (".txt",))):
        raise InputError(f"{storage.redact(folder)}: has labels of YOLO; use --from yolo")
    if not any("/" in name for name in names):
        raise InputError(f"{storage.redact(folder)}: there is no folder of a class with images")
    problems = [f"{name}: lies in no class's folder" for name in names if "/" not in name]
    masks = masks_by_image([name for name in names if "/" in name], problems)
    images = []
    for image, own in sorted(masks.items()):
        label = image.split("/", 1)[0]
        shapes: list[Shape] = []
        with noted(problems, image, ImageError):
            size_hw = check_size(read_listed(folder, image, store), None)
            for name in own:
                with noted(problems, name, ImageError, ValueError):
                    rles = _read_masks(read_listed(folder, name, store), size_hw, objects)
                    shapes += [mask(label, None, rle) for rle in rles]
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


def _read_masks(data: bytes, size_hw: tuple[int, int], objects: str) -> list[Rle]:
    values, colours = decode_mask(data)
    if values.shape != size_hw:
        height, width = values.shape
        raise ValueError(f"is {width} x {height} pixels, but its image {size_hw[1]} x {size_hw[0]}")
    if objects == "value":
        return _each_value(values, colours)
    if (least := _least_objects(values, colours)) > 1:
        raise ValueError(
            f"shows {least} objects or more, by their values or colours; one file for each object "
            "is needed, or --objects value where each value is one"
        )
    return [encode_mask(values > values.max() / 2)]


def _each_value(values: npt.NDArray[np.int64], colours: npt.NDArray[np.int64]) -> list[Rle]:
    """A mask for each value or colour inside, by rising value; ValueError for soft edges."""
    inside = values > 0
    kinds = np.unique(colours[inside])
    solid = np.unique(colours[inside & _is_even(colours)])
    if len(soft := np.setdiff1d(kinds, solid)):
        shown = ", ".join(str(kind) for kind in soft[:_SHOWN].tolist())
        raise ValueError(
            f"{len(soft)} of its {len(kinds)} values have no pixel around which all are the same, "
            f"so they may be soft edges: {shown}{', ...' if len(soft) > _SHOWN else ''}; save "
            "the mask without smoothing, and delete what is smaller than 3 x 3 pixels"
        )
    return [encode_mask(inside & (colours == kind)) for kind in kinds.tolist()]


def _least_objects(values: npt.NDArray[np.int64], colours: npt.NDArray[np.int64]) -> int:
    """How many objects a mask shows at least.

    Args:
        values: opacity, index or brightness of each pixel, 0 outside: int64 ``(h, w)``.
        colours: what tells objects apart, the same as `values` where there is no colour.
    """
    inside = values > 0
    kinds = np.unique(colours[inside])
    if len(kinds) < 2:
        return len(kinds)
    even = inside & _is_even(colours)
    solid, first, counts = np.unique(colours[even], return_index=True, return_counts=True)
    if len(kinds) <= _FEW_VALUES:
        main = solid[counts.argmax()] if len(solid) else values[inside].max()
        edge = inside & ~_near(colours == main, _EDGE_PX)
        return max(len(solid), 2 if edge.any() else 1)
    is_large = counts >= _LARGE * counts.sum()
    if values is colours:  # those of a map of probabilities lie side by side at both ends
        level = values[even][first] / values.max()
        between = (level > _NEAR) & (level < 1 - _NEAR)
        is_even_map = counts[between].sum() < _LARGE * counts.sum()
        return 1 if is_even_map else 1 + int(between.sum())
    return max(1, int(is_large.sum()))


def _is_even(values: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Where all eight neighbours of a pixel have its value."""
    around = np.lib.stride_tricks.sliding_window_view(np.pad(values, 1, mode="edge"), (3, 3))
    same: npt.NDArray[np.bool_] = (around == values[..., None, None]).all(axis=(2, 3))
    return same


def _near(where: npt.NDArray[np.bool_], distance: int) -> npt.NDArray[np.bool_]:
    """What lies in a square around pixels that are set."""
    wider = Image.fromarray(where.astype(np.uint8)).filter(ImageFilter.MaxFilter(2 * distance + 1))
    return np.asarray(wider) > 0
