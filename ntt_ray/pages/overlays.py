"""Pictures with masks drawn over them, as HTML: reference crops and the gallery.

Images come as data URIs and masks as paths, so nothing has to be loaded. Every text from the data
is escaped. It reads no files; what it draws was chosen elsewhere.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ntt_ray.masks import decode_rle
from ntt_ray.pages.pictures import UNITS_PER_PX, Thumbnail, mask_to_path
from ntt_ray.records import ClassLabel, Detection
from ntt_ray.report.gallery import Candidate

COLOURS = 12  # the template defines so many; classes take them in turn
MAX_FILTERS = 30
MAX_MASKS = 50  # drawn per image, the highest scores
MAX_OBJECTS = 200  # of the ground truth drawn per image
_NAME_SHOWN = 60
_TEXT_SHARE = 0.055  # of a picture's height; rows of the gallery are equally high


@dataclass(frozen=True, slots=True)
class ReferencePicture:
    """A reference crop: its picture and the outline of its mask."""

    file_name: str
    picture: Thumbnail
    path: str


@dataclass(frozen=True, slots=True)
class ClassReferences:
    """The crops shown for a class, out of `total`."""

    label: ClassLabel
    total: int
    crops: tuple[ReferencePicture, ...]


@dataclass(frozen=True, slots=True)
class Shot:
    """An image of the gallery with its picture; `note` says why there is none."""

    candidate: Candidate
    picture: Thumbnail
    note: str


def escaped(value: Any) -> str:
    """A text from the data, safe between tags and inside quoted attributes."""
    return html.escape(str(value), quote=True)


def shortened(name: str) -> str:
    """A name cut to a length that fits a table."""
    return name if len(name) <= _NAME_SHOWN else name[: _NAME_SHOWN - 1] + "…"


def colour_class(number: int) -> str:
    """CSS class with the colour of a class, by its position in the run."""
    return f"c{number % COLOURS}"


def more_line(total: int, shown: int, what: str) -> str:
    """A line that says how much a list leaves out; empty when it is complete."""
    if total <= shown:
        return ""
    return f'<p class="more">and {total - shown:,} more {what}</p>'


def reference_section(references: Sequence[ClassReferences], numbers: Mapping[int, int]) -> str:
    """Reference crops by class; `numbers` are the positions of the run's classes by id."""
    if not references:
        return ""
    blocks = []
    for group in references:
        colour = colour_class(numbers[group.label.category_id])
        crops = "".join(crop_picture(crop, colour) for crop in group.crops)
        more = group.total - len(group.crops)
        crops += f'<span class="more">+{more:,}</span>' if more > 0 else ""
        blocks.append(
            f'<div class="class"><h3><i class="dot {colour}"></i>'
            f"<bdi>{escaped(shortened(group.label.name))}</bdi></h3>"
            f'<div class="crops">{crops}</div></div>'
        )
    rest = more_line(len(numbers), len(references), "classes")
    return (
        '<section class="card"><h2>References</h2><p class="note">All that the method was told '
        "about each class: these annotated examples.</p>"
        f'<div class="classes">{"".join(blocks)}</div>{rest}</section>'
    )


def crop_picture(crop: ReferencePicture, colour: str) -> str:
    """A reference crop with the outline of its mask; `colour` is the CSS class of its colour."""
    box = view_box(crop.picture)
    return (
        f'<svg class="crop" viewBox="0 0 {box}" role="img" aria-label="reference in '
        f'{escaped(crop.file_name)}">{_image(crop.picture, "")}<g class="ref {colour}">'
        f'<path d="{crop.path}"/></g><title>{escaped(crop.file_name)}</title></svg>'
    )


class Gallery:
    """Draws the gallery and remembers which classes appear in it.

    Attributes:
        used: masks drawn by class number (the position of the class in the run).
    """

    def __init__(self, numbers: Mapping[int, int], names: Sequence[str], threshold: float) -> None:
        self.used: dict[int, int] = {}
        self._numbers, self._names, self._threshold = numbers, names, threshold
        self._drawn = 0

    def section(self, shots: Mapping[str, Sequence[Shot]]) -> str:
        """The whole gallery with its controls, or a line where there is nothing to show."""
        if not any(shots.values()):
            return '<p class="note" data-testid="no-gallery">There is no image to show.</p>'
        judged = any(s.candidate.matches is not None for group in shots.values() for s in group)
        titles = _group_titles(judged, self._threshold)
        groups = "".join(
            f'<section class="group" data-testid="group-{name}"><h3>{titles[name][0]}</h3>'
            f'<p class="note">{titles[name][1]}</p><div class="shots{" pairs" if judged else ""}">'
            f"{''.join(self._shot(shot) for shot in group)}</div></section>"
            for name, group in shots.items()
            if group
        )
        return self._controls(judged) + groups

    def _controls(self, judged: bool) -> str:
        start = int(self._threshold * 100 + 1e-6) / 100
        by_count = sorted(self.used, key=lambda number: (-self.used[number], number))
        shown = sorted(by_count[:MAX_FILTERS])
        filters = "".join(
            self._filter(str(number), self._names[number], colour_class(number), self.used[number])
            for number in shown
        )
        if others := by_count[MAX_FILTERS:]:
            name, count = f"{len(others)} other classes", sum(self.used[n] for n in others)
            filters += self._filter("rest", name, "other", count)
        hint = (
            '<p class="note">Left the ground truth, right the prediction. Dashed outlines are '
            "missed on the left and wrong on the right, at the chosen score.</p>"
            if judged
            else ""
        )
        return (
            f'{hint}<div class="controls"><div class="score"><label for="score">Score at least '
            f'<output id="score-value" for="score">{start:.2f}</output></label>'
            f'<input type="range" id="score" min="0" max="1" step="0.01" value="{start:.2f}" '
            'data-testid="score-slider"><span class="live" role="status">'
            '<b id="visible-count" data-testid="visible-count"></b> of '
            f"{sum(self.used.values()):,}<span> masks</span></span>"
            '<label class="names-switch"><input type="checkbox" id="names" data-testid="names">'
            'Names</label></div><fieldset class="filters"><legend>Classes</legend>'
            '<button type="button" id="all" data-testid="all">All</button>'
            '<button type="button" id="none" data-testid="none">None</button>'
            f"{filters}</fieldset></div>"
        )

    def _filter(self, number: str, name: str, colour: str, count: int) -> str:
        return (
            f'<label class="chip {colour}"><input type="checkbox" checked data-k="{number}" '
            f'data-testid="class-{number}"><i class="dot {colour}"></i>'
            f"<bdi>{escaped(shortened(name))}</bdi> <small>{count:,}</small></label>"
        )

    def _shot(self, shot: Shot) -> str:
        labels, matches = shot.candidate.labels, shot.candidate.matches
        self._drawn += 1
        image_id = f"p{self._drawn}"
        panes = []
        if matches is not None:
            scores = [None if i is None else labels.detections[i].score for i in matches.matched_by]
            truth = [
                self._mask(
                    "t",
                    found.category_id,
                    mask_to_path(decode_rle(found.rle), shot.picture.scale),
                    f'data-s="{"" if score is None else format(score, ".9g")}"',
                )
                for found, score in list(zip(matches.objects, scores))[:MAX_OBJECTS]
            ]
            text = f"ground truth of {labels.entry.file_name}"
            panes.append(_pane(shot, "truth", text, _image(shot.picture, image_id), truth))
        picture = f'<use href="#{image_id}"/>' if panes else _image(shot.picture, image_id)
        text = f"prediction for {labels.entry.file_name}"
        panes.append(_pane(shot, "prediction", text, picture, self._predictions(shot)))
        name = escaped(labels.entry.file_name)
        aspect = len(panes) * shot.picture.width / shot.picture.height
        hidden = len(labels.detections) - MAX_MASKS
        more = f' <span class="more">{hidden} lower not drawn</span>' if hidden > 0 else ""
        return (
            f'<figure class="shot" style="--aspect:{aspect:.3f}" data-testid="shot">'
            f'<div class="panes">{"".join(panes)}</div>'
            f'<figcaption><bdi title="{name}">{name}</bdi><span class="tally"></span>{more}'
            "</figcaption></figure>"
        )

    def _predictions(self, shot: Shot) -> list[str]:
        labels, matches = shot.candidate.labels, shot.candidate.matches
        right = matches.right if matches is not None else (None,) * len(labels.detections)
        ranked = list(zip(labels.detections, right))[:MAX_MASKS]
        # large masks first, so that small ones lie above them and can be reached
        ranked.sort(key=lambda item: (-item[0].area, -item[0].score))
        drawn = []
        for detection, is_right in ranked:
            path = mask_to_path(decode_rle(detection.rle), shot.picture.scale)
            judged = "" if is_right is None else f' data-r="{int(is_right)}"'
            values = f'data-s="{detection.score:.9g}"{judged}'
            drawn.append(
                self._mask(
                    "m", detection.category_id, path, values, self._name_on_mask(detection, shot)
                )
            )
        return drawn

    def _mask(self, kind: str, category_id: int, path: str, values: str, inside: str = "") -> str:
        number = self._numbers[category_id]
        self.used[number] = self.used.get(number, 0) + (kind == "m")
        return (
            f'<g class="{kind} {colour_class(number)}" data-k="{number}" {values}>'
            f'<path d="{path}"/>{inside}</g>'
        )

    def _name_on_mask(self, detection: Detection, shot: Shot) -> str:
        x, y, width, height = detection.bbox_xywh
        wide, high = shot.picture.width * UNITS_PER_PX, shot.picture.height * UNITS_PER_PX
        scale = shot.picture.scale * UNITS_PER_PX
        middle_x, middle_y = (x + width / 2) * scale, (y + height / 2) * scale
        # names of masks at the border must not be cut off by it
        side = {0: ("start", 0.02 * wide), 3: ("end", 0.98 * wide)}.get(int(4 * middle_x / wide))
        anchor, at_x = side if side and width * scale < wide / 4 else ("", middle_x)
        style = f' style="text-anchor:{anchor}"' if anchor else ""
        at_y = min(max(middle_y, 0.06 * high), 0.94 * high)
        name = escaped(self._names[self._numbers[detection.category_id]][:24])
        return f'<text x="{at_x:.0f}" y="{at_y:.0f}"{style}>{name} {detection.score:.2f}</text>'


def _group_titles(judged: bool, threshold: float) -> dict[str, tuple[str, str]]:
    best = "Images where masks and classes agree most." if judged else "The highest scores."
    worst = "Images where most is missed or wrong." if judged else "Labels of low scores only."
    return {
        "best": ("Best", best),
        "worst": ("Worst", worst),
        "borderline": ("Borderline", f"Images with a score close to {threshold:.2f}."),
        "empty": ("Nothing found", "Some of the images without a label."),
    }


def _pane(shot: Shot, kind: str, text: str, picture: str, masks: Sequence[str]) -> str:
    note = f'<p class="note">{escaped(shot.note)}</p>' if shot.note and kind == "prediction" else ""
    text_px = _TEXT_SHARE * shot.picture.height * UNITS_PER_PX
    return (
        f'<div class="pane"><svg class="pic {kind}" style="--text:{text_px:.0f}px" viewBox="0 0 '
        f'{view_box(shot.picture)}" role="img" tabindex="0" aria-label="{escaped(text)}">{picture}'
        f"{''.join(masks)}</svg>{note}</div>"
    )


def view_box(picture: Thumbnail) -> str:
    """Width and height of a picture in the units of its paths."""
    return f"{picture.width * UNITS_PER_PX} {picture.height * UNITS_PER_PX}"


def _image(picture: Thumbnail, identity: str) -> str:
    size = f'width="{picture.width * UNITS_PER_PX}" height="{picture.height * UNITS_PER_PX}"'
    name = f' id="{identity}"' if identity else ""
    if not picture.data_uri:
        return f'<rect{name} class="blank" {size}/>'
    return f'<image{name} {size} href="{picture.data_uri}"/>'
