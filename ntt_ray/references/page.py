"""A page with a picture of every reference: its box, and the mask that it has or was given.

Images come as data URIs and masks as paths, so nothing has to be loaded, and no script runs. Every
text from the data is escaped. What has to be looked at first comes first.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from string import Template
from typing import Any

from ntt_ray import storage
from ntt_ray.errors import ImageError, InputError
from ntt_ray.images import RgbImage
from ntt_ray.masks import Rle, decode_rle, segmentation_to_rle
from ntt_ray.pages.overlays import colour_class, escaped, more_line, shortened
from ntt_ray.pages.pictures import UNITS_PER_PX, Thumbnail, blank, mask_to_path, thumbnail
from ntt_ray.records import ImageEntry
from ntt_ray.references.crops import crop_window
from ntt_ray.references.dataset import checked_box, decode_sized, image_entry, read_all
from ntt_ray.storage import Storage

MAX_SIDE_PX = 260
MAX_BYTES = 16_000  # of one picture
MAX_SHOWN = 600  # pictures on a page, divided among its sections
MIN_SHOWN = 6  # of a section
CONTEXT = 0.5  # of the box, around it
SOURCES = {
    "box": "box kept as mask",
    "doubtful": "doubtful mask by SAM2",
    "sam2": "mask by SAM2",
    "given": "mask was given",
    "none": "box without a mask",
}
FIRST = {  # what has to be looked at: title and what it means
    "box": ("No mask was found for these", "The whole box counts as object."),
    "doubtful": (
        "Doubtful",
        "Mask and box agree little, or SAM2 expects little of its mask: box IoU times predicted "
        "IoU is low. Draw what is wrong by hand, or leave it out.",
    ),
}


@dataclass(frozen=True, slots=True)
class ReferenceView:
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


def draw_reference(
    image_rgb: RgbImage,
    bbox_xywh: tuple[float, float, float, float],
    rle: Rle | None,
    *,
    annotation_id: int,
    category_id: int,
    file_name: str,
    source: str,
    note: str,
) -> ReferenceView:
    """Cut a reference out of its image ``(h, w, 3)``, with some of what is around it."""
    size_hw = (image_rgb.shape[0], image_rgb.shape[1])
    x1, y1, x2, y2 = crop_window(bbox_xywh, size_hw, CONTEXT)
    picture = thumbnail(image_rgb[y1:y2, x1:x2], MAX_SIDE_PX, MAX_BYTES)
    x, y, width, height = (value * picture.scale for value in bbox_xywh)
    return ReferenceView(
        annotation_id=annotation_id,
        category_id=category_id,
        file_name=file_name,
        picture=picture,
        frame=(x - x1 * picture.scale, y - y1 * picture.scale, width, height),
        path="" if rle is None else mask_to_path(decode_rle(rle)[y1:y2, x1:x2], picture.scale),
        source=source,
        note=note,
    )


def draw_file(coco: Mapping[str, Any], image_root: str, store: Storage) -> str:
    """The page of a COCO file of references.

    Args:
        coco: one whose ids, sizes and numbers were checked.
        image_root: folder or URI prefix of its images.
        store: access to files. A reference that cannot be drawn has an empty picture and a reason.
    """
    classes = [(c["id"], c["name"]) for c in coco["categories"]]
    limit = _limit(len(classes))
    counts: Counter[int] = Counter()
    images = {image["id"]: image for image in coco["images"]}
    by_image: dict[ImageEntry, list[Mapping[str, Any]]] = defaultdict(list)
    views: dict[int, ReferenceView] = {}
    for annotation in coco["annotations"]:
        counts[annotation["category_id"]] += 1
        if counts[annotation["category_id"]] > limit:
            continue
        try:
            entry = image_entry(images[annotation["image_id"]], image_root)
            by_image[entry].append(annotation)
        except (ValueError, InputError) as error:
            views[annotation["id"]] = _undrawn(annotation, "", str(error))
    for entry, data, problem in read_all(by_image, store):
        for annotation in by_image[entry]:
            try:
                view = _drawn(annotation, images[entry.image_id], data, problem)
            except (ValueError, ImageError) as error:
                view = _undrawn(annotation, entry.file_name, str(error))
            views[annotation["id"]] = view
    shown = [views[a["id"]] for a in coco["annotations"] if a["id"] in views]
    return render_references(shown, classes, counts=counts)


def _drawn(
    annotation: Mapping[str, Any],
    image: Mapping[str, Any],
    data: bytes | None,
    problem: str | None,
) -> ReferenceView:
    """A reference's picture; ValueError or ImageError says why there is none."""
    if data is None:
        raise ImageError(problem or "it cannot be read")
    size_hw = (image["height"], image["width"])
    given = annotation.get("segmentation")
    return draw_reference(
        decode_sized(data, size_hw),
        checked_box(annotation, image),
        segmentation_to_rle(given, *size_hw) if given else None,
        annotation_id=annotation["id"],
        category_id=annotation["category_id"],
        file_name=image["file_name"],
        source="given" if given else "none",
        note="",
    )


def _undrawn(annotation: Mapping[str, Any], file_name: str, problem: str) -> ReferenceView:
    return ReferenceView(
        annotation_id=annotation["id"],
        category_id=annotation["category_id"],
        file_name=file_name,
        picture=blank((MAX_SIDE_PX, MAX_SIDE_PX), MAX_SIDE_PX),
        frame=(0.0, 0.0, 0.0, 0.0),
        path="",
        source="given" if annotation.get("segmentation") else "none",
        note=f"no picture: {storage.redact(problem)}",
    )


def render_references(
    views: Sequence[ReferenceView],
    classes: Sequence[tuple[int, str]],
    *,
    counts: Mapping[int, int] | None = None,
) -> str:
    """The page: what has to be looked at first, then class by class.

    Args:
        views: of the references.
        classes: id and name, in the order shown.
        counts: references by class, where `views` does not have all of them.
    """
    template = (
        resources.files("ntt_ray.pages")
        .joinpath("templates")
        .joinpath("references.html")
        .read_text("utf-8")
    )
    sources = Counter(view.source for view in views)
    total = len(views) if counts is None else sum(counts.values())
    summary = [f"{total:,} {'reference' if total == 1 else 'references'}"]
    if total == len(views):
        summary += [f"{text}: {sources[s]:,}" for s, text in SOURCES.items() if sources[s]]
    names, limit, sections = dict(classes), _limit(len(classes) + len(FIRST)), []
    for source, (title, note) in FIRST.items():
        if own := [view for view in views if view.source == source]:
            sections.append(_section(title, own[:limit], len(own), note, "cx", names))
    for number, (category_id, name) in enumerate(classes):
        own = [v for v in views if v.category_id == category_id and v.source not in FIRST]
        count = len(own) if counts is None else counts.get(category_id, 0)
        if own:
            sections.append(_section(name, own[:limit], count, "", colour_class(number), {}))
    legend = []
    if sources["sam2"] + sources["doubtful"] + sources["box"]:
        legend.append(
            "Box IoU compares the drawn box with the box of SAM2's mask, predicted IoU is what "
            "SAM2 expects of it; 1 is best."
        )
    return Template(template).substitute(
        summary=escaped(" · ".join(summary)),
        legend=escaped(" ".join(legend)),
        sections="".join(sections),
    )


def _limit(sections: int) -> int:
    return max(MIN_SHOWN, MAX_SHOWN // max(1, sections))


def _section(
    title: str,
    shown: Sequence[ReferenceView],
    total: int,
    note: str,
    colour: str,
    names: Mapping[int, str],
) -> str:
    """One group of pictures; `names` is given where it has several classes."""
    below = f'<p class="note">{escaped(note)}</p>' if note else ""
    figures = "".join(_figure(view, colour, names.get(view.category_id, "")) for view in shown)
    return (
        f'<section><h2><i class="dot {colour}"></i><bdi>{escaped(shortened(title))}</bdi> '
        f'<small>{total:,}</small></h2>{below}<div class="figures">{figures}</div>'
        f"{more_line(total, len(shown), 'in the file')}</section>"
    )


def _figure(shown: ReferenceView, colour: str, class_name: str) -> str:
    width, height = shown.picture.width * UNITS_PER_PX, shown.picture.height * UNITS_PER_PX
    x, y, w, h = (round(value * UNITS_PER_PX) for value in shown.frame)
    badge = f'<b class="badge {escaped(shown.source)}">{escaped(SOURCES[shown.source])}</b>'
    named = f"<bdi>{escaped(shortened(class_name))}</bdi> " if class_name else ""
    alt = f"reference {shown.annotation_id} in {shown.file_name}: {SOURCES[shown.source]}"
    uri = shown.picture.data_uri
    image = f'<image width="{width}" height="{height}" href="{uri}"/>' if uri else ""
    return (
        f'<figure><svg class="{colour}" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escaped(alt)}">{image}<path d="{shown.path}"/>'
        f'<rect x="{x}" y="{y}" width="{w}" height="{h}"/></svg><figcaption>{badge}'
        f"<span>{named}annotation {shown.annotation_id}, "
        f"<bdi>{escaped(shortened(shown.file_name))}</bdi></span><span>{escaped(shown.note)}</span>"
        "</figcaption></figure>"
    )
