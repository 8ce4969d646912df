"""What a memory bank says about its own references, before anything is labelled with it.

Pure numpy on the mean features of the references. Every reference is compared with the mean of the
*others* of its class, and with the means of the other classes. What counts as unusual is measured
against the spread within this very bank, in robust standard deviations (1.4826 times the median
absolute deviation), so no threshold depends on the encoder. A class with fewer than `MIN_SHOTS`
references has no "usual": nothing is said about its references.

Measured with the demo weights on drawn objects, three seeds, every pair of 8 classes, some
references of one replaced by objects of another (`tests/bank/test_problems.py` does it on a fourth
seed): with 2 of 10 replaced 336 of 336 were named, with 1 of 5 165 of 168, 1 of 3 150 of 168, 2 of
5 269 of 336; falsely named were 0.8 %, 0.05 %, 0.08 % and 0.2 % of the others. Of 240 references of
clean banks 2 were called mislabelled, 2 weak, none doubled. In banks of 24 classes, many of which
the encoder can hardly tell apart, 334 of 360 were named, 2.6 % falsely.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

MIN_SHOTS = 3  # of two references that disagree nobody can say which one is wrong
UNUSUAL = 3.0  # robust standard deviations below the median of the class
CONFUSABLE = 2.0  # classes whose median margin is less of them: about one object in 40 or more errs
DUPLICATE_SHARE = 0.1  # of the usual distance of a reference to its nearest one
DUPLICATE_MIN = 1e-5  # cosine distance that rounding alone makes
_BLOCK = 1024

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class BankFindings:
    """Similarities and what stands out. N references in the bank's order, K classes.

    Attributes:
        class_of: ``(N,)`` class index of each reference.
        own: ``(N,)`` cosine similarity to the mean of the others of its class; NaN where it is the
            only one.
        nearest: ``(N,)`` cosine similarity to the mean of the nearest other class; NaN where there
            is no other.
        nearest_class: ``(N,)`` index of the nearest other class; -1 where there is none.
        matrix: ``(K, K)`` cosine similarity between the means of classes; the diagonal is the
            median of `own`.
        mislabelled: references nearer to another class than to their own, and unusually so for
            their class.
        weak: references unusually far from the rest of their class that are not `mislabelled`.
        duplicates: pairs of references that are nearly the same.
        confusable: pairs of classes that are hard to tell apart.
        untold: classes with too few references to say anything about them.
    """

    class_of: Ints
    own: Floats
    nearest: Floats
    nearest_class: Ints
    matrix: Floats
    mislabelled: tuple[int, ...]
    weak: tuple[int, ...]
    duplicates: tuple[tuple[int, int], ...]
    confusable: tuple[tuple[int, int], ...]
    untold: tuple[int, ...]


def find(features: Sequence[npt.NDArray[np.floating]]) -> BankFindings:
    """Look for references and classes that stand out.

    Args:
        features: for each class the mean features of its references, ``(shots, dim)``, at least
            one shot each, not normalised.
    """
    rows = np.concatenate([np.asarray(f, dtype=np.float64) for f in features])
    class_of = np.repeat(np.arange(len(features)), [len(f) for f in features])
    counts = np.bincount(class_of)
    sums = np.stack([np.asarray(f, dtype=np.float64).sum(axis=0) for f in features])
    means, directions = _unit(sums / counts[:, None]), _unit(rows)
    similarity = directions @ means.T
    others = (sums[class_of] - rows) / np.maximum(counts[class_of] - 1, 1)[:, None]
    own = (directions * _unit(others)).sum(axis=1)
    own[counts[class_of] == 1] = np.nan
    nearest, nearest_class = _nearest_other(similarity, class_of)
    told = counts[class_of] >= MIN_SHOTS
    margins = own - nearest
    wrong = told & (margins < 0) & _unusually_low(margins, class_of, told)
    weak = told & ~wrong & _unusually_low(-_log_distance(own), class_of, told)
    return BankFindings(
        class_of=class_of,
        own=own,
        nearest=nearest,
        nearest_class=nearest_class,
        matrix=_matrix(means, own, class_of),
        mislabelled=tuple(np.flatnonzero(wrong).tolist()),
        weak=tuple(np.flatnonzero(weak).tolist()),
        duplicates=_duplicates(directions),
        confusable=_confusable(own[:, None] - similarity, class_of, told),
        untold=tuple(np.flatnonzero(counts < MIN_SHOTS).tolist()),
    )


def _unit(vectors: Floats) -> Floats:
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12))


def _nearest_other(similarity: Floats, class_of: Ints) -> tuple[Floats, Ints]:
    rows = np.arange(len(similarity))
    if similarity.shape[1] == 1:
        return np.full(len(rows), np.nan), np.full(len(rows), -1)
    others = similarity.copy()
    others[rows, class_of] = -np.inf
    best = others.argmax(axis=1)
    return others[rows, best], best


def _log_distance(similarity: Floats) -> Floats:
    """Logarithm of the cosine distance: distances are skewed, their logarithms hardly."""
    return np.asarray(np.log(np.maximum(1 - similarity, DUPLICATE_MIN)))


def _medians(values: Floats, class_of: Ints, told: Bools) -> Floats:
    """Median of each class; NaN for classes that are not told about."""
    medians = np.full(int(class_of.max()) + 1, np.nan)
    for k in np.unique(class_of[told]):
        medians[k] = np.median(values[class_of == k])
    return medians


def _spread(residuals: Floats, class_of: Ints) -> float:
    """Robust standard deviation of residuals from their class's median, of all classes together.

    The smallest of each class is left out: the median took that degree of freedom.
    """
    sizes = np.abs(residuals)
    first = [np.flatnonzero(class_of == k)[sizes[class_of == k].argmin()] for k in set(class_of)]
    return float(1.4826 * np.median(np.delete(sizes, first)))


def _unusually_low(values: Floats, class_of: Ints, told: Bools) -> Bools:
    """Whether each value lies `UNUSUAL` spreads below the median of its class."""
    if not told.any() or np.isnan(values[told]).any():
        return np.zeros(len(values), dtype=np.bool_)
    residuals = values - _medians(values, class_of, told)[class_of]
    limit = UNUSUAL * _spread(residuals[told], class_of[told])
    return np.asarray(residuals < -max(limit, 1e-9))


def _matrix(means: Floats, own: Floats, class_of: Ints) -> Floats:
    matrix: Floats = means @ means.T
    for k in range(len(means)):
        matrix[k, k] = np.median(own[class_of == k])
    return matrix


def _confusable(margins: Floats, class_of: Ints, told: Bools) -> tuple[tuple[int, int], ...]:
    """Pairs of classes whose references are hardly nearer to their own class than to the other."""
    classes = np.unique(class_of[told])
    if len(classes) == 0 or margins.shape[1] < 2:
        return ()
    medians = np.full((margins.shape[1], margins.shape[1]), np.inf)
    for k in classes:
        medians[k] = np.median(margins[class_of == k], axis=0)
        medians[k, k] = np.inf
    rows = np.flatnonzero(told)
    nearest = medians[class_of[rows]].argmin(axis=1)
    residuals = margins[rows, nearest] - medians[class_of[rows], nearest]
    limit = CONFUSABLE * _spread(residuals, class_of[rows])
    close = np.minimum(medians, medians.T) < limit
    return tuple((a, b) for a, b in np.argwhere(np.triu(close, 1)).tolist())


def _duplicates(directions: Floats) -> tuple[tuple[int, int], ...]:
    """Pairs ten times nearer to each other than a reference and its nearest one usually are."""
    if len(directions) < 2:
        return ()
    nearest = np.concatenate([block.min(axis=1) for _, block in _distances(directions)])
    limit = max(DUPLICATE_SHARE * float(np.median(nearest)), DUPLICATE_MIN)
    return tuple(
        (start + a, b)
        for start, block in _distances(directions)
        for a, b in np.argwhere(block < limit).tolist()
        if start + a < b
    )


def _distances(directions: Floats) -> Iterator[tuple[int, Floats]]:
    """Cosine distances to all references, a block of rows at a time; infinite to oneself."""
    for start in range(0, len(directions), _BLOCK):
        block = 1 - directions[start : start + _BLOCK] @ directions.T
        own = np.arange(len(block))
        block[own, start + own] = np.inf
        yield start, block
