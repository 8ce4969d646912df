"""The page to review on: every drawn label large, beside references of its class, and whole images.

It computes the values of the template ``review.html.j2``; the page itself collects verdicts, keeps
them in the browser and exports them. It reads images and writes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ntt_ray.errors import NttRayError
from ntt_ray.images import RgbImage, decode_image
from ntt_ray.masks import decode_rle
from ntt_ray.pages.environment import render
from ntt_ray.pages.pictures import OutlinedPicture, Thumbnail, blank, mask_to_path, thumbnail
from ntt_ray.records import ImageEntry, ReferenceSet
from ntt_ray.references.crop_pictures import crop_picture
from ntt_ray.references.dataset import read_all
from ntt_ray.review.records import WORDS, Draw, DrawnLabel, Label, Picture
from ntt_ray.settings import DecodeSettings
from ntt_ray.storage import Storage

CROPS_PER_CLASS = 6
_CONTEXT = 0.6  # of the longer side of a box, on each side of it
_LEAST_PX = 96
_LABEL_SIDE, _LABEL_BYTES = 760, 60_000
_IMAGE_SIDE, _IMAGE_BYTES = 1100, 110_000


def review_page(
    draw: Draw,
    *,
    known: Collection[int],
    entries: Mapping[int, ImageEntry],
    decode: Mapping[str, Any],
    references: Mapping[int, Sequence[OutlinedPicture]],
    store: Storage,
) -> str:
    """The page of a draw.

    Args:
        draw: what was drawn.
        known: ids of labels that were judged before; the page does not ask for them again.
        entries: the images by id, with their addresses.
        decode: how image files became pixels when they were labelled.
        references: crops of each class by category id.
        store: access to images.
    """
    made = dict(_items(draw, known, entries, as_labelled(decode), store))
    order = [("label", label.id) for label in draw.labels if label.id not in known]
    order += [("image", image.image_id) for image in draw.whole_images]
    data = {
        "draw": draw.sha256,
        "design": draw.design,
        "classes": [
            {"id": c.id, "name": c.name, "references": _crops(references.get(c.id, ()))}
            for c in draw.classes
        ],
        "items": [made[key] for key in order],
    }
    words = list(WORDS.items())
    values = {"labels": len(order), "seed": draw.seed, "order": draw.order}
    return render("review.html.j2", data=data, words=words, **values)


def as_labelled(decode: Mapping[str, Any]) -> DecodeSettings:
    """How image files became pixels in a run: pixels must lie under their masks.

    The oldest records do not say how, and it was stored then.
    """
    return DecodeSettings.model_validate_json(json.dumps({"orientation": "stored", **decode}))


def reference_crops(
    references: ReferenceSet, merged_ids: Mapping[int, int], context_ratio: float, store: Storage
) -> dict[int, list[OutlinedPicture]]:
    """Some crops of each class, by its category id in the merged files."""
    found: dict[int, list[OutlinedPicture]] = {}
    for label in references.classes:
        merged = merged_ids.get(label.category_id)
        if merged is not None:
            own = references.of_class(label.category_id)[:CROPS_PER_CLASS]
            crops = [crop_picture(reference, context_ratio, store) for reference in own]
            found[merged] = [*found.get(merged, ()), *crops][:CROPS_PER_CLASS]
    return found


def _items(
    draw: Draw,
    known: Collection[int],
    entries: Mapping[int, ImageEntry],
    settings: DecodeSettings,
    store: Storage,
) -> Iterator[tuple[tuple[str, int], dict[str, Any]]]:
    """The labels and images of the page, each under its kind and id; an image is read once."""
    labels: dict[int, list[DrawnLabel]] = {}
    for label in draw.labels:
        if label.id not in known:
            labels.setdefault(label.image_id, []).append(label)
    whole, pictures = {image.image_id: image for image in draw.whole_images}, draw.by_image
    wanted = [entries[image_id] for image_id in sorted(labels.keys() | whole.keys())]
    for entry, data, _ in read_all(wanted, store):
        picture = pictures[entry.image_id]
        image_rgb = pixels(data, picture, settings)
        for own in labels.get(entry.image_id, ()):
            yield ("label", own.id), _label_item(own, picture, image_rgb)
        if entry.image_id in whole:
            found = whole[entry.image_id].labels
            yield ("image", entry.image_id), _image_item(found, picture, image_rgb)


def pixels(data: bytes | None, picture: Picture, settings: DecodeSettings) -> RgbImage | None:
    """The image as it was labelled; None where it cannot be read any more."""
    try:
        image_rgb = None if data is None else decode_image(data, settings)
    except NttRayError:
        return None
    same = image_rgb is not None and image_rgb.shape[:2] == (picture.height, picture.width)
    return image_rgb if same else None


def _label_item(label: DrawnLabel, picture: Picture, image_rgb: RgbImage | None) -> dict[str, Any]:
    x, y, width, height = label.bbox
    margin = max(_CONTEXT * max(width, height), (_LEAST_PX - max(width, height)) / 2)
    x0, y0 = max(0, int(x - margin)), max(0, int(y - margin))
    x1 = min(picture.width, int(np.ceil(x + width + margin)))
    y1 = min(picture.height, int(np.ceil(y + height + margin)))
    part = None if image_rgb is None else np.ascontiguousarray(image_rgb[y0:y1, x0:x1])
    shown = _shown(part, (y1 - y0, x1 - x0), _LABEL_SIDE, _LABEL_BYTES)
    path = mask_to_path(decode_rle(label.rle(picture))[y0:y1, x0:x1], shown.scale)
    return {
        "kind": "label",
        **({} if label.reason is None else {"reason": label.reason}),
        "id": label.id,
        "class": label.category_id,
        "score": round(label.score, 4),
        "path": path,
        **_picture(shown, picture),
    }


def _image_item(
    labels: Sequence[Label], picture: Picture, image_rgb: RgbImage | None
) -> dict[str, Any]:
    shown = _shown(image_rgb, (picture.height, picture.width), _IMAGE_SIDE, _IMAGE_BYTES)
    outlines = [
        {
            "id": label.id,
            "class": label.category_id,
            "path": mask_to_path(decode_rle(label.rle(picture)), shown.scale),
        }
        for label in labels
    ]
    ids = {"kind": "image", "id": picture.image_id}
    return {**ids, "labels": outlines, **_picture(shown, picture)}


def _shown(
    image_rgb: RgbImage | None, size_hw: tuple[int, int], side: int, most_bytes: int
) -> Thumbnail:
    return blank(size_hw, side) if image_rgb is None else thumbnail(image_rgb, side, most_bytes)


def _picture(shown: Thumbnail, picture: Picture) -> dict[str, Any]:
    return {
        "file": picture.file_name,
        "uri": shown.data_uri,
        "width": shown.width_units,
        "height": shown.height_units,
        "scale": shown.width_units / shown.width * shown.scale,
    }


def _crops(crops: Sequence[OutlinedPicture]) -> list[dict[str, Any]]:
    return [
        {
            "file": crop.file_name,
            "uri": crop.picture.data_uri,
            "width": crop.picture.width_units,
            "height": crop.picture.height_units,
            "path": crop.path,
        }
        for crop in crops
    ]
