"""COCO files as the benchmarks publish them, made fit for the job: ids, boxes and file names.

Some have text as image ids, a class with the id 0, boxes that leave their image, or web addresses
in place of file names. Nothing is judged here that the job checks itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ntt_ray import storage
from ntt_ray.errors import InputError
from ntt_ray.json_input import read_json
from ntt_ray.masks import is_finite_number
from ntt_ray.reproduce.declaration import Needed
from ntt_ray.storage import Storage

KEYS = ("images", "annotations", "categories")
MIN_SIDE_PX = 1.0


def find_needed(data: str, needed: Needed, store: Storage) -> str | None:
    """Where a needed file lies in the data folder; None where it is missing."""
    places = (storage.join(data, place) for place in needed.places)
    return next((place for place in places if store.exists(place)), None)


def missing_line(data: str, needed: Needed) -> str:
    """What is missing and where to get it, for people."""
    where = storage.redact(storage.join(data, needed.places[0]))
    return f"{where}: no such file; get it from {needed.source}"


def load_coco(
    data: str,
    needed: Needed,
    store: Storage,
    *,
    boxes_only: bool = False,
    names_from_urls: bool = False,
) -> dict[str, Any]:
    """Read a COCO file of the data folder and make it fit, see `tidied`.

    Args:
        data: the data folder.
        needed: the file that is read.
        store: access to files.
        boxes_only: whether masks are left out, as `tidied` does it.
        names_from_urls: file names are the last folder and file of ``coco_url``, as for LVIS.

    Raises:
        InputError: it is missing, no COCO file, or has something in it that makes no sense.
    """
    uri = find_needed(data, needed, store)
    if uri is None:
        raise InputError(missing_line(data, needed))
    coco = read_json(uri, store)
    blocks = [coco.get(key) for key in KEYS] if isinstance(coco, dict) else []
    if not blocks or not all(
        isinstance(block, list) and all(isinstance(item, dict) for item in block)
        for block in blocks
    ):
        raise InputError(f"{storage.redact(uri)}: not a COCO file with {', '.join(KEYS)}")
    try:
        if names_from_urls:
            coco = {**coco, "images": [_named_by_url(image) for image in coco["images"]]}
        return tidied(coco, boxes_only=boxes_only)
    except InputError as error:
        raise InputError(f"{storage.redact(uri)}: {error}") from None


def tidied(coco: Mapping[str, Any], *, boxes_only: bool = False) -> dict[str, Any]:
    """Whole-number ids of 1 and more, and boxes within their image.

    Ids that are fit already stay, so that the sample of references is the published one. With
    `boxes_only`, masks are left out and boxes are cut at the image's border.

    Raises:
        InputError: an annotation of an image or class that is not in the file.
    """
    images, categories = _ids(coco["images"], "images"), _ids(coco["categories"], "categories")
    for category in coco["categories"]:
        if not isinstance(category.get("name"), str):
            raise InputError(f"category {category['id']!r}: has no name")
    own = _ids(coco["annotations"], "annotations")
    sizes = {i["id"]: (i.get("width"), i.get("height")) for i in coco["images"]}
    unchanged = not boxes_only and all(old == new for ids in (images, categories, own)
                                       for old, new in ids.items())  # fmt: skip
    annotations = []
    for annotation in coco["annotations"]:
        image, category = annotation.get("image_id"), annotation.get("category_id")
        if not _known(image, images) or not _known(category, categories):
            raise InputError(
                f"annotation {annotation['id']!r}: image {image!r} or category {category!r} is not "
                "in its file"
            )
        if unchanged:  # the large files are: no second copy of a million objects
            annotations.append(annotation)
            continue
        found = {**annotation, "id": own[annotation["id"]]}
        found |= {"image_id": images[image], "category_id": categories[category]}
        if boxes_only:
            found["bbox"] = _within(found.get("bbox"), sizes[image])
            found.pop("segmentation", None)
            if found["bbox"] is None:
                continue
            found["area"] = found["bbox"][2] * found["bbox"][3]
        annotations.append(found)
    return {
        "info": {},
        "licenses": [],
        "images": [{**image, "id": images[image["id"]]} for image in coco["images"]],
        "annotations": annotations,
        "categories": [{**c, "id": categories[c["id"]]} for c in coco["categories"]],
    }


def _named_by_url(image: Mapping[str, Any]) -> dict[str, Any]:
    url = image.get("coco_url")
    if not isinstance(url, str) or url.count("/") < 2:
        raise InputError(f"image {image.get('id')!r}: its coco_url names no folder and file")
    return {**image, "file_name": "/".join(url.split("/")[-2:])}


def of_classes(coco: Mapping[str, Any], category_ids: Iterable[int]) -> tuple[str, ...]:
    """Names of classes by their ids.

    Raises:
        InputError: one is not in the file.
    """
    names = {category["id"]: category["name"] for category in coco["categories"]}
    missing = [i for i in category_ids if i not in names]
    if missing:
        raise InputError(f"the annotations have no category {', '.join(map(str, missing))}")
    return tuple(names[i] for i in category_ids)


def _ids(items: Sequence[Mapping[str, Any]], what: str) -> dict[Any, int]:
    """New ids by old ones: the same where all are whole numbers above 0, else 1, 2, ..."""
    old = [item.get("id") for item in items]
    if not all(isinstance(i, int | str) for i in old) or len(set(old)) < len(old):
        raise InputError(f"{what}: each needs an id of its own, a whole number or a text")
    fit = all(isinstance(i, int) and not isinstance(i, bool) and i > 0 for i in old)
    return {i: i if fit else n for n, i in enumerate(old, start=1)}  # type: ignore[misc]


def _known(identity: Any, ids: Mapping[Any, int]) -> bool:
    return isinstance(identity, int | str) and identity in ids


def _within(box: Any, size_wh: tuple[Any, Any]) -> list[float] | None:
    """The part of a box inside its image; None where that is less than a pixel wide or high."""
    if not isinstance(box, list) or len(box) != 4 or not all(map(is_finite_number, box)):
        raise InputError(f"a bbox is {box!r}, not [x, y, width, height]")
    if not all(map(is_finite_number, size_wh)):
        raise InputError("an image has no width and height")
    x1, y1 = max(0.0, float(box[0])), max(0.0, float(box[1]))
    x2, y2 = min(float(size_wh[0]), box[0] + box[2]), min(float(size_wh[1]), box[1] + box[3])
    inside = x2 - x1 >= MIN_SIDE_PX and y2 - y1 >= MIN_SIDE_PX
    return [x1, y1, x2 - x1, y2 - y1] if inside else None
