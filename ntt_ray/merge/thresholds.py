"""The score an instance must reach to be kept, for each class, and which classes are kept.

It does not know where thresholds come from: see `calibration` and `classes`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Thresholds:
    """Which instances are kept: those whose score is at least their class's threshold.

    Attributes:
        min_score: threshold of classes that are not in `by_category`.
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

    def of_class(self, category_id: int) -> float:
        """The threshold of a class, in the 32 bits of a score; infinite for one left out."""
        if self.categories is not None and category_id not in self.categories:
            return math.inf
        return float(np.float32(self.by_category.get(category_id, self.min_score)))

    def categories_of(self, category_ids: npt.NDArray[np.integer[Any]]) -> IntArray:
        """The ids in the merged files of an array of category ids ``(n,)`` that are all kept."""
        if self.categories is None or not len(category_ids):
            return category_ids
        known, position = np.unique(category_ids, return_inverse=True)
        return np.array([self.categories[int(c)] for c in known], np.int32)[position]

    def of(self, category_ids: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.float32]:
        """The threshold of each instance of an array of category ids ``(n,)``.

        It has the 32 bits of a score: 0.7 is not above a score of 0.7 then.
        """
        if not len(category_ids) or (not self.by_category and self.categories is None):
            return np.full(len(category_ids), self.min_score, np.float32)
        known, position = np.unique(category_ids, return_inverse=True)
        chosen = [self.of_class(int(category)) for category in known]
        return np.array(chosen, np.float32)[position]
