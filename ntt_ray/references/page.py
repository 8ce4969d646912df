"""A page with a picture of every reference: its box, and the mask that it has or was given.

What has to be looked at first comes first. It reads the images of a file of references, renders
each reference, and computes the values of the template ``references.html.j2``.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ntt_ray import storage
from ntt_ray.errors import ImageError, InputError
from ntt_ray.images import RgbImage
from ntt_ray.masks import Rle, decode_rle, segmentation_to_rle
from ntt_ray.pages.environment import colour, render
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
        annotation_id: the reference's annotation id.
        category_id: the category id of its class.
        file_name: the file name of its image.
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

    def frame_units(self) -> tuple[int, ...]:
        """The box in the units of paths: x, y, width, height."""
        return tuple(round(value * UNITS_PER_PX) for value in self.frame)


@dataclass(frozen=True, slots=True)
class Section:
    """One group of pictures, out of `total`; `names` are of its classes, where it has several."""

    title: str
    note: str
    colour: str
    total: int
    views: Sequence[ReferenceView]
    names: Mapping[int, str]


def render_reference(
    image_rgb: RgbImage,
    bbox_xywh: tuple[float, float, float, float],
    rle: Rle | None,
    annotation: Mapping[str, Any],
    *,
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
        annotation_id=annotation["id"],
        category_id=annotation["category_id"],
        file_name=file_name,
        picture=picture,
        frame=(x - x1 * picture.scale, y - y1 * picture.scale, width, height),
        path="" if rle is None else mask_to_path(decode_rle(rle)[y1:y2, x1:x2], picture.scale),
        source=source,
        note=note,
    )


def render_file(coco: Mapping[str, Any], image_root: str, store: Storage) -> str:
    """The page of a COCO file of references.

    Args:
        coco: a COCO file whose ids, sizes and numbers were checked.
        image_root: folder or URI prefix of its images.
        store: access to files. A reference that cannot be rendered has an empty picture and a
            reason.
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
            views[annotation["id"]] = _without_picture(annotation, "", str(error))
    for entry, data, problem in read_all(by_image, store):
        for annotation in by_image[entry]:
            try:
                view = _rendered(annotation, images[entry.image_id], data, problem)
            except (ValueError, ImageError) as error:
                view = _without_picture(annotation, entry.file_name, str(error))
            views[annotation["id"]] = view
    shown = [views[a["id"]] for a in coco["annotations"] if a["id"] in views]
    return render_references(shown, classes, counts=counts)


def _rendered(
    annotation: Mapping[str, Any], image: Mapping[str, Any], data: bytes | None, problem: str | None
) -> ReferenceView:
    """A reference's picture; ValueError or ImageError says why there is none."""
    if data is None:
        raise ImageError(problem or "it cannot be read")
    size_hw = (image["height"], image["width"])
    given = annotation.get("segmentation")
    return render_reference(
        decode_sized(data, size_hw, "auto"),
        checked_box(annotation, image),
        segmentation_to_rle(given, *size_hw) if given else None,
        annotation,
        file_name=image["file_name"],
        source="given" if given else "none",
        note="",
    )


def _without_picture(annotation: Mapping[str, Any], file_name: str, problem: str) -> ReferenceView:
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
        views: the references, rendered.
        classes: category id and name of each class, in the order shown.
        counts: how many references each class has, by category id, where `views` does not have
            all of them.
    """
    sources = Counter(view.source for view in views)
    total = len(views) if counts is None else sum(counts.values())
    named = SOURCES.items() if total == len(views) else ()
    return render(
        "references.html.j2",
        total=total,
        sources=[(text, sources[s]) for s, text in named if sources[s]],
        source_texts=SOURCES,
        with_masks_of_boxes=sources["sam2"] + sources["doubtful"] + sources["box"] > 0,
        sections=list(_sections(views, classes, counts)),
    )


def _sections(
    views: Sequence[ReferenceView],
    classes: Sequence[tuple[int, str]],
    counts: Mapping[int, int] | None,
) -> Iterator[Section]:
    limit = _limit(len(classes) + len(FIRST))
    for source, (title, note) in FIRST.items():
        if own := [view for view in views if view.source == source]:
            yield Section(title, note, "cx", len(own), own[:limit], dict(classes))
    for number, (category_id, name) in enumerate(classes):
        own = [v for v in views if v.category_id == category_id and v.source not in FIRST]
        count = len(own) if counts is None else counts.get(category_id, 0)
        if own:
            yield Section(name, "", colour(number), count, own[:limit], {})


def _limit(sections: int) -> int:
    return max(MIN_SHOWN, MAX_SHOWN // max(1, sections))
