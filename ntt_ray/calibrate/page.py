"""The page of a calibration, ``calibration.html``: thresholds, and every picture they come from.

It chooses and renders the pictures, computes the values of the template ``calibration.html.j2``,
reads no files, and judges nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ntt_ray.calibrate.thresholds import MIN_IMAGES, ClassCalibration, ImageOutcomes
from ntt_ray.evaluate.matching import Matches, TruthObject
from ntt_ray.images import RgbImage
from ntt_ray.masks import Rle, decode_rle
from ntt_ray.pages.environment import render
from ntt_ray.pages.pictures import Thumbnail, blank, mask_to_path, thumbnail
from ntt_ray.records import ImageLabels

MAX_PICTURES = 60
MAX_ROWS = 100
MAX_COPIES = 20
_BINS = 100
_SIDE_PX, _BYTES = 300, 20_000
_STRIP_HEIGHT = 40

ClassPath = tuple[int, str]  # category id and outline of a mask


@dataclass(frozen=True, slots=True)
class CalibrationView:
    """A reference image as it was labelled without its own references.

    Attributes:
        right: the kept detections that match an annotated object.
        wrong: the kept detections that are false alarms.
        unclear: the kept detections that may be objects nobody annotated.
        missed: the annotated objects that were not found.
    """

    file_name: str
    picture: Thumbnail
    right: tuple[ClassPath, ...]
    wrong: tuple[ClassPath, ...]
    unclear: tuple[ClassPath, ...]
    missed: tuple[ClassPath, ...]


@dataclass(frozen=True, slots=True)
class Judged:
    """What was found on a reference image, beside what is annotated and what was made of it."""

    labels: ImageLabels
    matches: Matches
    outcomes: ImageOutcomes

    def kept(self, thresholds: Mapping[int, float]) -> list[bool]:
        """Whether each detection reaches the threshold of its class."""
        return [o.score >= thresholds[o.category_id] for o in self.outcomes.outcomes]

    def missed(self, thresholds: Mapping[int, float]) -> list[TruthObject]:
        """The annotated objects that could be found, and that no kept detection found."""
        kept = self.kept(thresholds)
        return [
            found
            for found, by in zip(self.matches.objects, self.matches.matched_by, strict=True)
            if found.category_id in self.outcomes.objects and (by is None or not kept[by])
        ]

    def mistakes(self, thresholds: Mapping[int, float]) -> int:
        """How many kept detections are wrong, and objects missed."""
        kept = self.kept(thresholds)
        wrong = sum(k and o.right is False for k, o in zip(kept, self.outcomes.outcomes))
        return wrong + len(self.missed(thresholds))


def worst_first(judged: Sequence[Judged], thresholds: Mapping[int, float]) -> list[Judged]:
    """The images to show, those with the most mistakes first."""
    ranked = sorted(judged, key=lambda j: (-j.mistakes(thresholds), j.labels.entry.image_id))
    return ranked[:MAX_PICTURES]


def render_judged(
    judged: Judged, image_rgb: RgbImage | None, thresholds: Mapping[int, float]
) -> CalibrationView:
    """The picture of an image with the masks that are kept or missed.

    Args:
        judged: what was found on the image.
        image_rgb: uint8 ``(h, w, 3)``; None where it cannot be read any more, and its place stays
            empty.
        thresholds: the lowest score that is kept, by category id.
    """
    labels = judged.labels
    assert labels.height is not None
    assert labels.width is not None
    if image_rgb is None:
        picture = blank((labels.height, labels.width), _SIDE_PX)
    else:
        picture = thumbnail(image_rgb, _SIDE_PX, _BYTES)

    def path(rle: Rle) -> str:
        return mask_to_path(decode_rle(rle), picture.scale)

    outlines: dict[bool | None, list[ClassPath]] = {True: [], False: [], None: []}
    for detection, outcome, kept in zip(
        labels.detections, judged.outcomes.outcomes, judged.kept(thresholds), strict=True
    ):
        if kept:
            outlines[outcome.right].append((detection.category_id, path(detection.rle)))
    return CalibrationView(
        labels.entry.file_name,
        picture,
        right=tuple(outlines[True]),
        wrong=tuple(outlines[False]),
        unclear=tuple(outlines[None]),
        missed=tuple((o.category_id, path(o.rle)) for o in judged.missed(thresholds)),
    )


def render_calibration(
    found: Sequence[ClassCalibration],
    seen: Sequence[ImageOutcomes],
    views: Sequence[CalibrationView],
    *,
    wanted_precision: float | None,
    complete: bool,
    copies: Sequence[Sequence[str]] = (),
    extended: int = 0,
) -> str:
    """The page of a calibration.

    Args:
        found: what was chosen for each class.
        seen: what it was chosen from.
        views: some of the reference images, in the order shown.
        wanted_precision: what was asked for, instead of the best F1.
        complete: whether every object of the images was said to be annotated.
        copies: file names of pictures that lie among the references more than once, by picture.
        extended: how many references came with a bank that this one extends.
    """
    shares = [item.evidence.expected_precision or 0.0 for item in found]
    order = sorted(range(len(found)), key=shares.__getitem__)
    by_class = _scores(seen)
    scores = [by_class[item.label.category_id] for item in found]
    return render(
        "calibration.html.j2",
        found=found,
        few=[item for item in found if not item.evidence.enough_references],
        told=sum(f.evidence.enough_references and f.threshold is not None for f in found),
        unclear=sum(item.evidence.unclear_detections for item in found),
        chosen=any(item.threshold is not None for item in found),
        rows=[(k, found[k], len(own := scores[k]), _strip(own)) for k in sorted(order[:MAX_ROWS])],
        images=len(seen),
        views=views,
        numbers={item.label.category_id: number for number, item in enumerate(found)},
        names={item.label.category_id: item.label.name for item in found},
        min_images=MIN_IMAGES,
        wanted_precision=wanted_precision,
        complete=complete,
        copies=copies,
        max_copies=MAX_COPIES,
        extended=extended,
    )


def _scores(seen: Sequence[ImageOutcomes]) -> defaultdict[int, list[tuple[float, bool]]]:
    """Scores of the detections that thresholds are chosen from, and whether they are right."""
    scores = defaultdict(list)
    for image in seen:
        for outcome in image.outcomes:
            if outcome.right is not None or outcome.held_wrong:
                scores[outcome.category_id].append((outcome.score, outcome.right is True))
    return scores


def _strip(scores: Sequence[tuple[float, bool]]) -> list[tuple[str, int, float, float]]:
    """Detections along the score: right ones upwards, wrong ones downwards from the middle.

    Returns:
        For each bar its kind (``right`` or ``wrong``), x, y and height, in a box of `_BINS` by
        `_STRIP_HEIGHT`.
    """
    counts = {True: [0] * _BINS, False: [0] * _BINS}
    for score, right in scores:
        counts[right][min(_BINS - 1, int(score * _BINS))] += 1
    top, half = max(1, *counts[True], *counts[False]), _STRIP_HEIGHT / 2
    bars = []
    for right, kind in ((True, "right"), (False, "wrong")):
        for place, count in enumerate(counts[right]):
            height = (half - 3) * count / top
            if count:
                bars.append((kind, place, half - height if right else half, height))
    return bars
