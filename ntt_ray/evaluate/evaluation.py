"""Average precision as COCO defines it, of a run's results against ground truth.

`average_precision` does the matching and the averaging; this module maps images and classes between
the run and the ground truth, and says what goes into ``metrics.json``. Fractions between 0 and 1; a
metric that has no ground truth to stand on (no large object, say) is None.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ntt_ray.coco_input import Truth, check_results, checked_truth
from ntt_ray.errors import InputError
from ntt_ray.evaluate.ahead import no_common_image
from ntt_ray.evaluate.average_precision import Evaluator, Items, Kind, Selection, matched, tables
from ntt_ray.evaluate.confusion import confusion, most_frequent
from ntt_ray.evaluate.false_alarms import class_false_alarms, false_alarms
from ntt_ray.evaluate.semantic import semantic_metrics
from ntt_ray.masks import rle_area, segmentation_to_rle
from ntt_ray.merge.thresholds import Thresholds
from ntt_ray.records import ClassLabel
from ntt_ray.run.layout import RESULTS_FILE

MAX_CURVES = 40  # classes with a curve in metrics.json, those with the most objects


def evaluate(
    ground_truth: Any,
    results: Items,
    file_names: Mapping[int, str],
    classes: Sequence[ClassLabel],
    *,
    evaluator: Evaluator = "pycocotools",
) -> dict[str, Any]:
    """Compute the metrics of a run.

    Args:
        ground_truth: a parsed COCO instances file. With boxes only, only boxes are judged.
        results: detections in COCO results format, with the run's image and category ids.
        file_names: file name of every image of the run by its id.
        classes: the run's classes; ground truth of other classes is left out, as in the few-shot
            protocols. Classes are matched by name.
        evaluator: who does the matching; the metrics are the same.

    Returns:
        The content of ``metrics.json``: ``bbox`` and ``segm`` with AP, AP50, AP75, APs, APm, APl,
        AR1, AR10, AR100, ARs, ARm, ARl; the same ``per_class`` by name, with its own
        ``false_alarms``; ``by_frequency`` where the ground truth has classes that are rare, common
        or frequent; ``curves`` of precision at IoU 0.5; ``false_alarms``; ``confusion``; and how
        much was compared.

    Raises:
        InputError: not COCO files, damaged ones, or no image or class in common.
    """
    selection, names, images = _compared(ground_truth, results, file_names, classes)
    kinds = _kinds(selection)
    metrics: dict[str, Any] = {
        "images": images,
        "images_not_in_ground_truth": len(file_names) - images,
        "instances": sum(not a["iscrowd"] for a in selection.truth["annotations"]),
        "detections": len(selection.detections),
        "per_class": {name: {} for name in names.values()},
    }
    for kind in kinds:
        found = tables(selection, kind, evaluator)
        metrics[kind] = found.summary()
        for category_id, name in names.items():
            metrics["per_class"][name][kind] = found.summary([category_id])
        if groups := _frequencies(selection.truth):
            by_group = {group: found.summary(ids)["AP"] for group, ids in groups.items()}
            metrics.setdefault("by_frequency", {})[kind] = by_group
    shown = most_frequent(selection.truth["annotations"], names, MAX_CURVES)
    metrics["curves"] = {names[i]: curve for i in shown if (curve := found.curve(i)) is not None}
    metrics["false_alarms"] = false_alarms(matched(selection, kinds[-1]), selection)
    score = metrics["false_alarms"]["score"]
    if score is not None:
        metrics["confusion"] = confusion(selection, kinds[-1], names, score)
        for category_id, alarms in class_false_alarms(selection, score).items():
            metrics["per_class"][names[category_id]]["false_alarms"] = alarms
    return metrics


def evaluate_classes(
    ground_truth: Any,
    results: Items,
    file_names: Mapping[int, str],
    classes: Sequence[ClassLabel],
    thresholds: Thresholds,
) -> dict[str, Any]:
    """Class mIoU and FB-IoU of what a merge keeps; see `semantic_metrics`, and `evaluate`."""
    kept = [r for r in results if r["score"] >= thresholds.of_class(r["category_id"])]
    selection, names, _ = _compared(ground_truth, kept, file_names, classes)
    if _kinds(selection) == ("bbox",):
        raise InputError("ground_truth: has boxes only; class maps need masks")
    return semantic_metrics(selection, names, -math.inf)


def _compared(
    ground_truth: Any, results: Items, file_names: Mapping[int, str], classes: Sequence[ClassLabel]
) -> tuple[Selection, dict[int, str], int]:
    """What both sides share, the names of its classes by id, and the number of its images."""
    truth = checked_truth(ground_truth)
    results = check_results(results, RESULTS_FILE)
    image_ids = _matched_images(truth, file_names)
    category_ids = _matched_classes(truth, classes)
    selected = _selected(truth, set(image_ids.values()), set(category_ids.values()))
    detections = [
        {**r, "image_id": image_ids[r["image_id"]], "category_id": category_ids[r["category_id"]]}
        for r in results
        if r["image_id"] in image_ids and r["category_id"] in category_ids
    ]
    names = {category_ids[c.category_id]: c.name for c in classes if c.category_id in category_ids}
    return Selection.of(selected, detections), names, len(image_ids)


def _kinds(selection: Selection) -> tuple[Kind, ...]:
    """Boxes only where no object has a mask; the last kind is the one that counts."""
    objects = selection.truth["annotations"]
    return ("bbox", "segm") if not objects or "segmentation" in objects[0] else ("bbox",)


def _matched_images(truth: Truth, file_names: Mapping[int, str]) -> dict[int, int]:
    """Run image id to ground-truth image id, by file name."""
    by_name = {image.file_name: image.id for _, image in truth.images.sound()}
    matched = {i: by_name[name] for i, name in file_names.items() if name in by_name}
    if not matched:
        of_run = next(iter(file_names.values()), "none")
        raise no_common_image(of_run, next(iter(by_name), "none"))
    return matched


def _matched_classes(truth: Truth, classes: Sequence[ClassLabel]) -> dict[int, int]:
    by_name = {category.name: category.id for _, category in truth.categories.sound()}
    matched = {c.category_id: by_name[c.name] for c in classes if c.name in by_name}
    if not matched:
        raise InputError(
            f"ground_truth: none of the run's classes is in it; it has {', '.join(sorted(by_name))}"
        )
    return matched


def _selected(truth: Truth, image_ids: set[int], category_ids: set[int]) -> dict[str, Any]:
    """The part of the ground truth that is compared; areas are filled in where they are missing.

    Annotations are numbered anew: COCOeval takes the id 0 for no match.
    """
    images = {i.id: truth.images.raw(n) for n, i in truth.images.sound() if i.id in image_ids}
    chosen = [
        truth.annotations.raw(n)
        for n, a in truth.annotations.sound()
        if a.image_id in image_ids and a.category_id in category_ids
    ]
    with_masks = any(annotation.get("segmentation") for annotation in chosen)
    return {
        "info": {},
        "images": list(images.values()),
        "categories": [
            truth.categories.raw(n)
            for n, category in truth.categories.sound()
            if category.id in category_ids
        ],
        "annotations": [
            _judged(annotation, number, images[annotation["image_id"]], with_masks=with_masks)
            for number, annotation in enumerate(chosen, start=1)
        ],
    }


def _judged(
    annotation: Mapping[str, Any], number: int, image: Mapping[str, Any], *, with_masks: bool
) -> dict[str, Any]:
    """An annotation under another id, with its area, and with its mask as a compressed RLE.

    Raises:
        InputError: it has no usable mask.
    """
    found = {"iscrowd": 0, **annotation}
    mask = found.pop("segmentation", None)
    area = annotation["bbox"][2] * annotation["bbox"][3]
    if with_masks:
        try:
            found["segmentation"] = segmentation_to_rle(mask, image["height"], image["width"])
        except ValueError as error:
            name = f"annotation {annotation['id']}"
            raise InputError(f"ground_truth: {name} {error}") from None
        area = rle_area(found["segmentation"])
    return {"area": area, **found, "id": number}


def _frequencies(truth: Mapping[str, Any]) -> dict[str, list[int]]:
    """Category ids of LVIS's groups, where the ground truth has them."""
    words = {"r": "rare", "c": "common", "f": "frequent"}
    groups: dict[str, list[int]] = {word: [] for word in words.values()}
    for category in truth["categories"]:
        if word := words.get(str(category.get("frequency"))):
            groups[word].append(category["id"])
    return groups if any(groups.values()) else {}
