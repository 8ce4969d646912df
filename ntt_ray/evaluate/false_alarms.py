"""How often something is found where there is nothing: images without objects, or without a class.

A detection counts from the score with the best F1 over all classes together. Crowd regions hold
their class. In federated ground truth (LVIS) a class is absent only where it was looked for.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ntt_ray.evaluate.average_precision import Matched, Selection


def false_alarms(found: Matched, selection: Selection) -> dict[str, Any]:
    """False alarms of all classes together.

    Args:
        found: all detections, matched at one IoU.
        selection: ground truth and detections that were matched.

    Returns:
        ``score`` with the ``best_f1``, its ``precision`` and ``recall``;
        ``images_without_objects``, ``images_with_false_alarm`` among them and their ``share``;
        ``class_share``, the mean of the classes' own shares, see `class_false_alarms`. None where
        nothing was found or there is nothing to find, and without an image to be wrong in.
    """
    with_objects = {annotation["image_id"] for annotation in selection.truth["annotations"]}
    empty = {image["id"] for image in selection.truth["images"]} - with_objects
    if found.objects == 0 or not len(found.scores):
        nothing = dict.fromkeys(("score", "best_f1", "share", "class_share"))
        return {**nothing, "images_without_objects": len(empty)}
    order = np.argsort(-found.scores, kind="stable")
    hits = np.cumsum(found.right[order])
    f1 = 2 * hits / (np.arange(1, len(order) + 1) + found.objects)
    # a threshold takes all detections of equal score with it
    last_of_score = np.append(np.diff(found.scores[order]) != 0, True)
    best = int(np.argmax(np.where(last_of_score, f1, -1)))
    score = float(found.scores[order][best])
    alarmed = {d["image_id"] for d in selection.detections if d["score"] >= score} & empty
    shares = [item["share"] for item in class_false_alarms(selection, score).values()]
    known = [share for share in shares if share is not None]
    return {
        "score": score,
        "best_f1": float(f1[best]),
        "precision": float(hits[best] / (best + 1)),
        "recall": float(hits[best] / found.objects),
        "images_without_objects": len(empty),
        "images_with_false_alarm": len(alarmed),
        "share": len(alarmed) / len(empty) if empty else None,
        "class_share": sum(known) / len(known) if known else None,
    }


def class_false_alarms(selection: Selection, score: float) -> dict[int, dict[str, Any]]:
    """Images without a class in which it was found, by category id.

    Returns:
        for each class ``images`` without it, ``with_false_alarm`` among them, and their ``share``,
        which is None where every image has the class.
    """
    present = _images_by_class(selection.truth["annotations"])
    alarmed = _images_by_class(d for d in selection.detections if d["score"] >= score)
    images = {image["id"] for image in selection.truth["images"]}
    looked_for: dict[int, set[int]] = defaultdict(set)
    if selection.federated:
        for image in selection.truth["images"]:
            for category_id in image["neg_category_ids"]:
                looked_for[category_id].add(image["id"])
    found = {}
    for category in selection.truth["categories"]:
        own = category["id"]
        absent = (looked_for[own] if selection.federated else images) - present[own]
        wrong = len(alarmed[own] & absent)
        found[own] = {
            "images": len(absent),
            "with_false_alarm": wrong,
            "share": wrong / len(absent) if absent else None,
        }
    return found


def _images_by_class(items: Iterable[Mapping[str, Any]]) -> dict[int, set[int]]:
    found: dict[int, set[int]] = defaultdict(set)
    for item in items:
        found[item["category_id"]].add(item["image_id"])
    return found
