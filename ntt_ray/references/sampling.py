"""Choosing n references per class with a seed, exactly as the paper's few-shot sampler does.

METHOD 40 to 44. One random stream runs through all classes, so a class's choice depends on the
lists before it, but not on the number of shots: one shot is the first of five.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from typing import Any

MIN_SIDE_PX = 32
MIN_BORDER_PX = 10


def sample_annotations(
    annotations: Sequence[Mapping[str, Any]],
    sizes_hw: Mapping[int, tuple[int, int]],
    category_ids: Collection[int],
    shots: int,
    seed: int,
) -> tuple[dict[int, list[int]], list[int]]:
    """Choose `shots` annotations per class, each from another image.

    Args:
        annotations: all of a COCO file, in the file's order.
        sizes_hw: height and width by image id.
        category_ids: the selected classes.
        shots: references per class.
        seed: of Python's `random`.

    Returns:
        Annotation ids by category id, in the order drawn; and the categories with fewer than
        `shots` (which then have as many as there are).
    """
    by_category: dict[int, list[Mapping[str, Any]]] = {}
    for annotation in annotations:
        if annotation["category_id"] in category_ids and annotation.get("isimpossible", 0) != 1:
            by_category.setdefault(annotation["category_id"], []).append(annotation)
    stream = random.Random(seed)
    chosen: dict[int, list[int]] = {}
    for category_id, candidates in by_category.items():
        stream.shuffle(candidates)
        chosen[category_id] = _walk(candidates, sizes_hw, shots)
    short = [i for i in sorted(category_ids) if len(chosen.get(i, ())) < shots]
    return chosen, short


def _walk(
    candidates: Sequence[Mapping[str, Any]], sizes_hw: Mapping[int, tuple[int, int]], shots: int
) -> list[int]:
    used_images: set[int] = set()
    chosen: list[int] = []
    for annotation in candidates:
        if len(chosen) == shots:
            break
        image_id = annotation["image_id"]
        if image_id not in used_images and _is_valid(annotation, sizes_hw[image_id]):
            used_images.add(image_id)
            chosen.append(annotation["id"])
    return chosen


def _is_valid(annotation: Mapping[str, Any], size_hw: tuple[int, int]) -> bool:
    """Not a crowd, at least 32 x 32 pixels, at least 10 from every border; limits inclusive."""
    x, y, width, height = annotation["bbox"]
    return bool(
        annotation.get("iscrowd", 0) != 1
        and width >= MIN_SIDE_PX
        and height >= MIN_SIDE_PX
        and x >= MIN_BORDER_PX
        and y >= MIN_BORDER_PX
        and size_hw[1] - (x + width) >= MIN_BORDER_PX
        and size_hw[0] - (y + height) >= MIN_BORDER_PX
    )
