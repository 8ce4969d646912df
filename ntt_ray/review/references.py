"""What was reviewed becomes references: right and corrected labels; rejected ones negatives.

A label of a wrong class is a negative of the class it was given, and a reference of the right one
where a reviewer said which. It writes COCO files, and builds no bank.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ntt_ray import storage
from ntt_ray.config import Config
from ntt_ray.errors import InputError
from ntt_ray.masks import Rle, rle_area, rle_bbox_xywh
from ntt_ray.merge.job import class_choice
from ntt_ray.records import ImageEntry
from ntt_ray.references.dataset import MIN_MASK_AREA_PX
from ntt_ray.references.page import render_file
from ntt_ray.references.subset import coco_bytes
from ntt_ray.review.job import Review, open_review
from ntt_ray.review.records import Label, Verdict
from ntt_ray.review.summary import combined


@dataclass(frozen=True)
class Example:
    """An object of a class, or one that only looks like it, in an image of the run."""

    category_id: int
    image_id: int
    rle: Rle
    is_negative: bool


def references_run(config: Config, output: str, shots: int) -> list[str]:
    """Write reviewed labels as references, with a page of them, and as negatives.

    Args:
        config: the run.
        output: the COCO file to write; negatives go beside it.
        shots: at most so many references, and negatives, of each class.

    Returns:
        Lines that say what was written, and what to do with it.

    Raises:
        InputError: nothing that was reviewed is right, or the images have no common root.
    """
    review = open_review(config)
    examples = limited(list(examples_of(review)), shots)
    positive = [e for e in examples if not e.is_negative]
    negative = [e for e in examples if e.is_negative]
    if not positive:
        raise InputError("no label was found to be right yet: there is nothing to make references")
    entries = review.entries()
    root, names = image_root(entries), _class_names(review)
    stem = output.removesuffix(".json")
    coco = _coco(review, positive, names, "reviewed labels that are right or were corrected")
    review.store.publish_bytes(output, coco_bytes(coco))
    page = render_file(coco, root, review.store)
    review.store.publish_bytes(f"{stem}.html", page.encode("utf-8", "replace"))
    orientation = review.record.identity.decode.get("orientation", "stored")
    lines = [
        f"wrote {storage.redact(output)}: {_counted(positive, names)}",
        f"look at: {storage.redact(stem)}.html",
        f"for a config: references.annotations: {storage.redact(output)}",
        f"  references.image_root: {storage.redact(root)}",
        f"  references.orientation: {orientation}",
    ]
    if negative:
        uri = f"{stem}-negatives.json"
        rejected = _coco(review, negative, names, "reviewed labels that were rejected")
        review.store.publish_bytes(uri, coco_bytes(rejected))
        lines.insert(1, f"wrote {storage.redact(uri)}: {_counted(negative, names)}")
        lines.append("  references.negatives: the same, with the file of negatives")
    return lines


def examples_of(review: Review) -> Iterator[Example]:
    """All that reviewers said of objects, in the order in which labels were drawn."""
    draw, files = review.draw, review.verdicts
    pictures = draw.by_image
    said = combined([file.labels for file in files])
    whole = combined([_of_images(file.images) for file in files])
    corrected = {key: value for file in reversed(files) for key, value in file.corrections.items()}
    labels: dict[int, Label] = {label.id: label for label in draw.labels}
    for image in draw.whole_images:
        labels |= {label.id: label for label in image.labels if label.id not in labels}
    for key, label in labels.items():
        verdict: Verdict | None = said.get(str(key), whole.get(str(key)))
        own, correction = label.rle(pictures[label.image_id]), corrected.get(str(key))
        if verdict == "right":
            yield Example(label.category_id, label.image_id, own, False)
        if verdict in ("class", "nothing"):
            yield Example(label.category_id, label.image_id, own, True)
        if verdict in ("class", "mask") and correction is not None:
            size = own["size"]
            mask: Rle = {"size": size, "counts": correction.counts}
            yield Example(correction.category_id, label.image_id, mask, False)
    for file in files[:1]:
        for image_id, judged in file.images.items():
            picture = pictures.get(int(image_id))
            for mark in judged.missed:
                if picture and mark.counts is not None and mark.category_id is not None:
                    drawn: Rle = {"size": [picture.height, picture.width], "counts": mark.counts}
                    yield Example(mark.category_id, picture.image_id, drawn, False)


def _of_images(images: Mapping[str, Any]) -> dict[str, Verdict]:
    return {key: verdict for image in images.values() for key, verdict in image.labels.items()}


def limited(examples: list[Example], shots: int) -> list[Example]:
    """The first `shots` of each class that are large enough, references and negatives apart."""
    counts: Counter[tuple[int, bool]] = Counter()
    found = []
    for example in examples:
        key = example.category_id, example.is_negative
        if counts[key] < shots and rle_area(example.rle) >= MIN_MASK_AREA_PX:
            counts[key] += 1
            found.append(example)
    return found


def image_root(entries: Mapping[int, ImageEntry]) -> str:
    """The folder or prefix that the file names of all images are relative to.

    Raises:
        InputError: there is none: a table named images of several places.
    """
    roots = {entry.uri.removesuffix(entry.file_name).rstrip("/") for entry in entries.values()}
    if len(roots) == 1:
        [root] = roots
        if all(storage.below(root, e.file_name) == e.uri for e in entries.values()):
            return root
    raise InputError(
        "the images have no common root that their file names are relative to: a COCO file of "
        "references cannot name them; copy those that were reviewed below one folder"
    )


def _class_names(review: Review) -> dict[int, str]:
    """The run's class names by category id of the merged files; the first of several joined."""
    own = {label.category_id: label.name for label in review.record.class_labels}
    categories = class_choice(review.config, review.record).categories
    if categories is None:
        return own
    return {merged: own[key] for key, merged in sorted(categories.items(), reverse=True)}


def _coco(
    review: Review, examples: list[Example], names: Mapping[int, str], text: str
) -> dict[str, Any]:
    pictures = review.draw.by_image
    images = sorted({example.image_id for example in examples})
    used = sorted({example.category_id for example in examples})
    return {
        "info": {"description": f"{text}, by ntt-ray review", "draw": review.draw.sha256},
        "licenses": [],
        "images": [
            {
                "id": image_id,
                "file_name": pictures[image_id].file_name,
                "height": pictures[image_id].height,
                "width": pictures[image_id].width,
            }
            for image_id in images
        ],
        "annotations": [
            {
                "id": number,
                "image_id": example.image_id,
                "category_id": example.category_id,
                "bbox": rle_bbox_xywh(example.rle),
                "area": rle_area(example.rle),
                "segmentation": example.rle,
                "iscrowd": 0,
            }
            for number, example in enumerate(examples, 1)
        ],
        "categories": [{"id": key, "name": names[key], "supercategory": ""} for key in used],
    }


def _counted(examples: list[Example], names: Mapping[int, str]) -> str:
    counts = Counter(names[example.category_id] for example in examples)
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
