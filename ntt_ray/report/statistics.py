"""The numbers of a run, counted in one pass over its shards in constant memory.

Counts, score histograms and failures by reason; the content of ``report.json`` is made of them.
Counts of some shards are added to those of the shards before. It knows neither pictures nor pages.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ntt_ray.errors import InputError, reason_of
from ntt_ray.evaluate.matching import Matches
from ntt_ray.merge.thresholds import Thresholds
from ntt_ray.records import ClassLabel, Detection, ImageLabels, ReferenceSet

SCORE_BINS = 50
CLASS_BINS = 20
EXAMPLES_PER_REASON = 5
MAX_REASONS = 50
_TEXT_LIMIT = 300
_OTHER = "other reasons"


@dataclass
class ClassCounts:
    """What was found of one class; `kept` counts what the merged ``annotations.json`` has of it."""

    images: int = 0
    detections: int = 0
    kept: int = 0
    histogram: list[int] = field(default_factory=lambda: [0] * CLASS_BINS)

    def take(self, other: ClassCounts) -> None:
        """Add what was found elsewhere."""
        self.images += other.images
        self.detections += other.detections
        self.kept += other.kept
        self.histogram = _sums(self.histogram, other.histogram)


@dataclass
class Failure:
    """Images that failed for one reason, with a few examples and one full error text.

    Attributes:
        kind: the kind of failure, see `records.Failure`; of older versions ``content``.
        images: how many images failed for this reason.
        error: one of the error texts.
        examples: file names of a few of them.
    """

    kind: str = "content"
    images: int = 0
    error: str = ""
    examples: list[str] = field(default_factory=list)


@dataclass
class RunCounts:
    """Counts of a run; `right` and `wrong` only count images with ground truth.

    Reasons of failures above `max_reasons` are one; counts of a part of a run need more of them,
    because they may be among the first ones of the run.
    """

    classes: dict[int, ClassCounts]
    thresholds: Thresholds
    images: dict[str, int] = field(
        default_factory=lambda: {"total": 0, "ok": 0, "empty": 0, "failed": 0}
    )
    detections: int = 0
    kept: int = 0
    histogram: list[int] = field(default_factory=lambda: [0] * SCORE_BINS)
    right: list[int] = field(default_factory=lambda: [0] * SCORE_BINS)
    wrong: list[int] = field(default_factory=lambda: [0] * SCORE_BINS)
    failures: dict[str, Failure] = field(default_factory=dict)
    notes: Counter[str] = field(default_factory=Counter)
    max_reasons: int = MAX_REASONS

    @classmethod
    def of_classes(
        cls, classes: Sequence[ClassLabel], thresholds: Thresholds, max_reasons: int = MAX_REASONS
    ) -> RunCounts:
        """No image counted yet; detections of other classes would be an error."""
        counts = {label.category_id: ClassCounts() for label in classes}
        return cls(counts, thresholds, max_reasons=max_reasons)

    def add(self, labels: ImageLabels, matches: Matches | None) -> None:
        """Count one image."""
        self.images["total"] += 1
        self.images[labels.status] += 1
        self.notes.update(labels.notes)
        if labels.error is not None:
            self._add_failure(labels.entry.file_name, labels.error, labels.failure or "content")
        ids = {d.category_id for d in labels.detections}
        if not ids <= self.classes.keys():
            name, unknown = labels.entry.file_name, sorted(ids - self.classes.keys())
            raise InputError(f"{name}: the run has no class with the id {unknown[0]}")
        for category_id in ids:
            self.classes[category_id].images += 1
        for position, detection in enumerate(labels.detections):
            self._add_detection(detection, None if matches is None else matches.right[position])

    def take(self, other: RunCounts) -> None:
        """Add the counts of images that come after those that were counted here."""
        for key, count in other.images.items():
            self.images[key] += count
        self.detections += other.detections
        self.kept += other.kept
        self.histogram = _sums(self.histogram, other.histogram)
        self.right = _sums(self.right, other.right)
        self.wrong = _sums(self.wrong, other.wrong)
        self.notes += other.notes
        for category_id, found in other.classes.items():
            self.classes[category_id].take(found)
        for reason, failure in other.failures.items():
            own = self._failure(reason, failure.kind, failure.error)
            own.images += failure.images
            own.examples = (own.examples + failure.examples)[:EXAMPLES_PER_REASON]

    def _add_detection(self, detection: Detection, right: bool | None) -> None:
        kept = detection.score >= self.thresholds.of_class(detection.category_id)
        found = self.classes[detection.category_id]
        found.detections += 1
        found.kept += kept
        found.histogram[bin_of(detection.score, CLASS_BINS)] += 1
        self.detections += 1
        self.kept += kept
        self.histogram[bin_of(detection.score, SCORE_BINS)] += 1
        if right is not None:
            (self.right if right else self.wrong)[bin_of(detection.score, SCORE_BINS)] += 1

    def _add_failure(self, file_name: str, error: str, kind: str) -> None:
        failure = self._failure(reason_of(error), kind, error)
        failure.images += 1
        if len(failure.examples) < EXAMPLES_PER_REASON:
            failure.examples.append(file_name)

    def _failure(self, reason: str, kind: str, error: str) -> Failure:
        """What is known of a reason; of too many reasons the later ones are one."""
        if reason not in self.failures and len(self.failures) >= self.max_reasons:
            reason = _OTHER
        return self.failures.setdefault(reason, Failure(kind, error=error[:_TEXT_LIMIT]))


def _sums(own: Sequence[int], other: Sequence[int]) -> list[int]:
    return [a + b for a, b in zip(own, other, strict=True)]


def bin_of(score: float, bins: int) -> int:
    """Histogram bin of a score from 0 to 1; 1 itself goes into the last one."""
    return min(max(int(score * bins), 0), bins - 1)


def counts_to_json(
    counts: RunCounts, classes: Sequence[ClassLabel], references: ReferenceSet | None
) -> dict[str, Any]:
    """The counts of a run as plain data, with those of its references where they are known."""
    shots = Counter(r.category_id for r in references.references) if references else None
    rows = [
        {
            "id": label.category_id,
            "name": label.name,
            "references": None if shots is None else shots[label.category_id],
            **asdict(counts.classes[label.category_id]),
        }
        for label in classes
    ]
    failures = sorted(counts.failures.items(), key=lambda item: (-item[1].images, item[0]))
    return {
        "images": dict(counts.images),
        "detections": {"total": counts.detections, "kept": counts.kept},
        "min_score": counts.thresholds.min_score,
        "class_scores": {
            label.name: counts.thresholds.by_category[label.category_id]
            for label in classes
            if label.category_id in counts.thresholds.by_category
        },
        "classes_left_out": [
            label.name
            for label in classes
            if counts.thresholds.of_class(label.category_id) == math.inf
        ],
        "score_histogram": {
            "bin_width": 1 / SCORE_BINS,
            "all": list(counts.histogram),
            "right": list(counts.right),
            "wrong": list(counts.wrong),
        },
        "classes": rows,
        "notes": dict(sorted(counts.notes.items())),
        "failures": [{"reason": reason, **asdict(failure)} for reason, failure in failures],
    }
