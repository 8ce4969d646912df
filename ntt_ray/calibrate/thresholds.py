"""Score thresholds from the references alone: each reference image labelled without its own shots.

Knows what counts as right and as a false alarm when only some objects are annotated, and how a
threshold is chosen from few samples. It does not know how the reference images were labelled.

A reference image often holds more objects than the annotated ones. A detection of a class is

* right, when it matches an annotated object of the class (COCO's greedy matching, mask IoU 0.5);
* a false alarm, when it lies mostly in an annotated object of the class that it does not match (a
  part or a double), or is an annotated object of another class (mask IoU 0.5);
* unclear otherwise: it may be an object nobody annotated. Where all objects are annotated, the
  caller says so, and it is a false alarm.

How many of the unclear ones are right cannot be told, so the range of the precision holds for all
of them and for none. When a threshold is chosen, those in images without an annotated object of
their class are held to be false alarms. Where much is found that is nothing, a wanted precision of
0.8 gave 0.67 so and 0.44 without them (drawn outcomes); where most of them are objects that nobody
annotated, thresholds are higher than they must be.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ntt_ray.evaluate.matching import MATCH_IOU, Matches, TruthObject
from ntt_ray.intervals import share_range
from ntt_ray.masks import mask_ious, overlap_shares
from ntt_ray.merge.calibration import Calibration, ClassEvidence
from ntt_ray.records import ClassLabel, Detection

MIN_IMAGES = 3  # of a class with fewer, nothing is said but what all classes say together
PRIOR_IMAGES = 10.0  # how many images of its own weigh as much as what all classes together say
# References are clearer than what is to be found, so their scores are higher: among thresholds
# whose F1 is nearly the best the lowest is taken.
NEARLY_BEST = 0.97
_INSIDE = 0.5


@dataclass(frozen=True, slots=True)
class Outcome:
    """One detection on a reference image.

    Attributes:
        category_id: id of its class.
        score: its score.
        right: None where it cannot be told.
        held_wrong: it cannot be told, and is held to be wrong when a threshold is chosen.
    """

    category_id: int
    score: float
    right: bool | None
    held_wrong: bool = False


@dataclass(frozen=True, slots=True)
class ImageOutcomes:
    """What was found on one reference image, and its objects of each class that could be found."""

    outcomes: tuple[Outcome, ...]
    objects: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class ClassCalibration:
    """The threshold of a class: None where no class has a right detection to go by."""

    label: ClassLabel
    threshold: float | None
    evidence: ClassEvidence


def judge(
    detections: Sequence[Detection],
    matches: Matches,
    *,
    complete: bool = False,
    classes: Collection[int] | None = None,
) -> ImageOutcomes:
    """Tell right from wrong on one reference image, see the module.

    Args:
        detections: detections of the image, by falling score.
        matches: the same detections beside the annotated objects.
        complete: whether every object of the image is annotated.
        classes: category ids of the bank it was labelled with, None for all; objects of other
            classes could not be found and are no misses.
    """
    counts = Counter(found.category_id for found in matches.objects)
    outcomes = []
    for detection, right in zip(detections, matches.right, strict=True):
        category_id, held_wrong = detection.category_id, False
        if right is False and not complete and not _is_annotated(detection, matches.objects):
            right, held_wrong = None, category_id not in counts
        outcomes.append(Outcome(category_id, detection.score, right, held_wrong))
    objects = {c: n for c, n in counts.items() if classes is None or c in classes}
    return ImageOutcomes(tuple(outcomes), objects)


def _is_annotated(detection: Detection, objects: Sequence[TruthObject]) -> bool:
    """Whether it is a part of an annotated object of its class, or an object of another class."""
    own = [o.rle for o in objects if o.category_id == detection.category_id]
    others = [o.rle for o in objects if o.category_id != detection.category_id]
    inside = overlap_shares([detection.rle], own).max(initial=0.0)
    same = mask_ious([detection.rle], others).max(initial=0.0)
    return bool(inside >= _INSIDE or same >= MATCH_IOU)


def calibrate(
    images: Iterable[ImageOutcomes],
    classes: Sequence[ClassLabel],
    *,
    wanted_precision: float | None = None,
) -> list[ClassCalibration]:
    """Choose a threshold for each class.

    The threshold is the lowest of nearly the best F1, or the lowest that has `wanted_precision`.
    That of a class is moved towards that of all classes together, the more so the fewer images
    it has; a class with fewer than `MIN_IMAGES` takes the common one. Without any right detection
    there is none.

    Args:
        images: reference images, each labelled by a bank without its own shots.
        classes: the classes of the bank.
        wanted_precision: share of the detections that must be right, 0 to 1.
    """
    seen = list(images)
    shared = _Sample.of(seen, None).threshold(wanted_precision)
    found = []
    for label in classes:
        own = _Sample.of(seen, label.category_id)
        alone = own.threshold(wanted_precision) if own.enough else None
        threshold = shared if alone is None else _shrunk(alone, shared, own.images)
        threshold = None if threshold is None else _rounded_down(threshold)
        found.append(ClassCalibration(label, threshold, own.evidence(threshold)))
    return found


def calibration_of(
    found: Sequence[ClassCalibration],
    *,
    wanted_precision: float | None,
    bank: str,
    made_with: Mapping[str, Any] | None = None,
) -> Calibration:
    """The content of ``calibration.json``, from what `calibrate` found.

    Args:
        found: the threshold of each class.
        wanted_precision: the precision that was asked for; None: the best F1.
        bank: digest of the memory bank.
        made_with: what else scores depend on, see `run.identity.scores_content`.
    """
    return Calibration(
        bank=bank,
        made_with=None if made_with is None else dict(made_with),
        wanted_precision=wanted_precision,
        thresholds={
            item.label.name: item.threshold for item in found if item.threshold is not None
        },
        classes={item.label.name: item.evidence for item in found},
    )


@dataclass(frozen=True)
class _Sample:
    """What was found of one class or of all.

    Attributes:
        scores: scores of the detections that a threshold is chosen from, falling, ``(n,)``.
        right: whether each of these detections is right, bool ``(n,)``.
        judged: scores of the detections that can be judged, ``(m,)``.
        unclear: scores of the other detections, ``(k,)``.
        objects: how many annotated objects there are.
        images: how many images have such objects.
    """

    scores: npt.NDArray[np.float64]
    right: npt.NDArray[np.bool_]
    judged: npt.NDArray[np.float64]
    unclear: npt.NDArray[np.float64]
    objects: int
    images: int

    @classmethod
    def of(cls, seen: Sequence[ImageOutcomes], category_id: int | None) -> _Sample:
        def mine(other: int) -> bool:
            return category_id is None or category_id == other

        own = [o for image in seen for o in image.outcomes if mine(o.category_id)]
        pairs = sorted(
            ((o.score, o.right is True) for o in own if o.right is not None or o.held_wrong),
            reverse=True,
        )
        objects = [sum(n for c, n in image.objects.items() if mine(c)) for image in seen]
        return cls(
            np.asarray([score for score, _ in pairs], dtype=np.float64),
            np.asarray([right for _, right in pairs], dtype=np.bool_),
            np.asarray([o.score for o in own if o.right is not None], dtype=np.float64),
            np.asarray([o.score for o in own if o.right is None], dtype=np.float64),
            sum(objects),
            sum(count > 0 for count in objects),
        )

    @property
    def enough(self) -> bool:
        """Whether there are images enough for a threshold of its own."""
        return self.images >= MIN_IMAGES

    def threshold(self, wanted_precision: float | None) -> float | None:
        """Half-way between the last detection that is kept and the first that is not.

        None where no detection is right.
        """
        if not self.right.any():
            return None
        ends = np.append(np.flatnonzero(np.diff(self.scores)), len(self.scores) - 1)
        hits, kept = np.cumsum(self.right)[ends], ends + 1  # equal scores are kept together
        if wanted_precision is None:
            f1 = 2 * hits / (kept + self.objects)
            worth = np.where(f1 >= NEARLY_BEST * f1.max(), kept, 0)
        else:
            # the most detections that are precise enough; where none are, the most precise ones
            precise = hits / kept
            enough = precise >= wanted_precision
            worth = np.where(enough, kept, 0) if enough.any() else precise
        best = int(ends[np.flatnonzero(worth == worth.max())[-1]])
        below = self.scores[best + 1] if best + 1 < len(self.scores) else self.scores[best]
        return float((self.scores[best] + below) / 2)

    def evidence(self, threshold: float | None) -> ClassEvidence:
        """What the sample says of a class with this threshold."""
        least = math.inf if threshold is None else threshold
        right, enough = int(self.right[self.scores >= least].sum()), self.enough
        judged, unclear = int((self.judged >= least).sum()), int((self.unclear >= least).sum())
        told = enough and judged > 0
        return ClassEvidence(
            images=self.images,
            objects=self.objects,
            judged_detections=judged,
            right_detections=right,
            unclear_detections=unclear,
            expected_precision=right / judged if told else None,
            expected_recall=right / self.objects if enough else None,
            precision_range=share_range(right, judged + unclear, unclear) if told else None,
            recall_range=share_range(right, self.objects) if enough else None,
            enough_references=enough,
        )


def _shrunk(alone: float, shared: float | None, images: int) -> float:
    """A class's own threshold, moved towards that of all classes."""
    weight = images / (images + PRIOR_IMAGES)
    return alone if shared is None else weight * alone + (1 - weight) * shared


def _rounded_down(score: float) -> float:
    """Six digits for people; up, the last detection that is to be kept would fall."""
    return math.floor(score * 1e6) / 1e6
