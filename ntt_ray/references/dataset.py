"""A COCO file with masks to a validated `ReferenceSet`. All problems are reported in one error.

It knows COCO's reference side (classes, boxes, masks) and the images it names; it does not know
how features are made of them.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeGuard

import numpy as np

from ntt_ray import storage
from ntt_ray.errors import ImageError, InputError, NttRayError, ReferencesError
from ntt_ray.images import RgbImage, decode_image
from ntt_ray.masks import rle_area, rle_bbox_xywh, segmentation_to_rle
from ntt_ray.records import ClassLabel, ImageEntry, Reference, ReferenceSet
from ntt_ray.references.crops import cut_reference
from ntt_ray.references.sampling import sample_annotations
from ntt_ray.storage import Storage

logger = logging.getLogger(__name__)

MIN_MASK_AREA_PX = 16
OUTSIDE_TOLERANCE_PX = 1.0  # published COCO boxes stick out by rounding
READ_THREADS = 8
_TITLE = "the references cannot be used:"


def parse_references(
    coco: Any,
    *,
    image_root: str,
    classes: Sequence[str] | None = None,
    shots: int | None = None,
    seed: int = 33,
) -> ReferenceSet:
    """Check a COCO object and choose its references.

    Args:
        coco: the parsed JSON.
        image_root: folder or URI prefix of the images' file names.
        classes: names of the wanted classes; None takes all.
        shots: None makes every annotation but crowds a reference; n draws n per class.
        seed: of the draw.

    Raises:
        ReferencesError: with every problem found.
    """
    problems: list[str] = []
    images = _by_id(coco, "images", problems)
    categories = _by_id(coco, "categories", problems)
    annotations = _by_id(coco, "annotations", problems)
    if problems:
        raise ReferencesError(_TITLE, problems)
    labels = _selected_classes(categories, classes, problems)
    usable = [a for a in annotations.values() if _is_sound(a, images, categories, problems)]
    chosen = _chosen(usable, images, labels, shots, seed, problems)
    references = []
    for annotation in chosen:
        try:
            image = _image_entry(images[annotation["image_id"]], image_root)
            references.append(_reference(annotation, images[annotation["image_id"]], image))
        except (ValueError, InputError) as error:
            problems.append(f"annotation {annotation['id']}: {error}")
    counts = Counter(a["category_id"] for a in chosen)
    problems += [
        f"class {label.name!r} (id {label.category_id}) has no reference; annotate one, or name "
        "the wanted classes in references.classes"
        for label in labels
        if not counts[label.category_id]
    ]
    if problems:
        raise ReferencesError(_TITLE, problems)
    return ReferenceSet(tuple(labels), tuple(references))


def load_references(
    annotations: str,
    image_root: str | None,
    store: Storage,
    *,
    classes: Sequence[str] | None = None,
    shots: int | None = None,
    seed: int = 33,
) -> ReferenceSet:
    """Read and check a COCO file; see `parse_references`. `image_root` defaults to its folder."""
    coco = read_json(annotations, store)
    root = image_root or annotations.rsplit("/", 1)[0]
    return parse_references(coco, image_root=root, classes=classes, shots=shots, seed=seed)


def read_json(uri: str, store: Storage) -> Any:
    """Parse a JSON file.

    Raises:
        InputError: missing or not JSON.
    """
    try:
        return json.loads(store.read_bytes(uri))
    except FileNotFoundError:
        raise InputError(f"{storage.redact(uri)}: no such file") from None
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{storage.redact(uri)}: not JSON ({error})") from None


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
    for entry, data, error in _read_all(references, store):
        own = [r for r in references.references if r.image == entry]
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
        raise ReferencesError(_TITLE, problems)
    digest.update(repr(context_ratio).encode())
    digest.update(json.dumps([[c.category_id, c.name] for c in references.classes]).encode())
    return digest.hexdigest()


def read_image(reference: Reference, store: Storage) -> RgbImage:
    """The decoded image of a reference.

    Raises:
        ImageError: it cannot be decoded or has another size than the reference file says.
    """
    return _decoded(reference, store.read_bytes(reference.image.uri))


def _decoded(reference: Reference, data: bytes) -> RgbImage:
    image_rgb = decode_image(data)
    found, height_width = image_rgb.shape[:2], reference.size_hw
    if tuple(found) != height_width:
        raise ImageError(
            f"is {found[1]} x {found[0]} pixels, but the reference file says "
            f"{height_width[1]} x {height_width[0]}"
        )
    return image_rgb


def _read_all(
    references: ReferenceSet, store: Storage
) -> Iterator[tuple[ImageEntry, bytes | None, str | None]]:
    entries = sorted({r.image for r in references.references}, key=lambda e: e.image_id)

    def read(entry: ImageEntry) -> tuple[ImageEntry, bytes | None, str | None]:
        try:
            return entry, store.read_bytes(entry.uri), None
        except FileNotFoundError:
            return entry, None, f"there is no file {storage.redact(entry.uri)}"
        except NttRayError as error:
            return entry, None, str(error)

    with ThreadPoolExecutor(READ_THREADS) as pool:
        yield from pool.map(read, entries)


def _image_problems(own: list[Reference], data: bytes, context_ratio: float) -> list[str]:
    name = own[0].image.file_name
    try:
        image_rgb = _decoded(own[0], data)
    except ImageError as error:
        return [f"image {name}: {error}"]
    problems = []
    for reference in own:
        try:
            cut_reference(reference, image_rgb, context_ratio)
        except ValueError as error:
            problems.append(f"annotation {reference.annotation_id} in {name}: {error}")
    return problems


def _by_id(coco: Any, key: str, problems: list[str]) -> dict[int, dict[str, Any]]:
    block = coco.get(key) if isinstance(coco, dict) else None
    if not isinstance(block, list):
        problems.append(f"the COCO file has no list {key!r}")
        return {}
    items: dict[int, dict[str, Any]] = {}
    for position, item in enumerate(block):
        identity = item.get("id") if isinstance(item, dict) else None
        if not _is_int(identity):
            problems.append(f"{key}[{position}]: has no whole-number id")
        elif identity in items:
            problems.append(f"{key}[{position}]: id {identity} is used twice")
        else:
            items[identity] = item
    return items


def _selected_classes(
    categories: dict[int, dict[str, Any]], classes: Sequence[str] | None, problems: list[str]
) -> list[ClassLabel]:
    labels = []
    for identity, category in sorted(categories.items()):
        name = category.get("name")
        if not isinstance(name, str) or not name:
            problems.append(f"category {identity}: has no name")
        elif classes is None or name in classes:
            labels.append(ClassLabel(identity, name))
    if any(label.category_id < 1 for label in labels):
        problems.append("category ids must be 1 or more: several COCO readers drop category 0")
    known = [str(category.get("name")) for category in categories.values()]
    for name in classes or ():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(known))}"
            problems.append(f"references.classes: unknown class {name!r}; {hint}")
    for name, count in Counter(label.name for label in labels).items():
        if count > 1:
            problems.append(f"categories: the name {name!r} is used {count} times")
    return labels


def _is_sound(
    annotation: dict[str, Any],
    images: dict[int, dict[str, Any]],
    categories: dict[int, dict[str, Any]],
    problems: list[str],
) -> bool:
    """Whether ids and the box make sense; the mask is looked at only if it becomes a reference."""
    name = f"annotation {annotation['id']}"
    before = len(problems)
    image_id, category_id = annotation.get("image_id"), annotation.get("category_id")
    image = images.get(image_id) if _is_int(image_id) else None
    if image is None:
        problems.append(f"{name}: its image {image_id!r} is not in the file")
    elif not all(_is_int(v) and v > 0 for v in _size_hw(image)):
        problems.append(f"image {image_id}: needs width and height as whole numbers above 0")
    if not _is_int(category_id) or category_id not in categories:
        problems.append(f"{name}: unknown class id {category_id!r}")
    box = annotation.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(_is_finite(v) for v in box):
        problems.append(f"{name}: its bbox is not [x, y, width, height]")
    return len(problems) == before


def _size_hw(image: dict[str, Any]) -> tuple[Any, Any]:
    return image.get("height"), image.get("width")


def _chosen(
    annotations: list[dict[str, Any]],
    images: dict[int, dict[str, Any]],
    labels: list[ClassLabel],
    shots: int | None,
    seed: int,
    problems: list[str],
) -> list[dict[str, Any]]:
    wanted = {label.category_id: label.name for label in labels}
    if shots is None:
        chosen = [a for a in annotations if a["category_id"] in wanted and not a.get("iscrowd")]
        if crowds := sum(bool(a.get("iscrowd")) for a in annotations):
            logger.info("%d crowd regions are not used as references", crowds)
        return chosen
    sizes = {i: (image["height"], image["width"]) for i, image in images.items()}
    by_category, short = sample_annotations(annotations, sizes, wanted, shots, seed)
    problems += [
        f"class {wanted[i]!r} (id {i}) has {len(by_category.get(i, ()))} valid references for "
        f"{shots} shots (at least 32 x 32 pixels, 10 from the border, no crowd, one per image)"
        for i in short
    ]
    ids = {i for chosen_ids in by_category.values() for i in chosen_ids}
    return [a for a in annotations if a["id"] in ids]


def _image_entry(image: dict[str, Any], image_root: str) -> ImageEntry:
    file_name = image.get("file_name")
    if not isinstance(file_name, str) or not file_name:
        raise ValueError(f"image {image['id']} has no file_name")
    return ImageEntry(image["id"], file_name, storage.below(image_root, file_name))


def _reference(annotation: dict[str, Any], image: dict[str, Any], entry: ImageEntry) -> Reference:
    height, width = image["height"], image["width"]
    x, y, box_width, box_height = (float(value) for value in annotation["bbox"])
    slack = OUTSIDE_TOLERANCE_PX
    if min(x, y) < -slack or x + box_width > width + slack or y + box_height > height + slack:
        raise ValueError(
            f"its box {annotation['bbox']} lies outside its image of {width} x {height}"
        )
    rle = segmentation_to_rle(annotation.get("segmentation"), height, width)
    area = rle_area(rle)
    if area == 0:
        raise ValueError("its mask is empty")
    tight = rle_bbox_xywh(rle)
    if area < MIN_MASK_AREA_PX or min(box_width, box_height) < 1:
        raise ValueError(
            f"its mask of {area} pixels and box of {box_width:g} x {box_height:g} is too tiny to "
            f"define a class; at least {MIN_MASK_AREA_PX} pixels are needed (mask box {tight})"
        )
    return Reference(
        annotation_id=annotation["id"],
        category_id=annotation["category_id"],
        image=entry,
        size_hw=(height, width),
        bbox_xywh=(max(0.0, x), max(0.0, y), box_width, box_height),
        rle=rle,
    )


def _is_int(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_finite(value: Any) -> bool:
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))
    )
