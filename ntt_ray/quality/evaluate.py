"""Average precision as COCO defines it, of a run's results against ground truth.

pycocotools does the matching and the averaging; this module maps images and classes between the
run and the ground truth, and reads the figures out. Fractions between 0 and 1; a figure that has
no ground truth to stand on (no large object, say) is None.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ntt_ray.errors import InputError
from ntt_ray.outputs.coco import RESULTS_FILE
from ntt_ray.quality.ground_truth import check_ground_truth, check_results, with_checked_masks
from ntt_ray.records import ClassLabel

MATCH_IOU = 0.5  # of the detections counted as right when a score threshold is chosen
_SUMMARY = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def evaluate(
    ground_truth: Any,
    results: Sequence[Mapping[str, Any]],
    file_names: Mapping[int, str],
    classes: Sequence[ClassLabel],
) -> dict[str, Any]:
    """Compute the metrics of a run.

    Args:
        ground_truth: a parsed COCO instances file.
        results: detections in COCO results format, with the run's image and category ids.
        file_names: file name of every image of the run by its id.
        classes: the run's classes; ground truth of other classes is left out, as in the few-shot
            protocols. Classes are matched by name.

    Returns:
        The content of ``metrics.json``: ``bbox`` and ``segm`` with AP, AP50, AP75, APs, APm, APl
        and AR100; ``per_class`` by name; ``false_alarms``; and how much was compared.

    Raises:
        InputError: not COCO files, damaged ones, or no image or class in common.
    """
    truth = check_ground_truth(ground_truth)
    results = check_results(results, RESULTS_FILE)
    image_ids = _matched_images(truth, file_names)
    category_ids = _matched_classes(truth, classes)
    coco = _quiet(COCO)
    coco.dataset = _selected(truth, set(image_ids.values()), set(category_ids.values()))
    _quiet(coco.createIndex)
    detections = [
        {**r, "image_id": image_ids[r["image_id"]], "category_id": category_ids[r["category_id"]]}
        for r in results
        if r["image_id"] in image_ids and r["category_id"] in category_ids
    ]
    names = {category_ids[c.category_id]: c.name for c in classes if c.category_id in category_ids}
    metrics: dict[str, Any] = {
        "images": len(image_ids),
        "images_not_in_ground_truth": len(file_names) - len(image_ids),
        "instances": len(coco.dataset["annotations"]),
        "detections": len(detections),
        "per_class": {name: {} for name in names.values()},
    }
    for kind in ("bbox", "segm"):
        evaluation = _run(coco, detections, kind)
        metrics[kind] = _summary(evaluation)
        for category_id, name in names.items():
            metrics["per_class"][name][kind] = _class_summary(evaluation, category_id)
        if kind == "segm":
            metrics["false_alarms"] = _false_alarms(evaluation, coco)
    return metrics


def _matched_images(truth: Mapping[str, Any], file_names: Mapping[int, str]) -> dict[int, int]:
    """Run image id to ground-truth image id, by file name."""
    by_name = {image["file_name"]: image["id"] for image in truth["images"]}
    matched = {i: by_name[name] for i, name in file_names.items() if name in by_name}
    if not matched:
        shown = next(iter(file_names.values()), "none"), next(iter(by_name), "none")
        raise InputError(
            "ground_truth: none of the run's images is in it; file names must be equal "
            f"(the run has {shown[0]!r}, the ground truth {shown[1]!r})"
        )
    return matched


def _matched_classes(truth: Mapping[str, Any], classes: Sequence[ClassLabel]) -> dict[int, int]:
    by_name = {category["name"]: category["id"] for category in truth["categories"]}
    matched = {c.category_id: by_name[c.name] for c in classes if c.name in by_name}
    if not matched:
        raise InputError(
            f"ground_truth: none of the run's classes is in it; it has {', '.join(sorted(by_name))}"
        )
    return matched


def _selected(truth: Mapping[str, Any], images: set[int], categories: set[int]) -> dict[str, Any]:
    """The part of the ground truth that is compared; areas are filled in where they are missing."""
    annotations = []
    for annotation in truth["annotations"]:
        if annotation["image_id"] in images and annotation["category_id"] in categories:
            area = annotation.get("area", annotation["bbox"][2] * annotation["bbox"][3])
            crowd = annotation.get("iscrowd", 0)
            annotations.append({**annotation, "area": area, "iscrowd": crowd})
    selected = [image for image in truth["images"] if image["id"] in images]
    return {
        "info": {},
        "images": selected,
        "categories": [c for c in truth["categories"] if c["id"] in categories],
        "annotations": with_checked_masks(annotations, selected),
    }


def _run(coco: COCO, detections: Sequence[Mapping[str, Any]], kind: str) -> COCOeval:
    if detections:
        # loadRes takes the area from the mask as soon as there is one, also for boxes
        dropped = ("segmentation",) if kind == "bbox" else ("bbox",)
        rows = [{k: v for k, v in d.items() if k not in dropped} for d in detections]
        found = _quiet(coco.loadRes, rows)
    else:
        found = _quiet(COCO)
        found.dataset = {**coco.dataset, "annotations": []}
        _quiet(found.createIndex)
    evaluation = COCOeval(coco, found, kind)
    _quiet(evaluation.evaluate)
    _quiet(evaluation.accumulate)
    _quiet(evaluation.summarize)
    return evaluation


def _summary(evaluation: COCOeval) -> dict[str, float | None]:
    values = [_figure(value) for value in evaluation.stats]
    return {**dict(zip(_SUMMARY, values[:6], strict=True)), "AR100": values[8]}


def _class_summary(evaluation: COCOeval, category_id: int) -> dict[str, float | None]:
    k = list(evaluation.params.catIds).index(category_id)
    precision = evaluation.eval["precision"][:, :, k, 0, -1]
    thresholds = evaluation.params.iouThrs
    at_50, at_75 = (int(np.argmin(np.abs(thresholds - iou))) for iou in (0.5, 0.75))
    return {
        "AP": _mean(precision),
        "AP50": _mean(precision[at_50]),
        "AP75": _mean(precision[at_75]),
        "AR100": _mean(evaluation.eval["recall"][:, k, 0, -1]),
    }


def _false_alarms(evaluation: COCOeval, coco: COCO) -> dict[str, Any]:
    """Images without any object that get a detection at the score with the best F1.

    The score is the one that maximises F1 over all classes together, masks matched at IoU 0.5.
    """
    scores, right, total = _matches(evaluation)
    empty = [i for i in coco.getImgIds() if not coco.getAnnIds(imgIds=[i])]
    if total == 0 or not len(scores):
        return {"score": None, "best_f1": None, "images_without_objects": len(empty), "share": None}
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(right[order])
    f1 = 2 * hits / (np.arange(1, len(order) + 1) + total)
    # a threshold takes all detections of equal score with it
    last_of_score = np.append(np.diff(scores[order]) != 0, True)
    best = int(np.argmax(np.where(last_of_score, f1, -1)))
    threshold = float(scores[order][best])
    found = evaluation.cocoDt
    alarmed = sum(
        any(d["score"] >= threshold for d in found.loadAnns(found.getAnnIds(imgIds=[i])))
        for i in empty
    )
    return {
        "score": threshold,
        "best_f1": float(f1[best]),
        "precision": float(hits[best] / (best + 1)),
        "recall": float(hits[best] / total),
        "images_without_objects": len(empty),
        "images_with_false_alarm": alarmed,
        "share": alarmed / len(empty) if empty else None,
    }


def _matches(evaluation: COCOeval) -> tuple[npt.NDArray[Any], npt.NDArray[Any], int]:
    """Scores of all detections, whether each is right at `MATCH_IOU`, and the objects in all."""
    at = int(np.argmin(np.abs(evaluation.params.iouThrs - MATCH_IOU)))
    scores: list[float] = []
    right: list[bool] = []
    total = 0
    whole = evaluation.params.areaRng[0]
    for item in evaluation.evalImgs:
        if item is None or item["aRng"] != whole:
            continue
        counted = ~np.asarray(item["dtIgnore"][at], dtype=bool)
        scores += list(np.asarray(item["dtScores"])[counted])
        right += list(np.asarray(item["dtMatches"][at] > 0)[counted])
        total += int((~np.asarray(item["gtIgnore"], dtype=bool)).sum())
    return np.asarray(scores), np.asarray(right), total


def _mean(values: npt.NDArray[Any]) -> float | None:
    """Mean of the entries that exist; COCO marks the others with -1."""
    known = values[values > -1]
    return float(known.mean()) if known.size else None


def _figure(value: float) -> float | None:
    return None if value < 0 or math.isnan(value) else float(value)


def _quiet(function: Any, *arguments: Any) -> Any:
    """Call it without its prints; a library must not print."""
    with contextlib.redirect_stdout(io.StringIO()):
        return cast(Any, function(*arguments))
