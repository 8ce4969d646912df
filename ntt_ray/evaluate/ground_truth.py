"""Ground truth and results as anybody's files, checked before pycocotools sees them.

pycocotools trusts its input: wrong types end in tracebacks, damaged masks in anything. It does not
know what is compared, nor how.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from ntt_ray.errors import InputError
from ntt_ray.masks import is_finite_number, measure_rles, segmentation_to_rle

MAX_ID = 2**53
RLES_AT_ONCE = 100
SHOWN = 10


def check_ground_truth(coco: Any) -> dict[str, Any]:
    """A COCO instances file whose ids, names, sizes and boxes can be used; masks are not looked at.

    Raises:
        InputError: with the first problems found.
    """
    keys = ("images", "annotations", "categories")
    if not isinstance(coco, dict) or not all(isinstance(coco.get(key), list) for key in keys):
        raise InputError("ground_truth: not a COCO file with images, annotations and categories")
    problems = [
        f"{key}[{position}]: {problem}"
        for key in keys
        for position, item in enumerate(coco[key])
        for problem in _item_problems(key, item)
    ]
    for key in keys if not problems else ():
        if len({item["id"] for item in coco[key]}) < len(coco[key]):
            problems.append(f"{key}: ids are used more than once")
    if problems:
        more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise InputError(f"ground_truth: {'; '.join(problems[:SHOWN])}{more}")
    return coco


def with_checked_masks(
    annotations: Sequence[Mapping[str, Any]], images: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The annotations with their masks as compressed RLEs, which are valid.

    Raises:
        InputError: an annotation without a usable mask.
    """
    sizes = {image["id"]: (image["height"], image["width"]) for image in images}
    checked = []
    for annotation in annotations:
        try:
            rle = segmentation_to_rle(
                annotation.get("segmentation"), *sizes[annotation["image_id"]]
            )
        except ValueError as error:
            name = f"annotation {annotation['id']}"
            raise InputError(f"ground_truth: {name} {error}") from None
        checked.append({**annotation, "segmentation": rle})
    return checked


def check_results(results: Any, name: str) -> list[Mapping[str, Any]]:
    """Detections in COCO results format that can be used, masks included.

    Raises:
        InputError: with the first problem found.
    """
    if not isinstance(results, list):
        raise InputError(f"{name}: not a list of results; merge again")
    for position, item in enumerate(results):
        if problem := _result_problem(item):
            raise InputError(f"{name}: result {position + 1} {problem}; merge again")
    rest = iter(enumerate(results, start=1))
    while part := list(islice(rest, RLES_AT_ONCE)):
        masks = [item["segmentation"] for _, item in part]
        heights, widths = zip(*(mask["size"] for mask in masks), strict=True)
        figures = measure_rles([mask["counts"] for mask in masks], heights, widths)
        for index, problem in figures.problems.items():
            raise InputError(f"{name}: result {part[index][0]} has an RLE {problem}; merge again")
    return results


def _item_problems(key: str, item: Any) -> list[str]:
    if not isinstance(item, dict):
        return ["is no object"]
    problems = [] if _is_id(item.get("id")) else ["has no whole-number id"]
    if key == "annotations":
        if not (_is_id(item.get("image_id")) and _is_id(item.get("category_id"))):
            problems.append("has no whole-number image_id and category_id")
        if not _is_box(item.get("bbox")):
            problems.append("its bbox is not [x, y, width, height]")
        if not is_finite_number(item.get("area", 0)):
            problems.append("its area is no number")
        if item.get("iscrowd", 0) not in (0, 1):
            problems.append("its iscrowd is neither 0 nor 1")
        if item.get("ignore", 0) not in (0, 1):
            problems.append("its ignore is neither 0 nor 1")
        return problems
    name = "file_name" if key == "images" else "name"
    if not isinstance(item.get(name), str):
        problems.append(f"has no {name}")
    if key == "images" and not all(_is_side(item.get(side)) for side in ("height", "width")):
        problems.append("needs width and height as whole numbers above 0")
    for block in ("neg_category_ids", "not_exhaustive_category_ids") if key == "images" else ():
        ids = item.get(block, [])
        if not isinstance(ids, list) or not all(_is_id(value) for value in ids):
            problems.append(f"its {block} are no list of category ids")
    return problems


def _result_problem(item: Any) -> str | None:
    if not isinstance(item, dict):
        return "is no object"
    if not (_is_id(item.get("image_id")) and _is_id(item.get("category_id"))):
        return "has no whole-number image_id and category_id"
    if not _is_box(item.get("bbox")) or not is_finite_number(item.get("score")):
        return "has no bbox and score"
    mask = item.get("segmentation")
    size = mask.get("size") if isinstance(mask, dict) else None
    if not isinstance(size, list) or len(size) != 2 or not all(_is_side(v) for v in size):
        return "has no mask with a size"
    counts = mask.get("counts") if isinstance(mask, dict) else None
    return None if isinstance(counts, str) else "has a mask whose counts are no string"


def _is_id(value: Any) -> bool:
    return type(value) is int and abs(value) < MAX_ID


def _is_side(value: Any) -> bool:
    return type(value) is int and 0 < value < 2**31


def _is_box(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(is_finite_number(v) for v in value)
