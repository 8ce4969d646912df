"""COCO's matching and averaging of detections, by pycocotools or by faster-coco-eval.

It takes a checked selection of ground truth and detections with the same ids, and reads the metrics
out of the two tables both libraries make: precision and recall by IoU, class, size and number of
detections. Fractions between 0 and 1; None where there is no ground truth to stand on. Ground truth
that says for each image which classes were looked for (LVIS) is judged as LVIS does: detections of
other classes do not count, wrong ones of classes annotated in part neither, and instead of 100 per
class the best 300 of all classes in an image count.
"""

from __future__ import annotations

import contextlib
import io
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ntt_ray.errors import InputError
from ntt_ray.evaluate.matching import MATCH_IOU

Evaluator = Literal["pycocotools", "faster-coco-eval"]
Kind = Literal["bbox", "segm"]
SIZES = ("s", "m", "l")  # areas below 32 x 32, below 96 x 96, larger; in pixels
LVIS_DETECTIONS = 300
CURVE_STEP = 5  # of the 101 recalls of a curve, every fifth is kept

Floats = npt.NDArray[np.float64]
Items = Sequence[Mapping[str, Any]]  # annotations, or detections in COCO results format


@dataclass(frozen=True)
class Selection:
    """Ground truth and detections to compare, with the same ids on both sides.

    Attributes:
        truth: a COCO instances file, checked.
        detections: the detections in COCO results format, checked.
        federated: whether the ground truth is LVIS's, as the module describes it.
    """

    truth: Mapping[str, Any]
    detections: Items
    federated: bool = False

    @classmethod
    def of(cls, truth: Mapping[str, Any], detections: Items) -> Selection:
        """Look whether the ground truth is federated, and leave out what it does not judge."""
        there = {i["id"]: set(i["neg_category_ids"]) for i in truth["images"] if _is_lvis(i)}
        if not there:
            return cls(truth, detections)
        for annotation in truth["annotations"]:
            there.setdefault(annotation["image_id"], set()).add(annotation["category_id"])
        ranked = (sorted(own, key=falling_score) for own in by_image(detections).values())
        best = chain.from_iterable(own[:LVIS_DETECTIONS] for own in ranked)
        judged = [d for d in best if d["category_id"] in there.get(d["image_id"], ())]
        return cls(truth, judged, federated=True)


@dataclass(frozen=True)
class Tables:
    """What a COCO evaluation found.

    Attributes:
        precision: ``(IoUs, recalls, classes, sizes, limits)``; -1 where there is no ground truth.
        recall: ``(IoUs, classes, sizes, limits)``.
        category_ids: ids of the classes, in the tables' order.
        ious: IoU thresholds, 0.50 to 0.95.
        limits: how many detections count for each image and class.
    """

    precision: Floats
    recall: Floats
    category_ids: tuple[int, ...]
    ious: Floats
    limits: tuple[int, ...]

    def summary(self, category_ids: Sequence[int] | None = None) -> dict[str, float | None]:
        """AP and AR as COCO defines them, of all classes or the mean over some."""
        rows = [
            k for k, i in enumerate(self.category_ids) if category_ids is None or i in category_ids
        ]
        precision, recall = self.precision[:, :, rows], self.recall[:, rows]
        found = {
            "AP": _mean(precision[:, :, :, 0, -1]),
            "AP50": _mean(precision[self._at(0.5), :, :, 0, -1]),
            "AP75": _mean(precision[self._at(0.75), :, :, 0, -1]),
        }
        found |= {f"AP{s}": _mean(precision[:, :, :, n, -1]) for n, s in enumerate(SIZES, 1)}
        found |= {f"AR{m}": _mean(recall[:, :, 0, n]) for n, m in enumerate(self.limits)}
        return found | {f"AR{s}": _mean(recall[:, :, n, -1]) for n, s in enumerate(SIZES, 1)}

    def curve(self, category_id: int) -> list[float] | None:
        """Precision of a class at IoU 0.5, for recalls 0, 0.05 ... 1."""
        row = self.precision[self._at(MATCH_IOU), :, self.category_ids.index(category_id), 0, -1]
        return [round(float(v), 6) for v in row[::CURVE_STEP]] if row[0] > -1 else None

    def _at(self, iou: float) -> int:
        return int(np.argmin(np.abs(self.ious - iou)))


@dataclass(frozen=True)
class Matched:
    """All detections of a kind at `MATCH_IOU`.

    Attributes:
        scores: scores of the detections that count.
        right: for each of these detections whether it is right.
        objects: how many objects are in the ground truth, crowds left out.
    """

    scores: Floats
    right: npt.NDArray[np.bool_]
    objects: int


def tables(selection: Selection, kind: Kind, evaluator: Evaluator = "pycocotools") -> Tables:
    """Evaluate boxes or masks.

    Raises:
        InputError: faster-coco-eval is wanted and not installed, or the ground truth is LVIS's.
    """
    if evaluator == "faster-coco-eval":
        return _faster(selection, kind)
    return _tables(_evaluated(selection, kind))


def matched(selection: Selection, kind: Kind) -> Matched:
    """Match detections at one IoU, to choose a score; sizes play no part."""
    found = _evaluated(selection, kind, only_at=MATCH_IOU)
    scores: list[float] = []
    right: list[bool] = []
    objects = 0
    for item in filter(None, found.evalImgs):
        counted = ~np.asarray(item["dtIgnore"][0], dtype=bool)
        scores += list(np.asarray(item["dtScores"])[counted])
        right += list(np.asarray(item["dtMatches"][0] > 0)[counted])
        objects += int((~np.asarray(item["gtIgnore"], dtype=bool)).sum())
    return Matched(np.asarray(scores, dtype=np.float64), np.asarray(right, dtype=bool), objects)


def _evaluated(selection: Selection, kind: Kind, only_at: float | None = None) -> COCOeval:
    coco = _quiet(COCO)
    coco.dataset = dict(selection.truth)
    _quiet(coco.createIndex)
    evaluation = COCOeval(coco, _detected(coco, selection.detections, kind, COCO), kind)
    if selection.federated:
        evaluation.params.maxDets = [1, 10, LVIS_DETECTIONS]
    if only_at is not None:
        evaluation.params.iouThrs = np.array([only_at])
        evaluation.params.areaRng = evaluation.params.areaRng[:1]
    _quiet(evaluation.evaluate)
    if selection.federated:
        _spare_partly_annotated(evaluation, selection.truth)
    return evaluation


def _spare_partly_annotated(evaluation: COCOeval, truth: Mapping[str, Any]) -> None:
    """Ignore unmatched detections of classes that were not annotated exhaustively in an image."""
    partly = {
        (image["id"], i)
        for image in truth["images"]
        for i in image.get("not_exhaustive_category_ids", ())
    }
    for item in filter(None, evaluation.evalImgs):
        if (item["image_id"], item["category_id"]) in partly:
            item["dtIgnore"] = np.logical_or(item["dtIgnore"], item["dtMatches"] == 0)


def _tables(evaluation: Any) -> Tables:
    _quiet(evaluation.accumulate)
    params = evaluation.params
    return Tables(
        np.asarray(evaluation.eval["precision"], dtype=np.float64),
        np.asarray(evaluation.eval["recall"], dtype=np.float64),
        tuple(int(i) for i in params.catIds),
        np.asarray(params.iouThrs, dtype=np.float64),
        tuple(int(limit) for limit in params.maxDets),
    )


def _faster(selection: Selection, kind: Kind) -> Tables:
    if selection.federated:
        raise InputError("evaluator: LVIS is evaluated by pycocotools, not by faster-coco-eval")
    try:
        import faster_coco_eval as faster
    except ImportError:
        raise InputError(
            "evaluator: faster-coco-eval is not installed; pip install 'ntt-ray[fast-eval]'"
        ) from None
    coco = faster.COCO()
    coco.dataset = dict(selection.truth)
    coco.createIndex()
    found = _detected(coco, selection.detections, kind, faster.COCO)
    evaluation = faster.COCOeval_faster(coco, found, kind, separate_eval=True)
    evaluation.evaluate()
    return _tables(evaluation)


def _detected(coco: Any, detections: Items, kind: Kind, make: Any) -> Any:
    if not detections:
        found = _quiet(make)
        found.dataset = {**coco.dataset, "annotations": []}
        _quiet(found.createIndex)
        return found
    # loadRes takes the area from the box as soon as there is one, also for masks
    dropped = "segmentation" if kind == "bbox" else "bbox"
    return _quiet(coco.loadRes, [{k: v for k, v in d.items() if k != dropped} for d in detections])


def by_image(items: Iterable[Mapping[str, Any]]) -> defaultdict[int, list[Mapping[str, Any]]]:
    """Annotations or detections by the id of their image."""
    found = defaultdict(list)
    for item in items:
        found[item["image_id"]].append(item)
    return found


def falling_score(detection: Mapping[str, Any]) -> float:
    """The key to sort detections by, the best first."""
    return -float(detection["score"])


def _is_lvis(image: Mapping[str, Any]) -> bool:
    return "neg_category_ids" in image and "not_exhaustive_category_ids" in image


def _mean(values: Floats) -> float | None:
    """Mean of the entries that exist; COCO marks the others with -1."""
    known = values[values > -1]
    return float(known.mean()) if known.size else None


def _quiet(function: Any, *arguments: Any) -> Any:
    """Call it without its prints; a library must not print."""
    with contextlib.redirect_stdout(io.StringIO()):
        return cast(Any, function(*arguments))
