"""The masks over the pictures of the gallery: where each lies, and what the page says of it.

Images are data URIs and masks are SVG paths, so nothing has to be loaded. It reads no files, knows
no HTML, and chooses no images: `report.gallery` does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from ntt_ray.masks import Rle, decode_rle
from ntt_ray.pages.environment import colour
from ntt_ray.pages.pictures import UNITS_PER_PX, Thumbnail, mask_to_path
from ntt_ray.records import Detection
from ntt_ray.report.gallery import Candidate
from ntt_ray.report.originals import SharpPart

MAX_FILTERS = 30
MAX_MASKS = 50  # predictions painted per image, those with the highest scores
MASKS_PER_CLASS = 5  # the same of each class of an image that is shown for some classes only
MAX_OBJECTS = 200  # objects of the ground truth painted per image
_NAME_LETTERS = 24


@dataclass(frozen=True, slots=True)
class ShotSize:
    """How much of the page an image may take.

    Attributes:
        side: the longer side of its picture, in pixels.
        picture_bytes: bytes of the picture, as far as a lower quality goes.
        masks: how many predictions are painted.
        objects: how many objects of the ground truth are painted.
        part_bytes: how many bytes the sharp part around one object may take; 0 shows no such part.
    """

    side: int = 480
    picture_bytes: int = 64_000
    masks: int = MAX_MASKS
    objects: int = MAX_OBJECTS
    part_bytes: int = 12_000


@dataclass(frozen=True, slots=True)
class Shot:
    """An image of the gallery with its picture.

    Attributes:
        candidate: the image and what was found in it.
        picture: how it is shown.
        note: why there is no picture; empty where there is one.
        size: how much of the page it may take.
        link: where the page finds the original; empty where it cannot.
        part: what is shown sharper than the picture.
    """

    candidate: Candidate
    picture: Thumbnail
    note: str
    size: ShotSize = ShotSize()
    link: str = ""
    part: SharpPart | None = None


@dataclass(frozen=True, slots=True)
class Name:
    """A class name with a score on a mask.

    Attributes:
        text: the name and the score.
        x: where the text stands, in units of the paths.
        y: its middle, in units of the paths.
        anchor: the side of the text that stands at `x`; empty for its middle.
    """

    text: str
    x: float
    y: float
    anchor: str


@dataclass(frozen=True, slots=True)
class Overlay:
    """A mask over a picture.

    Attributes:
        number: position of its class in the run.
        path: its outline, see `mask_to_path`.
        score: the score at which it is found, as text; empty for an object that is missed.
        right: whether a prediction is right, None where that is not known.
        name: what stands on a prediction; None on an object of the ground truth.
    """

    number: int
    path: str
    score: str
    right: bool | None = None
    name: Name | None = None


@dataclass(frozen=True, slots=True)
class ShotView:
    """An image of the gallery with its masks.

    Attributes:
        id: names the picture within the page, so that it is embedded once.
        shot: the image.
        truth: the objects of the ground truth; None where it is not known.
        predictions: the detections with the highest scores, the largest masks first.
        hidden: how many further detections are not painted.
        classes: the classes that it is shown for: position, name and highest score.
    """

    id: str
    shot: Shot
    truth: list[Overlay] | None
    predictions: list[Overlay]
    hidden: int
    classes: list[tuple[int, str, float]]


def gallery_view(
    shots: Mapping[str, Sequence[Shot]],
    numbers: Mapping[int, int],
    names: Sequence[str],
    threshold: float,
) -> dict[str, Any]:
    """The values of the template ``gallery.html.j2``.

    Args:
        shots: the images by group.
        numbers: positions of the run's classes by category id.
        names: names of the run's classes by position.
        threshold: the score at which the slider starts, rounded down to its steps.
    """
    ids = count(1)
    groups = {
        name: [_view(f"p{next(ids)}", shot, numbers, names) for shot in group]
        for name, group in shots.items()
    }
    views = [view for group in groups.values() for view in group]
    used = _used(views)
    return {
        "groups": groups,
        "judged": any(view.truth is not None for view in views),
        "threshold": threshold,
        "start": int(threshold * 100 + 1e-6) / 100,
        "masks": used.total(),
        "names": {number: names[number] for number in sorted(used)},
        "filters": _filters(used, names),
        "masks_per_class": MASKS_PER_CLASS,
    }


def _view(shot_id: str, shot: Shot, numbers: Mapping[int, int], names: Sequence[str]) -> ShotView:
    found = shot.candidate.labels.detections
    predictions = _predictions(shot, numbers, names)
    classes = []
    for category_id in shot.candidate.category_ids:
        highest = max(d.score for d in found if d.category_id == category_id)
        classes.append((numbers[category_id], names[numbers[category_id]], highest))
    hidden = len(found) - len(predictions)
    return ShotView(shot_id, shot, _objects(shot, numbers), predictions, hidden, classes)


def _used(views: Sequence[ShotView]) -> Counter[int]:
    """Predictions painted by position of their class; 0 where only the ground truth has it."""
    used = Counter(mask.number for view in views for mask in view.predictions)
    used.update({mask.number: 0 for view in views for mask in view.truth or ()})
    return used


def _filters(used: Counter[int], names: Sequence[str]) -> list[tuple[int | str, str, str, int]]:
    """The most frequent classes in the order of the run, then one filter for all others."""
    by_count = sorted(used, key=lambda number: (-used[number], number))
    filters: list[tuple[int | str, str, str, int]] = [
        (number, names[number], colour(number), used[number])
        for number in sorted(by_count[:MAX_FILTERS])
    ]
    if others := by_count[MAX_FILTERS:]:
        masks = sum(used[number] for number in others)
        filters.append(("rest", f"{len(others)} other classes", "other", masks))
    return filters


def _objects(shot: Shot, numbers: Mapping[int, int]) -> list[Overlay] | None:
    labels, matches = shot.candidate.labels, shot.candidate.matches
    if matches is None:
        return None
    scores = ["" if i is None else _score(labels.detections[i]) for i in matches.matched_by]
    return [
        Overlay(numbers[found.category_id], _path(found.rle, shot), score)
        for found, score in list(zip(matches.objects, scores, strict=True))[: shot.size.objects]
    ]


def _predictions(shot: Shot, numbers: Mapping[int, int], names: Sequence[str]) -> list[Overlay]:
    labels, matches = shot.candidate.labels, shot.candidate.matches
    right = matches.right if matches is not None else (None,) * len(labels.detections)
    ranked = list(zip(labels.detections, right))
    if shot.candidate.category_ids:
        ranked = _best_of_each_class(ranked)
    ranked = ranked[: shot.size.masks]
    # large masks first, so that small ones lie above them and can be reached
    ranked.sort(key=lambda item: (-item[0].area, -item[0].score))
    return [
        Overlay(
            numbers[detection.category_id],
            _path(detection.rle, shot),
            _score(detection),
            is_right,
            _name(detection, names[numbers[detection.category_id]], shot.picture),
        )
        for detection, is_right in ranked
    ]


def _best_of_each_class(
    ranked: Sequence[tuple[Detection, bool | None]],
) -> list[tuple[Detection, bool | None]]:
    """Of detections by falling score the first few of each class, the first of all before them."""
    found = Counter[int]()
    kept = []
    for item in ranked:
        place = found[item[0].category_id]
        found[item[0].category_id] += 1
        if place < MASKS_PER_CLASS:
            kept.append((place, item))
    return [item for _, item in sorted(kept, key=lambda own: own[0])]


def _score(detection: Detection) -> str:
    return format(detection.score, ".9g")


def _path(rle: Rle, shot: Shot) -> str:
    return mask_to_path(decode_rle(rle), shot.picture.scale)


def _name(detection: Detection, class_name: str, picture: Thumbnail) -> Name:
    x, y, width, height = detection.bbox_xywh
    wide, high = picture.width_units, picture.height_units
    scale = picture.scale * UNITS_PER_PX
    middle_x, middle_y = (x + width / 2) * scale, (y + height / 2) * scale
    # names of masks at the border must not be cut off by it
    side = {0: ("start", 0.02 * wide), 3: ("end", 0.98 * wide)}.get(int(4 * middle_x / wide))
    anchor, at_x = side if side and width * scale < wide / 4 else ("", middle_x)
    text = f"{class_name[:_NAME_LETTERS]} {detection.score:.2f}"
    return Name(text, at_x, min(max(middle_y, 0.06 * high), 0.94 * high), anchor)
