"""Sampling n references per class with a seed: as the paper's few-shot sampler does, or plainly.

In both profiles one shot is the first of five.

* ``paper``, METHOD 40 to 44: each of at least 32 x 32 pixels, 10 from every border, no crowd, one
  per class and image. One random stream runs through all classes, so a class's sample depends on
  the lists before it.
* ``plain``, for small data sets: any that is no crowd and has a box of at least one pixel. Each
  class has a stream of its own, from the seed and its id. Those of a class are put in the order of
  their ids and shuffled; the first of each image come first, so that an image serves a class twice
  only when there are too few images.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from typing import Literal

from ntt_ray.coco_input import Annotation

Profile = Literal["paper", "plain"]

MIN_SIDE_PX = 32
MIN_BORDER_PX = 10


def sample_annotations(
    annotations: Sequence[Annotation],
    sizes_hw: Mapping[int, tuple[int, int]],
    category_ids: Collection[int],
    shots: int,
    seed: int,
    last_resort: Collection[int] = (),
) -> tuple[dict[int, list[int]], list[int]]:
    """Sample `shots` annotations per class, each from another image.

    Args:
        annotations: all annotations of a COCO file, in the file's order.
        sizes_hw: height and width by image id.
        category_ids: the selected classes.
        shots: how many references a class gets.
        seed: seed of Python's `random`.
        last_resort: ids of annotations that a class without a valid one takes, the first of the
            same shuffled list, whatever image they are in (METHOD 44).

    Returns:
        Annotation ids by category id, in the order they were taken; and the categories with fewer
        than `shots` (which then have as many as there are).
    """
    by_category: dict[int, list[Annotation]] = {}
    for annotation in annotations:
        if annotation.category_id in category_ids and annotation.isimpossible != 1:
            by_category.setdefault(annotation.category_id, []).append(annotation)
    stream = random.Random(seed)
    chosen: dict[int, list[int]] = {}
    for category_id, candidates in by_category.items():
        stream.shuffle(candidates)
        valid = _walk(candidates, sizes_hw, shots)
        chosen[category_id] = valid or [a.id for a in candidates if a.id in last_resort][:shots]
    short = [i for i in sorted(category_ids) if len(chosen.get(i, ())) < shots]
    return chosen, short


def sample_plainly(
    annotations: Sequence[Annotation], category_ids: Collection[int], shots: int, seed: int
) -> tuple[dict[int, list[int]], list[int]]:
    """Sample `shots` annotations per class without rules on size; see `sample_annotations`."""
    by_category: dict[int, list[Annotation]] = {i: [] for i in sorted(category_ids)}
    for annotation in sorted(annotations, key=lambda a: a.id):
        if annotation.category_id in by_category and _is_usable(annotation):
            by_category[annotation.category_id].append(annotation)
    chosen = {}
    for category_id, candidates in by_category.items():
        random.Random(f"{seed} {category_id}").shuffle(candidates)
        chosen[category_id] = [a.id for a in _new_images_first(candidates)[:shots]]
    return chosen, [i for i, ids in chosen.items() if len(ids) < shots]


def _new_images_first(candidates: Sequence[Annotation]) -> list[Annotation]:
    first: dict[int, Annotation] = {}
    for annotation in candidates:
        first.setdefault(annotation.image_id, annotation)
    others = [a for a in candidates if first[a.image_id] is not a]
    return [*first.values(), *others]


def _is_usable(annotation: Annotation) -> bool:
    _, _, width, height = annotation.bbox
    flagged = annotation.iscrowd == 1 or annotation.isimpossible == 1
    return not flagged and min(width, height) >= 1


def _walk(
    candidates: Sequence[Annotation], sizes_hw: Mapping[int, tuple[int, int]], shots: int
) -> list[int]:
    used_images: set[int] = set()
    chosen: list[int] = []
    for annotation in candidates:
        if len(chosen) == shots:
            break
        image_id = annotation.image_id
        if image_id not in used_images and _is_valid(annotation, sizes_hw[image_id]):
            used_images.add(image_id)
            chosen.append(annotation.id)
    return chosen


def _is_valid(annotation: Annotation, size_hw: tuple[int, int]) -> bool:
    """Not a crowd, at least 32 x 32 pixels, at least 10 from every border; limits inclusive."""
    x, y, width, height = annotation.bbox
    return bool(
        annotation.iscrowd != 1
        and width >= MIN_SIDE_PX
        and height >= MIN_SIDE_PX
        and x >= MIN_BORDER_PX
        and y >= MIN_BORDER_PX
        and size_hw[1] - (x + width) >= MIN_BORDER_PX
        and size_hw[0] - (y + height) >= MIN_BORDER_PX
    )
