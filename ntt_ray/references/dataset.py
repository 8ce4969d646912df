"""A COCO file with masks to a validated `ReferenceSet`. All problems are reported in one error.

It knows COCO's reference side (classes, boxes, masks) and the images it names; it does not know
how features are made of them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ntt_ray import storage
from ntt_ray.coco_input import read_coco
from ntt_ray.errors import ImageError, InputError, NttRayError, ReferencesError, noted
from ntt_ray.images import RgbImage, decode_image
from ntt_ray.masks import rle_area, rle_bbox_xywh, segmentation_to_rle
from ntt_ray.records import ImageEntry, Reference, ReferenceSet
from ntt_ray.references.crops import cut_reference
from ntt_ray.references.sample import Profile
from ntt_ray.references.validate import TITLE, checked_choice
from ntt_ray.storage import Storage
from ntt_ray.yaml_input import is_unicode

MIN_MASK_AREA_PX = 16
OUTSIDE_TOLERANCE_PX = 1.0  # published COCO boxes stick out by rounding
READ_THREADS = 8
READ_AHEAD = 32  # images in memory


def parse_references(
    coco: Any,
    *,
    image_root: str,
    classes: Sequence[str] | None = None,
    shots: int | None = None,
    seed: int = 33,
    profile: Profile = "paper",
) -> ReferenceSet:
    """Check a COCO object and choose its references.

    Args:
        coco: the COCO file, opened by `read_coco` or parsed.
        image_root: folder or URI prefix of the images' file names.
        classes: names of the wanted classes; None takes all.
        shots: how many annotations of each class are sampled; None makes every annotation but
            crowds a reference.
        seed: seed of the sampling.
        profile: rules of the sampling, see `references.sample`.

    Raises:
        ReferencesError: with every problem found.
    """
    problems: list[str] = []
    choice = checked_choice(coco, classes, shots, seed, profile, problems)
    boxes = sum(not a.get("segmentation") for a in choice.annotations)
    if boxes:
        problems.append(
            f"{boxes} of {len(choice.annotations)} references have a box and no mask; let SAM2 "
            "make masks of the boxes: ntt-ray references from-boxes CONFIG --output REFS.json"
        )
    references = []
    for annotation in choice.annotations:
        if boxes == len(choice.annotations):
            break  # said above, and the same of every one
        image = choice.images[annotation["image_id"]]
        with noted(problems, f"annotation {annotation['id']}", ValueError, InputError):
            references.append(_reference(annotation, image, image_entry(image, image_root)))
    if problems:
        raise ReferencesError(TITLE, problems)
    return ReferenceSet(choice.classes, tuple(references))


def load_references(
    annotations: str, image_root: str | None, store: Storage, **choice: Any
) -> ReferenceSet:
    """Read and check a COCO file; `image_root` defaults to its folder.

    Which of its annotations are chosen, and the errors, are as for `parse_references`.
    """
    root = image_root or annotations.rsplit("/", 1)[0]
    return parse_references(read_coco(annotations, store), image_root=root, **choice)


def check_images(references: ReferenceSet, store: Storage, context_ratio: float) -> str:
    """Read every reference image once and check it against its annotations.

    Returns:
        SHA-256 over the references and the bytes of their images, in hex.

    Raises:
        ReferencesError: with every image that is missing, damaged or of another size, and every
            mask without a pixel in its box.
    """
    problems: list[str] = []
    digest = hashlib.sha256()
    by_image: dict[ImageEntry, list[Reference]] = {}
    for reference in references.references:
        by_image.setdefault(reference.image, []).append(reference)
    for entry, data, error in read_all(by_image, store):
        own = by_image[entry]
        if error is None:
            assert data is not None
            problems += _image_problems(own, data, context_ratio)
            digest.update(hashlib.sha256(data).digest())
        else:
            ids = ", ".join(str(r.annotation_id) for r in own)
            problems.append(f"image {entry.file_name} (of annotations {ids}): {error}")
        for r in own:
            text = json.dumps([r.annotation_id, r.category_id, r.size_hw, r.bbox_xywh, r.rle])
            digest.update(text.encode())
    if problems:
        raise ReferencesError(TITLE, problems)
    digest.update(repr(context_ratio).encode())
    digest.update(json.dumps([[c.category_id, c.name] for c in references.classes]).encode())
    return digest.hexdigest()


def read_image(reference: Reference, store: Storage) -> RgbImage:
    """The decoded image of a reference.

    Raises:
        ImageError: it cannot be decoded or has another size than the reference file says.
    """
    return decode_sized(store.read_bytes(reference.image.uri), reference.size_hw)


def decode_sized(data: bytes, size_hw: tuple[int, int]) -> RgbImage:
    """Decode an image and check that it has the size the reference file says.

    Raises:
        ImageError: it cannot be decoded or has another size.
    """
    image_rgb = decode_image(data)
    found = image_rgb.shape[:2]
    if tuple(found) != size_hw:
        turned = tuple(found[::-1]) == size_hw
        hint = "; annotate pixels as stored, without the turn that EXIF asks for" if turned else ""
        raise ImageError(
            f"is {found[1]} x {found[0]} pixels, but the reference file says "
            f"{size_hw[1]} x {size_hw[0]}{hint}"
        )
    return image_rgb


def picture_digests(entries: Collection[ImageEntry], store: Storage) -> dict[str, str]:
    """SHA-256 of the bytes of images by their URI; those that cannot be read are left out."""
    return {
        entry.uri: hashlib.sha256(data).hexdigest()
        for entry, data, _ in read_all(entries, store)
        if data is not None
    }


def read_all(
    entries: Collection[ImageEntry], store: Storage
) -> Iterator[tuple[ImageEntry, bytes | None, str | None]]:
    """The bytes of images by rising id, or why there are none; few at a time in memory."""
    ordered = sorted(entries, key=lambda e: e.image_id)

    def read(entry: ImageEntry) -> tuple[ImageEntry, bytes | None, str | None]:
        try:
            return entry, store.read_bytes(entry.uri), None
        except FileNotFoundError:
            return entry, None, f"there is no file {storage.redact(entry.uri)}"
        except NttRayError as error:
            return entry, None, str(error)

    with ThreadPoolExecutor(READ_THREADS) as pool:
        for start in range(0, len(ordered), READ_AHEAD):
            yield from pool.map(read, ordered[start : start + READ_AHEAD])


def _image_problems(own: list[Reference], data: bytes, context_ratio: float) -> list[str]:
    name = own[0].image.file_name
    problems: list[str] = []
    with noted(problems, f"image {name}", ImageError):
        image_rgb = decode_sized(data, own[0].size_hw)
        for reference in own:
            with noted(problems, f"annotation {reference.annotation_id} in {name}", ValueError):
                cut_reference(reference, image_rgb, context_ratio)
    return problems


def image_entry(image: Mapping[str, Any], image_root: str) -> ImageEntry:
    """The image of a COCO file below its root; ValueError when it has no name."""
    file_name = image.get("file_name")
    if not isinstance(file_name, str) or not file_name:
        raise ValueError(f"image {image['id']} has no file_name")
    if "\0" in file_name or not is_unicode(file_name):
        raise ValueError(f"image {image['id']} has a NUL or half a character in its file_name")
    return ImageEntry(image["id"], file_name, storage.below(image_root, file_name))


def checked_box(
    annotation: Mapping[str, Any], image: Mapping[str, Any]
) -> tuple[float, float, float, float]:
    """The box of an annotation, x, y, width, height in pixels.

    Raises:
        ValueError: it lies outside its image, or covers less than a pixel of it in width or height.
    """
    height, width = image["height"], image["width"]
    x, y, box_width, box_height = (float(value) for value in annotation["bbox"])
    slack = OUTSIDE_TOLERANCE_PX
    if min(x, y) < -slack or x + box_width > width + slack or y + box_height > height + slack:
        raise ValueError(
            f"its box {annotation['bbox']} lies outside its image of {width} x {height}"
        )
    x, box_width = (0.0, x + box_width) if x < 0 else (x, box_width)  # the far corner stays
    y, box_height = (0.0, y + box_height) if y < 0 else (y, box_height)
    if min(box_width, box_height, width - x, height - y) < 1:
        raise ValueError(
            f"its box {annotation['bbox']} is too tiny, or covers too little of its image of "
            f"{width} x {height}"
        )
    return (x, y, box_width, box_height)


def _reference(
    annotation: Mapping[str, Any], image: Mapping[str, Any], entry: ImageEntry
) -> Reference:
    height, width = image["height"], image["width"]
    bbox_xywh = checked_box(annotation, image)
    rle = segmentation_to_rle(annotation.get("segmentation"), height, width)
    area = rle_area(rle)
    if area == 0:
        raise ValueError("its mask is empty")
    if area < MIN_MASK_AREA_PX:
        raise ValueError(
            f"its mask of {area} pixels is too tiny to define a class; at least "
            f"{MIN_MASK_AREA_PX} pixels are needed (mask box {rle_bbox_xywh(rle)})"
        )
    ids = annotation["id"], annotation["category_id"]
    return Reference(*ids, entry, (height, width), bbox_xywh, rle)
