"""Which class is taken for which: objects and detections matched at IoU 0.5, whatever their class.

For the report's table; the official metrics match within a class. It knows COCO annotations and
results with the same ids, not where they come from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ntt_ray.evaluate.average_precision import Items, Kind, Selection, by_image, falling_score
from ntt_ray.evaluate.matching import MATCH_IOU
from ntt_ray.masks import mask_ious, overlap_shares

MAX_CLASSES = 20
OTHERS, NOTHING = "other classes", "nothing"


def confusion(
    selection: Selection, kind: Kind, names: Mapping[int, str], score: float
) -> dict[str, Any]:
    """Count objects by their class and the class they were taken for.

    Args:
        selection: ground truth and detections to compare.
        kind: what is compared, boxes or masks.
        names: names of the classes by category id; those with the most objects get their own rows.
        score: detections below it are left out.

    Returns:
        ``score``; ``labels``, the last one stands for nothing; ``matrix``, with a row for each
        class in the ground truth and a column for each found class: its last row counts false
        alarms, its last column missed objects.
    """
    objects = [a for a in selection.truth["annotations"] if not a["iscrowd"]]
    shown = most_frequent(objects, names, MAX_CLASSES)
    labels = [names[i] for i in shown] + ([OTHERS] if len(names) > MAX_CLASSES else []) + [NOTHING]
    place = {i: len(labels) - 2 for i in names} | {i: n for n, i in enumerate(shown)}
    matrix = np.zeros((len(labels), len(labels)), dtype=np.int64)
    truths = by_image(objects)
    founds = by_image(d for d in selection.detections if d["score"] >= score)
    crowds = by_image(a for a in selection.truth["annotations"] if a["iscrowd"])
    for image_id in truths.keys() | founds.keys():
        own, kept = truths[image_id], sorted(founds[image_id], key=falling_score)
        taken = _taken_for(kept, own, kind)
        for number, detection in enumerate(kept):
            if number not in taken.values() and not _in_crowd(detection, crowds[image_id], kind):
                matrix[-1, place[detection["category_id"]]] += 1
        for number, annotation in enumerate(own):
            by = taken.get(number)
            column = -1 if by is None else place[kept[by]["category_id"]]
            matrix[place[annotation["category_id"]], column] += 1
    return {"score": score, "labels": labels, "matrix": matrix.tolist()}


def most_frequent(
    objects: Iterable[Mapping[str, Any]], names: Mapping[int, str], limit: int
) -> list[int]:
    """Ids of the classes with the most objects, rising."""
    counts = Counter(item["category_id"] for item in objects)
    return sorted(sorted(names, key=lambda i: (-counts[i], i))[:limit])


def _taken_for(detections: Items, objects: Items, kind: Kind) -> dict[int, int]:
    """Object to detection: pairs of one class come first, then the larger IoU."""
    ious = _ious(detections, objects, kind)
    pairs = [
        (detections[d]["category_id"] != objects[o]["category_id"], -ious[d, o], d, o)
        for d, o in np.argwhere(ious >= MATCH_IOU).tolist()
    ]
    taken: dict[int, int] = {}
    used: set[int] = set()
    for _, _, d, o in sorted(pairs):
        if o not in taken and d not in used:
            taken[o] = d
            used.add(d)
    return taken


def _in_crowd(detection: Mapping[str, Any], crowds: Items, kind: Kind) -> bool:
    own = [c for c in crowds if c["category_id"] == detection["category_id"]]
    return bool((_ious([detection], own, kind, of_first=True) >= MATCH_IOU).any())


def _ious(
    first: Items, second: Items, kind: Kind, *, of_first: bool = False
) -> npt.NDArray[np.float64]:
    """IoU of all pairs; with `of_first` the share of the first that lies in the second."""
    if not first or not second:
        return np.zeros((len(first), len(second)))
    if kind == "segm":
        rles = [item["segmentation"] for item in first], [item["segmentation"] for item in second]
        return overlap_shares(*rles) if of_first else mask_ious(*rles)
    a = np.array([item["bbox"] for item in first], dtype=np.float64)[:, None]
    b = np.array([item["bbox"] for item in second], dtype=np.float64)[None]
    low, high = np.maximum(a[..., :2], b[..., :2]), np.minimum(_corner(a), _corner(b))
    inner = np.clip(high - low, 0, None).prod(-1)
    areas = a[..., 2:].prod(-1), b[..., 2:].prod(-1)
    whole = areas[0] if of_first else areas[0] + areas[1] - inner
    return np.asarray(np.divide(inner, whole, out=np.zeros_like(inner), where=whole > 0))


def _corner(boxes_xywh: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return boxes_xywh[..., :2] + boxes_xywh[..., 2:]
