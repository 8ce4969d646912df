"""Verdicts that a careful reviewer would give, made from a ground truth instead of a person."""

from __future__ import annotations

from typing import Any

from ntt_ray.masks import Rle, mask_ious, rle_bbox_xywh, segmentation_to_rle
from ntt_ray.review.records import (
    GOOD_MASK_IOU,
    Correction,
    Draw,
    ImageVerdict,
    Label,
    Mark,
    Picture,
    Verdict,
    Verdicts,
)

SEEN_IOU = 0.5  # a mask that overlaps an object less is of nothing
Objects = dict[str, list[tuple[str, Rle]]]  # class name and mask, by file name


def objects_of(coco: dict[str, Any]) -> Objects:
    """What a ground truth has in each image."""
    images = {image["id"]: image for image in coco["images"]}
    names = {category["id"]: category["name"] for category in coco["categories"]}
    found: Objects = {image["file_name"]: [] for image in coco["images"]}
    for annotation in coco["annotations"]:
        image = images[annotation["image_id"]]
        rle = segmentation_to_rle(annotation["segmentation"], image["height"], image["width"])
        found[image["file_name"]].append((names[annotation["category_id"]], rle))
    return found


def verdicts_of(draw: Draw, objects: Objects, reviewer: str = "truth") -> Verdicts:
    """A verdict on every label and image of a draw."""
    pictures, names = draw.by_image, draw.names
    ids = {name: key for key, name in names.items()}
    labels: dict[str, Verdict] = {}
    corrections, images = {}, {}
    for label in draw.labels:
        picture = pictures[label.image_id]
        verdict, truth = judged(label, names, picture, objects)
        labels[str(label.id)] = verdict
        if verdict in ("class", "mask") and truth is not None:
            name, rle = truth
            correction = Correction(category_id=ids[name], counts=rle["counts"])
            corrections[str(label.id)] = correction
    for image in draw.whole_images:
        picture = pictures[image.image_id]
        said = {str(own.id): judged(own, names, picture, objects)[0] for own in image.labels}
        there = objects[picture.file_name]
        ious = mask_ious([own.rle(picture) for own in image.labels], [rle for _, rle in there])
        missed = [
            _mark(ids[name], rle)
            for k, (name, rle) in enumerate(there)
            if not len(image.labels) or ious[:, k].max() < SEEN_IOU
        ]
        images[str(image.image_id)] = ImageVerdict(labels=said, missed=tuple(missed))
    return Verdicts(
        draw=draw.sha256,
        design=draw.design,
        reviewer=reviewer,
        labels=labels,
        corrections=corrections,
        images=images,
    )


def judged(
    label: Label, names: dict[int, str], picture: Picture, objects: Objects
) -> tuple[Verdict, tuple[str, Rle] | None]:
    """The verdict on a label, and the object that it lies on."""
    there = objects[picture.file_name]
    if not there:
        return "nothing", None
    ious = mask_ious([label.rle(picture)], [rle for _, rle in there])[0]
    best = int(ious.argmax())
    if ious[best] < SEEN_IOU:
        return "nothing", None
    if there[best][0] != names[label.category_id]:
        return "class", there[best]
    return ("right" if ious[best] >= GOOD_MASK_IOU else "mask"), there[best]


def _mark(category_id: int, rle: Rle) -> Mark:
    x, y, width, height = rle_bbox_xywh(rle)
    box = {"x": x, "y": y, "width": width, "height": height}
    return Mark(**box, category_id=category_id, counts=rle["counts"])
