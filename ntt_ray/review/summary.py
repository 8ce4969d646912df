"""From a draw and verdicts to ``estimate.json``: precision, recall, and the score to promise.

It counts verdicts by stratum, class, score and image; the intervals are those of `estimates`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from ntt_ray.errors import InputError
from ntt_ray.review.estimates import (
    PROMISED,
    agreement,
    more_verdicts,
    precision_range,
    promised_depth,
    recall_range,
)
from ntt_ray.review.records import (
    Draw,
    DrawnLabel,
    ImageVerdict,
    Verdict,
    Verdicts,
    WholeImage,
)
from ntt_ray.review.strata import bands_of

FORMAT_VERSION = 1
HALF_WIDTHS = (0.05, 0.03, 0.02, 0.01)
FEW_IMAGES = 20  # with objects: below it the interval of the recall is not to be trusted


@dataclass(frozen=True, slots=True)
class Counts:
    """Verdicts on the labels of a stratum.

    Attributes:
        labels: how many labels it has.
        judged: how many of them have a verdict.
        right: how many of the verdicts say right.
        unclear: how many of the verdicts say that it cannot be told.
    """

    labels: int
    judged: int
    right: int
    unclear: int

    def plus(self, other: Counts) -> Counts:
        """Both together."""
        return Counts(
            self.labels + other.labels,
            self.judged + other.judged,
            self.right + other.right,
            self.unclear + other.unclear,
        )


def summarise(draw: Draw, files: Sequence[Verdicts]) -> dict[str, Any]:
    """What the verdicts on a draw say, as plain data.

    Args:
        draw: what was drawn.
        files: the verdicts of each reviewer, on this draw or one of the same design.

    Raises:
        InputError: the labels were chosen by an order: verdicts on them say nothing of all labels.
    """
    if draw.order is not None:
        raise InputError(
            f"these labels were chosen by {draw.order} and not drawn by probability: no estimate "
            "can be made of them; ntt-ray review draw without --order"
        )
    said = combined([file.labels for file in files])
    judged = [(label, said[str(label.id)]) for label in draw.labels if str(label.id) in said]
    counts = Counter(verdict for _, verdict in judged)
    strata = _of_strata(draw, judged)
    rows = _pooled(strata)
    return {
        "format_version": FORMAT_VERSION,
        "labels_hash": draw.labels_hash,
        "draw": draw.sha256,
        "labels": draw.population,
        "images": draw.images,
        "drawn": len(draw.labels),
        "judged": len(judged),
        "verdicts": dict(sorted(counts.items())),
        "reviewers": [
            {"name": file.reviewer, "labels": len(file.labels), "images": len(file.images)}
            for file in files
        ],
        "agreement": _agreements(files),
        "precision": _range_of(rows),
        "more_verdicts": _more(rows),
        "classes": _classes(draw, judged),
        "scores": _bands(draw, strata),
        "promise": _promise(draw, judged),
        "recall": _recall(draw, files),
    }


def combined(said: Sequence[Mapping[str, Verdict]]) -> dict[str, Verdict]:
    """One verdict for each id: what most reviewers said, and "cannot tell" where they are even."""
    found: dict[str, Verdict] = {}
    for name in sorted({name for one in said for name in one}):
        votes = Counter(one[name] for one in said if name in one).most_common(2)
        even = len(votes) > 1 and votes[0][1] == votes[1][1]
        found[name] = "unclear" if even else votes[0][0]
    return found


def judged_images(
    draw: Draw, files: Sequence[Verdicts]
) -> Iterator[tuple[WholeImage, ImageVerdict]]:
    """The whole images that somebody judged; of several reviewers of an image the first counts."""
    for image in draw.whole_images:
        said = [own for file in files if (own := file.images.get(str(image.image_id)))]
        if said:
            yield image, said[0]


def _count(labels: int, verdicts: Iterable[Verdict]) -> Counts:
    counts = Counter(verdicts)
    return Counts(labels, counts.total(), counts["right"], counts["unclear"])


def _of_strata(draw: Draw, judged: Sequence[tuple[DrawnLabel, Verdict]]) -> list[Counts]:
    own: list[list[Verdict]] = [[] for _ in draw.strata]
    for label, verdict in judged:
        own[label.stratum].append(verdict)
    return [_count(s.labels, verdicts) for s, verdicts in zip(draw.strata, own, strict=True)]


def _pooled(rows: Sequence[Counts]) -> list[Counts]:
    """Strata without a verdict go with the one before them, or behind where there is none."""
    found: list[Counts] = []
    waiting = Counts(0, 0, 0, 0)
    for row in rows:
        if row.judged:
            found.append(row.plus(waiting))
            waiting = Counts(0, 0, 0, 0)
        elif found:
            found[-1] = found[-1].plus(row)
        else:
            waiting = waiting.plus(row)
    return found


def _range_of(rows: Sequence[Counts]) -> dict[str, Any] | None:
    """The precision of some strata: "cannot tell" is wrong for the lower end, right for the upper.

    None where nothing was judged.
    """
    if not rows:
        return None
    labels, judged = [r.labels for r in rows], [r.judged for r in rows]
    likely = [_likely_right(row) for row in rows]
    low = precision_range(labels, judged, [r.right for r in rows]).low
    high = precision_range(labels, judged, [r.right + r.unclear for r in rows]).high
    return {
        "share": _rounded(precision_range(labels, judged, likely).share),
        "low": _rounded(low),
        "high": _rounded(high),
        "labels": sum(labels),
        "judged": sum(judged),
    }


def _likely_right(row: Counts) -> float:
    """How many are right, where those that cannot be told are like the others."""
    told = row.judged - row.unclear
    return row.right * row.judged / told if told else row.judged / 2


def _more(rows: Sequence[Counts]) -> dict[str, int]:
    """How many more verdicts each half width is likely to need."""
    if not rows:
        return {}
    given = [r.labels for r in rows], [r.judged for r in rows], [_likely_right(r) for r in rows]
    return {str(width): more_verdicts(*given, width) for width in HALF_WIDTHS}


def _classes(draw: Draw, judged: Sequence[tuple[DrawnLabel, Verdict]]) -> list[dict[str, Any]]:
    """The precision of each class: its labels in each score band are a sample of their own."""
    edges = np.asarray(draw.bands, np.float32)
    bands = bands_of(np.array([label.score for label, _ in judged], np.float32), edges).tolist()
    own: dict[tuple[int, int], list[Verdict]] = {}
    for (label, verdict), band in zip(judged, bands, strict=True):
        own.setdefault((label.category_id, band), []).append(verdict)
    found = []
    for known in draw.classes:
        rows = [
            _count(group.labels, own.get((known.id, group.band), ()))
            for group in draw.groups
            if group.category_id == known.id
        ]
        labels = sum(row.labels for row in rows)
        found.append({"id": known.id, "name": known.name, "labels": labels})
        found[-1]["precision"] = _range_of(_pooled(rows))
    return found


def _bands(draw: Draw, strata: Sequence[Counts]) -> list[dict[str, Any]]:
    """The precision of each score band."""
    found = []
    ends = [*draw.bands[1:], 1.0]
    for band, (low, high) in enumerate(zip(draw.bands, ends, strict=True)):
        rows = [c for c, s in zip(strata, draw.strata, strict=True) if s.band == band]
        found.append({"from": low, "to": high, "precision": _range_of(_pooled(rows))})
    return found


def _promise(draw: Draw, judged: Sequence[tuple[DrawnLabel, Verdict]]) -> dict[str, Any]:
    """The lowest score from which the precision is 0.95 or more, if one can be promised."""
    plain = [(label.score, verdict) for label, verdict in judged if label.plain]
    scores = np.array([score for score, _ in plain])
    right = np.array([verdict == "right" for _, verdict in plain])
    above = [scores >= depth.score for depth in draw.depths]
    chosen = -1
    if plain:
        hits = [int(right[mask].sum()) for mask in above]
        chosen = int(promised_depth([int(mask.sum()) for mask in above], hits))
    depth = draw.depths[chosen] if chosen >= 0 else None
    return {
        "precision": PROMISED,
        "confidence": 0.95,
        "verdicts": len(plain),
        "score": None if depth is None else depth.score,
        "labels": None if depth is None else depth.labels,
    }


def _recall(draw: Draw, files: Sequence[Verdicts]) -> dict[str, Any] | None:
    """The share of the objects that have a right label; None without objects on whole images.

    Of several reviewers of an image the first counts. An object whose label is of a wrong class or
    has a bad mask is there and not found; what cannot be told is left out.
    """
    verdicts = [verdict for _, verdict in judged_images(draw, files)]
    found, there = [], []
    for verdict in verdicts:
        counts = Counter(verdict.labels.values())
        found.append(counts["right"])
        there.append(counts["right"] + counts["class"] + counts["mask"] + len(verdict.missed))
    filled = sum(count > 0 for count in there)
    if not filled:
        return None
    range_ = recall_range(found, there)
    return {
        "share": _rounded(range_.share),
        "low": _rounded(range_.low),
        "high": _rounded(range_.high),
        "images": len(verdicts),
        "images_with_objects": filled,
        "objects": sum(there),
        "few_images": filled < FEW_IMAGES,
    }


def _agreements(files: Sequence[Verdicts]) -> list[dict[str, Any]]:
    """How far each two reviewers agree on the labels that both have seen."""
    found = []
    for one, other in combinations(files, 2):
        both = sorted(one.labels.keys() & other.labels.keys())
        if both:
            given = [one.labels[n] for n in both], [other.labels[n] for n in both]
            share, kappa = agreement(*given)
            pair = {"reviewers": [one.reviewer, other.reviewer], "labels": len(both)}
            kappa = None if kappa is None else _rounded(kappa)
            found.append({**pair, "share": _rounded(share), "kappa": kappa})
    return found


def _rounded(value: Any) -> float:
    return round(float(value), 6)
