"""The score an instance must reach to be kept, for each class, and the file that sets it.

Owns the format of ``calibration.json``::

    {"thresholds": {"nut": 0.35, "bolt": 0.5}}

Class names lead to scores between 0 and 1; a class that is not listed uses ``merge.min_score``.
Other top-level keys are for people and ignored. It does not know how thresholds are found.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ntt_ray import storage
from ntt_ray.errors import InputError
from ntt_ray.records import ClassLabel, Detection

IntArray = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Thresholds:
    """Which instances are kept: those whose score is at least their class's threshold.

    Attributes:
        min_score: of classes that are not in `by_category`.
        by_category: thresholds by category id.
        categories: the classes that are kept, as category id of the run -> category id in the
            merged files; None: all, as they are.
    """

    min_score: float
    by_category: Mapping[int, float] = field(default_factory=dict)
    categories: Mapping[int, int] | None = None

    def any_score(self) -> Thresholds:
        """The same choice of classes, whatever the score."""
        return Thresholds(-math.inf, {}, self.categories)

    def keeps(self, detection: Detection) -> bool:
        """Whether one detection is kept."""
        return detection.score >= self.of_class(detection.category_id)

    def of_class(self, category_id: int) -> float:
        """The threshold of a class; infinite for one that is left out."""
        if self.categories is not None and category_id not in self.categories:
            return math.inf
        return self.by_category.get(category_id, self.min_score)

    def category_of(self, category_id: int) -> int:
        """The id in the merged files of a class that is kept."""
        return category_id if self.categories is None else self.categories[category_id]

    def categories_of(self, category_ids: npt.NDArray[np.integer[Any]]) -> IntArray:
        """The same for an array of category ids ``(n,)``, all of them kept."""
        if self.categories is None or not len(category_ids):
            return category_ids
        known, position = np.unique(category_ids, return_inverse=True)
        return np.array([self.categories[int(c)] for c in known], np.int32)[position]

    def of(self, category_ids: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.float64]:
        """The threshold of each instance of an array of category ids ``(n,)``."""
        if not len(category_ids) or (not self.by_category and self.categories is None):
            return np.full(len(category_ids), self.min_score)
        known, position = np.unique(category_ids, return_inverse=True)
        return np.array([self.of_class(int(category)) for category in known])[position]

    def by_name(self, classes: Sequence[ClassLabel]) -> dict[str, float]:
        """Thresholds by class name, for people: the classes that have their own."""
        return {
            label.name: self.by_category[label.category_id]
            for label in classes
            if label.category_id in self.by_category
        }


def calibrated(
    content: Any, uri: str, classes: Sequence[ClassLabel], min_score: float
) -> Thresholds:
    """Thresholds from the content of a ``calibration.json``.

    Args:
        content: the parsed file.
        uri: where it came from, for messages.
        classes: of the run.
        min_score: for classes that the file does not list.

    Raises:
        InputError: not of the format, or a class that the run does not have.
    """
    where = storage.redact(uri)
    listed = content.get("thresholds") if isinstance(content, dict) else None
    if not isinstance(listed, dict):
        raise InputError(f'{where}: a calibration is {{"thresholds": {{class name: score}}}}')
    names = {label.name for label in classes}
    for name, score in listed.items():
        if name not in names:
            raise InputError(
                f"{where}: thresholds.{name}: the run has no such class{_near(name, names)}"
            )
        if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 1:
            raise InputError(f"{where}: thresholds.{name}: {score!r} is no score between 0 and 1")
    found = {c.category_id: float(listed[c.name]) for c in classes if c.name in listed}
    return Thresholds(min_score, found)


def _near(name: str, names: set[str]) -> str:
    near = difflib.get_close_matches(name, sorted(names), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
