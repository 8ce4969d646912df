"""A COCO file with masks to a validated `ReferenceSet`. All problems are reported in one error.

It knows COCO's reference side (classes, boxes, masks) and the images it names; it does not know
how features are made of them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ntt_ray import storage
from ntt_ray.coco_input import read_coco
from ntt_ray.config import NegativesConfig
from ntt_ray.errors import ImageError, InputError, NttRayError, ReferencesError, noted
from ntt_ray.images import (
    RgbImage,
    annotated_orientation,
    decode_image,
    stored_size,
)
from ntt_ray.masks import rle_area, rle_bbox_xywh, segmentation_to_rle
from ntt_ray.records import MAX_CATEGORY_ID, ImageEntry, Reference, ReferenceSet
from ntt_ray.references.crops import cut_reference
from ntt_ray.references.doubts import doubts
from ntt_ray.references.sample import Profile
from ntt_ray.references.validate import TITLE, Crowds, checked_choice
from ntt_ray.settings import AnnotatedOrientation, DecodeSettings
from ntt_ray.storage import Storage
from ntt_ray.yaml_input import is_unicode

logger = logging.getLogger(__name__)

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
    crowds: Crowds = "ignore",
    orientation: AnnotatedOrientation = "auto",
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
        crowds: what annotations marked ``iscrowd: 1`` are.
        orientation: how the images were seen when they were annotated.

    Raises:
        ReferencesError: with every problem found.
    """
    problems: list[str] = []
    choice = checked_choice(coco, classes, shots, seed, profile, crowds, problems)
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
            entry = image_entry(image, image_root)
            references.append(_reference(annotation, image, entry, orientation))
    if problems:
        raise ReferencesError(TITLE, problems)
    return _numbered_from_1(ReferenceSet(choice.classes, tuple(references)))


def _numbered_from_1(references: ReferenceSet) -> ReferenceSet:
    """The same references; all category ids are raised where the least is below 1."""
    least = min(label.category_id for label in references.classes)
    if least >= 1:
        return references
    logger.warning(
        "references: category ids begin at %d, and several COCO readers drop category 0: in labels "
        "each is higher by %d; ground truth is compared by class name",
        least,
        1 - least,
    )
    raised = {c.name: c.category_id + 1 - least for c in references.classes}
    if max(raised.values()) > MAX_CATEGORY_ID:
        raise ReferencesError(TITLE, [f"category ids from {least} to {max(raised.values())}"])
    return references.renumbered(raised)


def chosen_references(block: NegativesConfig, store: Storage) -> ReferenceSet:
    """The references of a block of the config; errors as of `parse_references`."""
    choice = {**block.choice(), "orientation": block.orientation}
    references = load_references(block.annotations, block.image_root, store, **choice)
    for line in doubts(references):
        logger.warning("references: %s", line)
    return references


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
            mask without a pixel in its box; where no image can be read, with the first of them.
    """
    problems: list[str] = []
    unread = 0
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
            digest.update(_turned(data, own[0]))
        else:
            ids = ", ".join(str(r.annotation_id) for r in own)
            problems.append(f"image {entry.file_name} (of annotations {ids}): {error}")
            unread += 1
        for r in own:
            text = json.dumps([r.annotation_id, r.category_id, r.size_hw, r.bbox_xywh, r.rle])
            digest.update(text.encode())
    if 1 < unread == len(by_image):
        asked = "Is image_root the folder of these images, and may this machine read there?"
        problems = [f"none of the {unread} images can be read. {asked} The first: {problems[0]}"]
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
    data = store.read_bytes(reference.image.uri)
    return decode_sized(data, reference.size_hw, reference.orientation)


def decode_sized(
    data: bytes, size_hw: tuple[int, int], orientation: AnnotatedOrientation
) -> RgbImage:
    """Decode an image as its annotator saw it, and check that it has the size they say.

    Args:
        data: bytes of the encoded file.
        size_hw: height and width of the image according to its annotations.
        orientation: what is known of how it was seen, see `annotated_orientation`.

    Raises:
        ImageError: it cannot be decoded, has another size, may be turned, or is nearly black as it
            uses few of its 16 bits.
    """
    seen = annotated_orientation(data, size_hw, orientation)
    notes: set[str] = set()
    image_rgb = decode_image(data, DecodeSettings(orientation=seen), notes=notes)
    if "narrow" in notes:
        raise ImageError(
            "uses less than a fifth of the range of its 16 bits and would be nearly black; save it "
            "with 8 bits, stretched as decode.sixteen_bit stretches the images to label"
        )
    found = image_rgb.shape[:2]
    if tuple(found) != size_hw:
        is_turned = tuple(found[::-1]) == size_hw
        hint = "; it was turned, or lost its EXIF, after it was annotated" if is_turned else ""
        raise ImageError(
            f"is {found[1]} x {found[0]} pixels{' upright' if seen == 'upright' else ''}, but the "
            f"reference file says {size_hw[1]} x {size_hw[0]}{hint}"
        )
    return image_rgb


def read_all(
    entries: Collection[ImageEntry], store: Storage
) -> Iterator[tuple[ImageEntry, bytes | None, str | None]]:
    """The bytes of images by rising id, or why there are none; few at a time in memory."""
    ordered = sorted(entries, key=lambda e: e.image_id)

    def read(entry: ImageEntry) -> tuple[ImageEntry, bytes | None, str | None]:
        try:
            return entry, store.read_bytes(entry.uri), None
        except FileNotFoundError:
            windows = "; its name has \\ where paths have /" if "\\" in entry.file_name else ""
            why = f"there is no file {storage.redact(entry.uri)}"
            return entry, None, f"{why}{windows}{storage.missing_folder(entry.uri)}"
        except NttRayError as error:
            return entry, None, str(error)

    with ThreadPoolExecutor(READ_THREADS) as pool:
        for start in range(0, len(ordered), READ_AHEAD):
            yield from pool.map(read, ordered[start : start + READ_AHEAD])


def _image_problems(own: list[Reference], data: bytes, context_ratio: float) -> list[str]:
    name = own[0].image.file_name
    problems: list[str] = []
    with noted(problems, f"image {name}", ImageError):
        image_rgb = decode_sized(data, own[0].size_hw, own[0].orientation)
        for reference in own:
            with noted(problems, f"annotation {reference.annotation_id} in {name}", ValueError):
                cut_reference(reference, image_rgb, context_ratio)
    return problems


def _turned(data: bytes, reference: Reference) -> bytes:
    """What a digest must know of an image besides its bytes: nothing of one that has no turn."""
    with contextlib.suppress(ImageError):  # it is among the problems
        if stored_size(data)[1] != 1:
            return annotated_orientation(data, reference.size_hw, reference.orientation).encode()
    return b""


def image_entry(image: Mapping[str, Any], image_root: str) -> ImageEntry:
    """The image of a COCO file below its root; ValueError when it has no name."""
    file_name = image.get("file_name")
    if not isinstance(file_name, str) or not file_name:
        raise ValueError(f"image {image['id']} has no file_name")
    if "\0" in file_name or not is_unicode(file_name):
        raise ValueError(f"image {image['id']} has a NUL or half a character in its file_name")
    return ImageEntry(image["id"], file_name, storage.below(image_root, file_name))


def without_strays(annotation: Mapping[str, Any]) -> Any:
    """The ``segmentation`` of an annotation without parts of one or two points, which are said.

    A stray click leaves such parts beside the polygon that was drawn; alone they are no mask.
    """
    given = annotation.get("segmentation")
    if not isinstance(given, list):
        return given
    strays = [part for part in given if isinstance(part, list) and len(part) in (2, 4)]
    if not strays or len(strays) == len(given):
        return given
    logger.warning(
        "references: annotation %s: %d of the %d parts of its mask have one or two points and are "
        "left out",
        annotation.get("id"),
        len(strays),
        len(given),
    )
    return [part for part in given if part not in strays]


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
    annotation: Mapping[str, Any],
    image: Mapping[str, Any],
    entry: ImageEntry,
    orientation: AnnotatedOrientation,
) -> Reference:
    height, width = image["height"], image["width"]
    bbox_xywh = checked_box(annotation, image)
    rle = segmentation_to_rle(without_strays(annotation), height, width)
    area = rle_area(rle)
    if area == 0:
        raise ValueError("its mask is empty")
    if area < MIN_MASK_AREA_PX:
        raise ValueError(
            f"its mask of {area} pixels is too tiny to define a class; at least "
            f"{MIN_MASK_AREA_PX} pixels are needed (mask box {rle_bbox_xywh(rle)})"
        )
    ids = annotation["id"], annotation["category_id"]
    return Reference(*ids, entry, (height, width), bbox_xywh, rle, orientation)
