"""The page of a calibration, ``calibration.html``: thresholds, and every picture they come from.

Images come as data URIs and masks as paths, so nothing has to be loaded, and no script runs. Every
text from the data is escaped. It reads no files but its template, and judges nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ntt_ray.calibrate.thresholds import MIN_IMAGES, ClassCalibration, ImageOutcomes
from ntt_ray.evaluate.matching import Matches
from ntt_ray.images import RgbImage
from ntt_ray.masks import Rle, decode_rle
from ntt_ray.pages.overlays import colour_class, escaped, more_line, shortened, view_box
from ntt_ray.pages.pictures import UNITS_PER_PX, Thumbnail, blank, mask_to_path, thumbnail
from ntt_ray.records import ImageLabels
from ntt_ray.report.metrics_page import figure
from ntt_ray.report.page import count_text, fill_template, tile

MAX_PICTURES = 60
MAX_ROWS = 100
_BINS = 100
_SIDE_PX, _BYTES = 300, 20_000
_STRIP_HEIGHT = 40
_UNCLEAR = (
    '<span><i class="k-open"></i>unclear, not counted: of a class that is annotated elsewhere in '
    "the image, so it may be an object nobody annotated</span>"
)
_NAMED = 4  # classes named below a picture, of each kind


@dataclass(frozen=True, slots=True)
class CalibrationView:
    """A reference image as it was labelled without its own references.

    Attributes:
        file_name: of the image.
        picture: the image.
        right: class and outline of each kept detection that matches an annotated object.
        wrong: of each kept one that is a false alarm.
        unclear: of each kept one that may be an object nobody annotated.
        missed: class and outline of each annotated object that was not found.
    """

    file_name: str
    picture: Thumbnail
    right: tuple[tuple[int, str], ...]
    wrong: tuple[tuple[int, str], ...]
    unclear: tuple[tuple[int, str], ...]
    missed: tuple[tuple[int, str], ...]


@dataclass(frozen=True, slots=True)
class Judged:
    """What was found on a reference image, beside what is annotated and what was made of it."""

    labels: ImageLabels
    matches: Matches
    outcomes: ImageOutcomes

    def kept(self, thresholds: Mapping[int, float]) -> list[bool]:
        """Whether each detection reaches the threshold of its class."""
        return [o.score >= thresholds[o.category_id] for o in self.outcomes.outcomes]

    def missed(self, thresholds: Mapping[int, float]) -> list[int]:
        """Positions of the annotated objects that no kept detection found."""
        kept = self.kept(thresholds)
        found = [i is not None and kept[i] for i in self.matches.matched_by]
        findable = [o.category_id in self.outcomes.objects for o in self.matches.objects]
        return [j for j in range(len(found)) if findable[j] and not found[j]]

    def mistakes(self, thresholds: Mapping[int, float]) -> int:
        """How many kept detections are wrong, and objects missed."""
        kept = self.kept(thresholds)
        wrong = sum(k and o.right is False for k, o in zip(kept, self.outcomes.outcomes))
        return wrong + len(self.missed(thresholds))


def worst_first(judged: Sequence[Judged], thresholds: Mapping[int, float]) -> list[Judged]:
    """The images to show, those with the most mistakes first."""
    ranked = sorted(judged, key=lambda j: (-j.mistakes(thresholds), j.labels.entry.image_id))
    return ranked[:MAX_PICTURES]


def draw_judged(
    judged: Judged, image_rgb: RgbImage | None, thresholds: Mapping[int, float]
) -> CalibrationView:
    """Draw an image ``(h, w, 3)``; without one its place stays empty.

    Args:
        judged: what was found on it.
        image_rgb: None where it cannot be read any more.
        thresholds: by category id.
    """
    labels, matches = judged.labels, judged.matches
    assert labels.height is not None
    assert labels.width is not None
    picture = (
        blank((labels.height, labels.width), _SIDE_PX)
        if image_rgb is None
        else thumbnail(image_rgb, _SIDE_PX, _BYTES)
    )

    def path(rle: Rle) -> str:
        return mask_to_path(decode_rle(rle), picture.scale)

    drawn: dict[bool | None, list[tuple[int, str]]] = {True: [], False: [], None: []}
    for detection, outcome, kept in zip(
        labels.detections, judged.outcomes.outcomes, judged.kept(thresholds), strict=True
    ):
        if kept:
            drawn[outcome.right].append((detection.category_id, path(detection.rle)))
    missed = [matches.objects[j] for j in judged.missed(thresholds)]
    return CalibrationView(
        labels.entry.file_name,
        picture,
        right=tuple(drawn[True]),
        wrong=tuple(drawn[False]),
        unclear=tuple(drawn[None]),
        missed=tuple((found.category_id, path(found.rle)) for found in missed),
    )


def render_calibration(
    found: Sequence[ClassCalibration],
    seen: Sequence[ImageOutcomes],
    views: Sequence[CalibrationView],
    *,
    wanted_precision: float | None,
    complete: bool,
) -> str:
    """Fill the template.

    Args:
        found: what was chosen for each class.
        seen: what it was chosen from.
        views: some of the reference images, in the order shown.
        wanted_precision: what was asked for, instead of the best F1.
        complete: whether every object of the images was said to be annotated.
    """
    numbers = {item.label.category_id: number for number, item in enumerate(found)}
    names = {item.label.category_id: item.label.name for item in found}
    aim = "the best F1" if wanted_precision is None else f"a precision of {wanted_precision:g}"
    return fill_template(
        "calibration.html",
        subtitle=escaped(
            f"{count_text(len(found), 'class')} · {count_text(len(seen), 'reference image')}, each "
            f"labelled without its own references · thresholds for {aim}"
        ),
        tiles=_tiles(found),
        warning=_warning(found),
        classes=_table(found, seen),
        unclear="" if complete else _UNCLEAR,
        pictures="".join(_figure(view, numbers, names) for view in views)
        + more_line(len(seen), len(views), "reference images"),
    )


def _tiles(found: Sequence[ClassCalibration]) -> str:
    objects, kept = sum(i.objects for i in found), sum(i.kept for i in found)
    right = sum(i.right for i in found)
    enough = sum(item.enough for item in found)
    return "".join(
        (
            tile(
                "Precision",
                figure(right / kept if kept else None),
                f"expected: {right:,} of {kept:,} kept detections are right",
            ),
            tile(
                "Recall",
                figure(right / objects if objects else None),
                f"expected: {right:,} of {objects:,} annotated objects are found",
            ),
            tile(
                "Classes that can be told",
                f"{enough:,} of {len(found):,}",
                f"have {MIN_IMAGES} reference images or more",
                kind="" if enough == len(found) else " alert",
            ),
        )
    )


def _warning(found: Sequence[ClassCalibration]) -> str:
    few = [item.label.name for item in found if not item.enough]
    if not few:
        return ""
    shown = ", ".join(shortened(name) for name in few[:8])
    more = f" and {len(few) - 8:,} more" if len(few) > 8 else ""
    return (
        f'<section class="card" data-testid="too-few"><h2>Too few references to tell</h2><p>'
        f"<bdi>{escaped(shown)}</bdi>{more}: fewer than {MIN_IMAGES} images that could be labelled "
        "without their own references. What all classes say together is their threshold; annotate "
        "more to know.</p></section>"
    )


def _table(found: Sequence[ClassCalibration], seen: Sequence[ImageOutcomes]) -> str:
    order = sorted(range(len(found)), key=lambda k: (found[k].precision or 0.0, k))
    shown = sorted(order[:MAX_ROWS]) if len(found) > MAX_ROWS else range(len(found))
    scores = _scores(seen)
    rows = "".join(_row(k, found[k], scores.get(found[k].label.category_id, ())) for k in shown)
    head = ("Class", "Images", "Objects", "Score at least", "Detections by score", "Precision")
    columns = "".join(f'<th scope="col">{name}</th>' for name in (*head, "Recall"))
    return (
        '<div class="scroll" tabindex="0"><table data-testid="classes"><thead><tr>'
        f"{columns}</tr></thead><tbody>{rows}</tbody></table></div>"
        + more_line(len(found), MAX_ROWS, "classes, in calibration.json")
    )


def _row(number: int, item: ClassCalibration, scores: Sequence[tuple[float, bool]]) -> str:
    precision_range, recall_range = item.ranges()
    cells = [
        f"{item.images:,}",
        f"{item.objects:,}",
        "merge.min_score" if item.threshold is None else f"{item.threshold:.2f}",
        _strip(scores, item.threshold),
        _share(item.precision, precision_range, item.right, item.kept),
        _share(item.recall, recall_range, item.right, item.objects),
    ]
    return (
        f'<tr><th scope="row"><i class="dot {colour_class(number)}"></i>'
        f"<bdi>{escaped(shortened(item.label.name))}</bdi></th>"
        + "".join(f"<td>{cell}</td>" for cell in cells)
        + "</tr>"
    )


def _share(share: float | None, within: tuple[float, float] | None, hits: int, count: int) -> str:
    if share is None or within is None:
        return "–"
    return f"{share:.2f} <small>{within[0]:.2f} to {within[1]:.2f} · {hits:,} of {count:,}</small>"


def _scores(seen: Sequence[ImageOutcomes]) -> dict[int, list[tuple[float, bool]]]:
    """Scores of the detections that can be judged, and whether they are right, by category id."""
    scores: dict[int, list[tuple[float, bool]]] = {}
    for image in seen:
        for outcome in image.outcomes:
            if outcome.right is not None:
                own = scores.setdefault(outcome.category_id, [])
                own.append((outcome.score, outcome.right))
    return scores


def _strip(scores: Sequence[tuple[float, bool]], threshold: float | None) -> str:
    """Detections along the score: right ones upwards, wrong ones downwards from the middle."""
    counts = {True: [0] * _BINS, False: [0] * _BINS}
    for score, right in scores:
        counts[right][min(_BINS - 1, int(score * _BINS))] += 1
    top, half = max(1, *counts[True], *counts[False]), _STRIP_HEIGHT / 2
    bars = []
    for right, name in ((True, "right"), (False, "wrong")):
        for place, count in enumerate(counts[right]):
            height = (half - 3) * count / top
            y = half - height if right else half
            if count:
                bars.append(
                    f'<rect class="{name}" x="{place}.1" y="{y:.1f}" width="1.2" '
                    f'height="{height:.1f}"/>'
                )
    line = ""
    if threshold is not None:
        x = 100 * threshold
        line = f'<path class="at" d="M{x:.2f} 0V{_STRIP_HEIGHT}"/>'
    return (
        f'<svg class="strip" viewBox="0 0 {_BINS} {_STRIP_HEIGHT}" preserveAspectRatio="none" '
        f'role="img" aria-label="{len(scores)} detections by score">'
        f'<path class="base" d="M0 {half}H{_BINS}"/>{"".join(bars)}{line}</svg>'
    )


def _figure(view: CalibrationView, numbers: Mapping[int, int], names: Mapping[int, str]) -> str:
    groups = {"hit": view.right, "open": view.unclear, "miss": view.missed, "alarm": view.wrong}
    drawn = "".join(
        f'<g class="{kind} {colour_class(numbers[category_id])}"><path d="{path}"/></g>'
        for kind, found in groups.items()
        for category_id, path in found
    )
    wide, high = (v * UNITS_PER_PX for v in (view.picture.width, view.picture.height))
    uri = view.picture.data_uri
    image = f'<image width="{wide}" height="{high}" href="{uri}"/>' if uri else ""
    name = escaped(view.file_name)
    lines = [
        _tally(word, kind, found, names)
        for word, kind, found in (
            ("right", "good", view.right),
            ("wrong", "bad", view.wrong),
            ("missed", "bad", view.missed),
            ("unclear", "", view.unclear),
        )
        if found
    ]
    return (
        f'<figure class="shot" style="--aspect:{wide / high:.3f}" data-testid="picture">'
        f'<svg class="pic" viewBox="0 0 {view_box(view.picture)}" '
        f'role="img" aria-label="{name}">{image}{drawn}</svg>'
        f'<figcaption><bdi title="{name}">{name}</bdi>{"".join(lines)}</figcaption></figure>'
    )


def _tally(word: str, kind: str, found: Sequence[tuple[int, str]], names: Mapping[int, str]) -> str:
    """``2 wrong: key, rocket``."""
    own = list(dict.fromkeys(names[category_id] for category_id, _ in found))
    text = ", ".join(shortened(name) for name in own[:_NAMED]) + (", …" if own[_NAMED:] else "")
    return f'<span class="{kind}">{len(found)} {word}: <bdi>{escaped(text)}</bdi></span>'
