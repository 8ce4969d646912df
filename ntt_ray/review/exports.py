"""What was drawn, for other tools: COCO, and tasks of Label Studio with the labels as predictions.

An image that was drawn whole has all its labels there; any other has the drawn ones only.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Any

from ntt_ray import storage
from ntt_ray.masks import decode_in_boxes, rle_area
from ntt_ray.merge.mask_parts import MaskPart
from ntt_ray.merge.profiles.label_studio import region, task_text
from ntt_ray.records import ImageEntry
from ntt_ray.review.records import TASK_VERSION, Draw, Label, Picture


def labels_to_review(draw: Draw, known: Collection[int]) -> dict[int, list[Label]]:
    """The labels of each image of the draw, by image id; every whole image is there.

    An image has all its drawn labels or none: a label that a corrected file lacks was removed.

    Args:
        draw: what was drawn.
        known: ids of labels that were judged before; images with no other label are left out.
    """
    found: dict[int, list[Label]] = defaultdict(list)
    wanted = {label.image_id for label in draw.labels if label.id not in known}
    for label in draw.labels:
        if label.image_id in wanted:
            found[label.image_id].append(label)
    whole = {image.image_id: list(image.labels) for image in draw.whole_images}
    return {
        image_id: sorted(labels, key=lambda label: label.id)
        for image_id, labels in sorted((dict(found) | whole).items())
    }


def coco_of(draw: Draw, labels: Mapping[int, list[Label]]) -> dict[str, Any]:
    """A COCO file of the labels to review; annotation ids are those of the labels."""
    pictures = draw.by_image
    names = ("file_name", "height", "width")
    images = [
        {"id": image_id, **{name: getattr(pictures[image_id], name) for name in names}}
        for image_id in labels
    ]
    annotations = [
        _annotation(label, pictures[image_id]) for image_id, own in labels.items() for label in own
    ]
    info = {"description": "labels drawn for review by ntt-ray", "draw": draw.sha256}
    categories = [{"id": c.id, "name": c.name, "supercategory": ""} for c in draw.classes]
    return {
        "info": info,
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }


def _annotation(label: Label, picture: Picture) -> dict[str, Any]:
    rle = label.rle(picture)
    return {
        "id": label.id,
        "image_id": label.image_id,
        "category_id": label.category_id,
        "bbox": list(label.bbox),
        "area": rle_area(rle),
        "segmentation": rle,
        "iscrowd": 0,
        "score": round(label.score, 7),
    }


def tasks_of(
    draw: Draw,
    labels: Mapping[int, list[Label]],
    entries: Mapping[int, ImageEntry],
    image_url: str | None = None,
) -> str:
    """Tasks of Label Studio with the labels as predictions; regions are named by their labels.

    Images are addressed as `merge.image_url` says, see `label_studio.image_address`.
    """
    pictures, names = draw.by_image, draw.names
    version = f"{TASK_VERSION}{draw.sha256[:12]}"
    tasks = []
    for image_id, own in labels.items():
        picture, entry = pictures[image_id], entries[image_id]
        row = {
            "image_id": image_id,
            "file_name": picture.file_name,
            "uri": storage.redact(entry.uri),
        }
        regions = [
            {"id": str(label.id), **region(names[label.category_id], label.score, part)}
            for label in own
            for part in [_part(label, picture)]
        ]
        tasks.append(task_text(row, regions, version, image_url or "{uri}"))
    return "[\n" + ",\n".join(tasks) + "\n]\n"


def _part(label: Label, picture: Picture) -> MaskPart:
    [(pixels, x, y)] = decode_in_boxes([label.counts], [picture.height], [picture.width])
    return MaskPart(pixels, x, y, label.rle(picture))
