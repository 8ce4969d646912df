"""A page with a picture of every box and the mask that was made of it.

Images come as data URIs and masks as paths, so nothing has to be loaded, and no script runs. Every
text from the data is escaped. It reads no files but its template ``boxes.html``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from string import Template

from ntt_ray.images import RgbImage
from ntt_ray.masks import Rle, decode_rle
from ntt_ray.quality.overlays import colour_class, escaped, shortened
from ntt_ray.quality.pictures import UNITS_PER_PX, Thumbnail, mask_to_path, thumbnail
from ntt_ray.references.crops import crop_window

MAX_SIDE_PX = 260
MAX_BYTES = 16_000  # of one picture
CONTEXT = 0.5  # of the box, around it
SOURCES = {"sam2": "mask by SAM2", "box": "box kept as mask", "given": "mask was given"}


@dataclass(frozen=True, slots=True)
class BoxPicture:
    """A reference with its box and mask.

    Attributes:
        annotation_id: of the reference.
        category_id: its class.
        file_name: of its image.
        picture: the image around the box.
        frame: the box in the picture, x, y, width, height in shown pixels.
        path: outline of the mask, see `mask_to_path`.
        source: a key of `SOURCES`.
        note: what is to be said about it.
    """

    annotation_id: int
    category_id: int
    file_name: str
    picture: Thumbnail
    frame: tuple[float, float, float, float]
    path: str
    source: str
    note: str


def draw_box(
    image_rgb: RgbImage,
    bbox_xywh: tuple[float, float, float, float],
    rle: Rle,
    *,
    annotation_id: int,
    category_id: int,
    file_name: str,
    source: str,
    note: str,
) -> BoxPicture:
    """Cut a reference out of its image ``(h, w, 3)``, with some of what is around it."""
    size_hw = (image_rgb.shape[0], image_rgb.shape[1])
    x1, y1, x2, y2 = crop_window(bbox_xywh, size_hw, CONTEXT)
    picture = thumbnail(image_rgb[y1:y2, x1:x2], MAX_SIDE_PX, MAX_BYTES)
    x, y, width, height = bbox_xywh
    frame = (x - x1, y - y1, width, height)
    return BoxPicture(
        annotation_id=annotation_id,
        category_id=category_id,
        file_name=file_name,
        picture=picture,
        frame=(
            frame[0] * picture.scale,
            frame[1] * picture.scale,
            frame[2] * picture.scale,
            frame[3] * picture.scale,
        ),
        path=mask_to_path(decode_rle(rle)[y1:y2, x1:x2], picture.scale),
        source=source,
        note=note,
    )


def render_boxes(pictures: Sequence[BoxPicture], classes: Sequence[tuple[int, str]]) -> str:
    """The page: kept boxes first, then class by class.

    Args:
        pictures: of all references.
        classes: id and name, in the order shown.
    """
    template = resources.files("ntt_ray.quality").joinpath("boxes.html").read_text("utf-8")
    counts = Counter(picture.source for picture in pictures)
    summary = " · ".join(f"{text}: {counts[s]:,}" for s, text in SOURCES.items() if counts[s])
    sections = []
    if kept := [picture for picture in pictures if picture.source == "box"]:
        names = dict(classes)
        figures = "".join(_figure(p, "cx", names[p.category_id]) for p in kept)
        sections.append(
            _section("No mask was found for these", figures, "The whole box counts as object.")
        )
    for number, (category_id, name) in enumerate(classes):
        own = [p for p in pictures if p.category_id == category_id and p.source != "box"]
        if own:
            figures = "".join(_figure(p, colour_class(number)) for p in own)
            sections.append(_section(name, figures))
    return Template(template).substitute(summary=escaped(summary), sections="".join(sections))


def _section(title: str, figures: str, note: str = "") -> str:
    below = f'<p class="note">{escaped(note)}</p>' if note else ""
    return (
        f"<section><h2><bdi>{escaped(shortened(title))}</bdi></h2>{below}"
        f'<div class="figures">{figures}</div></section>'
    )


def _figure(shown: BoxPicture, colour: str, class_name: str = "") -> str:
    width, height = shown.picture.width * UNITS_PER_PX, shown.picture.height * UNITS_PER_PX
    x, y, w, h = (round(value * UNITS_PER_PX) for value in shown.frame)
    badge = f'<b class="badge {escaped(shown.source)}">{escaped(SOURCES[shown.source])}</b>'
    named = f"<bdi>{escaped(shortened(class_name))}</bdi> " if class_name else ""
    alt = f"reference {shown.annotation_id} in {shown.file_name}: {SOURCES[shown.source]}"
    return (
        f'<figure><svg class="{colour}" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escaped(alt)}"><image width="{width}" height="{height}" '
        f'href="{shown.picture.data_uri}"/><path d="{shown.path}"/>'
        f'<rect x="{x}" y="{y}" width="{w}" height="{h}"/></svg><figcaption>{badge}'
        f"<span>{named}annotation {shown.annotation_id}, "
        f"<bdi>{escaped(shortened(shown.file_name))}</bdi></span><span>{escaped(shown.note)}</span>"
        "</figcaption></figure>"
    )
