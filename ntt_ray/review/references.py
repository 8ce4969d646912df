"""What was reviewed becomes references: right and corrected labels; rejected ones negatives.

A label of a wrong class is a negative of the class it was given, and a reference of the right one
where a reviewer said which. Objects that were marked by a box and have no mask go into a file of
boxes, of which ``ntt-ray references from-boxes`` makes masks. It writes COCO files, and builds no
bank.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from shlex import quote
from typing import Any

from ntt_ray import storage
from ntt_ray.config import Config
from ntt_ray.errors import InputError
from ntt_ray.masks import Rle, overlap_shares, rle_area, rle_bbox_xywh
from ntt_ray.merge.job import class_choice
from ntt_ray.records import ImageEntry
from ntt_ray.references.dataset import MIN_MASK_AREA_PX
from ntt_ray.references.page import render_file
from ntt_ray.references.subset import coco_bytes
from ntt_ray.review.job import Review, open_reviews
from ntt_ray.review.problems import all_labels
from ntt_ray.review.records import Draw, ImageVerdict, Mark, Picture, Verdict
from ntt_ray.review.summary import combined, judged_images

PART = 0.5  # of a rejected label, on references of its class: it is a piece of them


@dataclass(frozen=True)
class Example:
    """An object of a class, or one that only looks like it, in an image of the run."""

    category_id: int
    image_id: int
    rle: Rle
    is_negative: bool

    def annotation(self) -> dict[str, Any]:
        """What COCO says of its place."""
        box, area = rle_bbox_xywh(self.rle), rle_area(self.rle)
        return {"bbox": box, "area": area, "segmentation": self.rle}


@dataclass(frozen=True)
class Box:
    """An object of a class with a box and no mask: x, y, width, height in pixels of its image."""

    category_id: int
    image_id: int
    bbox_xywh: tuple[float, float, float, float]

    def annotation(self) -> dict[str, Any]:
        """What COCO says of its place."""
        return {"bbox": list(self.bbox_xywh), "area": self.bbox_xywh[2] * self.bbox_xywh[3]}


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
    reviews = open_reviews(config)
    review, said = reviews[0], list(examples_of_all(reviews))
    every = without_parts(said)
    examples = limited(every, shots)
    positive = [e for e in examples if not e.is_negative]
    negative = [e for e in examples if e.is_negative]
    boxes, points = marks_of(reviews)
    if not positive and not boxes:
        raise InputError("no label was found to be right yet: there is nothing to make references")
    entries = {key: entry for own in reviews for key, entry in own.entries().items()}
    root, names = image_root(entries), _class_names(review)
    stem = output.removesuffix(".json")
    orientation = review.record.identity.decode.get("orientation", "stored")
    written, way_on = [], []
    if positive:
        coco = _coco(reviews, positive, names, "reviewed labels that are right or were corrected")
        review.store.publish_bytes(output, coco_bytes(coco))
        page = render_file(coco, root, review.store)
        review.store.publish_bytes(f"{stem}.html", page.encode("utf-8", "replace"))
        written.append(f"wrote {storage.redact(output)}: {_counted(positive, names)}")
        way_on = [
            f"look at: {storage.redact(stem)}.html",
            f"for a config: references.annotations: {storage.redact(output)}",
            f"  references.image_root: {storage.redact(root)}",
            f"  references.orientation: {orientation}",
        ]
    if negative:
        uri = f"{stem}-negatives.json"
        rejected = _coco(reviews, negative, names, "reviewed labels that were rejected")
        review.store.publish_bytes(uri, coco_bytes(rejected))
        written.append(f"wrote {storage.redact(uri)}: {_counted(negative, names)}")
        if positive:
            way_on.append("  references.negatives: the same, with the file of negatives")
            way_on += _only_negative(positive, negative, names)
    if boxes:
        uri = f"{stem}-boxes.json"
        marked = _coco(reviews, boxes, names, "missing objects that were marked by a box")
        review.store.publish_bytes(uri, coco_bytes(marked))
        written.append(
            f"wrote {storage.redact(uri)}: missing objects with a box and no mask, "
            f"{_counted(boxes, names)}"
        )
        way_on.append(
            "masks of the boxes: ntt-ray references from-boxes CONFIG --annotations "
            f"{quote(storage.redact(uri))} --image-root {quote(storage.redact(root))} --set "
            f"references.orientation={orientation} --output MASKS.json"
        )
    left_out = _left_out(every, examples, names, shots)
    if parts := len(said) - len(every):
        left_out.append(
            f"left out, rejected labels that lie on a reference of their own class: {parts}; as "
            "negatives they would speak against it"
        )
    return [*written, *left_out, *_points(points), *way_on]


def marks_of(reviews: Sequence[Review]) -> tuple[list[Box], int]:
    """Missing objects without a mask: those marked by a box, and how many are marked by a click.

    Of several reviewers of an image the first counts, as in the estimate. A box that no class was
    said of, or that is thinner than a pixel, says as little as a click.
    """
    boxes, points = [], 0
    seen = {
        image.image_id: (judged, review.draw.by_image[image.image_id])
        for review in reversed(reviews)
        for image, judged in judged_images(review.draw, review.verdicts)
    }
    for image_id, (judged, picture) in sorted(seen.items()):
        for mark in judged.missed:
            if mark.counts is not None and mark.category_id is not None:
                continue
            box = _clipped(mark, picture)
            if mark.category_id is None or min(box[2:]) < 1:
                points += 1
            else:
                boxes.append(Box(mark.category_id, image_id, box))
    return boxes, points


def _clipped(mark: Mark, picture: Picture) -> tuple[float, float, float, float]:
    width = min(mark.width, picture.width - mark.x)
    height = min(mark.height, picture.height - mark.y)
    return (mark.x, mark.y, width, height)


def _only_negative(
    positive: Sequence[Example], negative: Sequence[Example], names: Mapping[int, str]
) -> list[str]:
    """The setting that leaves out classes with negatives alone, which no bank takes."""
    classes, rejected = ({e.category_id for e in own} for own in (positive, negative))
    if rejected <= classes:
        return []
    both = json.dumps([names[key] for key in sorted(rejected & classes)], ensure_ascii=False)
    without = ", ".join(names[key] for key in sorted(rejected - classes))
    return [f"  references.negatives.classes: {both}; without a reference here: {without}"]


def _points(points: int) -> list[str]:
    if not points:
        return []
    return [
        f"{points} missing objects were marked by a click, or without a class: they count in the "
        "recall and become no references; drag a box around them on the page, or draw them in "
        "another tool"
    ]


def _left_out(
    every: Sequence[Example], kept: Sequence[Example], names: Mapping[int, str], shots: int
) -> list[str]:
    """What is in no file, and why."""
    small = [e for e in every if rle_area(e.rle) < MIN_MASK_AREA_PX]
    lines = []
    if small:
        lines.append(
            f"left out, masks below {MIN_MASK_AREA_PX} pixels are too tiny: "
            f"{_counted(small, names)}"
        )
    if more := len(every) - len(kept) - len(small):
        lines.append(f"left out, more than {shots} of a class: {more}; --shots takes more")
    return lines


def examples_of_all(reviews: Sequence[Review]) -> Iterator[Example]:
    """What was said in all reviews of a run; of an object in several of them the first counts."""
    seen: set[tuple[int, str]] = set()
    for review in reviews:
        own = list(examples_of(review))
        yield from (e for e in own if (e.image_id, e.rle["counts"]) not in seen)
        seen |= {(e.image_id, e.rle["counts"]) for e in own}


def examples_of(review: Review) -> Iterator[Example]:
    """All that reviewers said of objects, in the order in which labels were drawn."""
    draw, files = review.draw, review.verdicts
    pictures = draw.by_image
    said = combined([file.labels for file in files])
    whole = combined([_of_images(draw, file.images) for file in files])
    corrected = {key: value for file in reversed(files) for key, value in file.corrections.items()}
    for key, label in all_labels(draw).items():
        verdict: Verdict | None = said.get(str(key), whole.get(str(key)))
        own, correction = label.rle(pictures[label.image_id]), corrected.get(str(key))
        if verdict == "right":
            yield Example(label.category_id, label.image_id, own, False)
        if verdict in ("class", "nothing"):
            yield Example(label.category_id, label.image_id, own, True)
        if verdict in ("class", "mask") and correction is not None:
            size = own["size"]
            mask: Rle = {"size": size, "counts": correction.counts or label.counts}
            if correction.counts is not None or correction.category_id != label.category_id:
                yield Example(correction.category_id, label.image_id, mask, False)
    for image, judged in judged_images(draw, files):
        picture = pictures[image.image_id]
        for mark in judged.missed:
            if mark.counts is not None and mark.category_id is not None:
                drawn: Rle = {"size": [picture.height, picture.width], "counts": mark.counts}
                yield Example(mark.category_id, picture.image_id, drawn, False)


def _of_images(draw: Draw, images: Mapping[str, ImageVerdict]) -> dict[str, Verdict]:
    whole = (images.get(str(image.image_id)) for image in draw.whole_images)
    return {key: said for image in whole if image for key, said in image.labels.items()}


def without_parts(examples: Sequence[Example]) -> list[Example]:
    """The examples without negatives that lie for `PART` or more on references of their class.

    A piece of an object, and a second label of it, is rightly rejected; it looks like its class.
    """
    own: dict[tuple[int, int], list[Rle]] = defaultdict(list)
    for example in examples:
        if not example.is_negative:
            own[example.category_id, example.image_id].append(example.rle)

    def is_part(example: Example) -> bool:
        there = own.get((example.category_id, example.image_id))
        if not example.is_negative or not there or not rle_area(example.rle):
            return False
        return float(overlap_shares([example.rle], there).sum()) >= PART

    return [example for example in examples if not is_part(example)]


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
    if categories is not None:
        own = {merged: own[key] for key, merged in sorted(categories.items(), reverse=True)}
    return review.draw.names | own


def _coco(
    reviews: Sequence[Review],
    examples: Sequence[Example | Box],
    names: Mapping[int, str],
    text: str,
) -> dict[str, Any]:
    pictures = {key: own for review in reviews for key, own in review.draw.by_image.items()}
    images = sorted({example.image_id for example in examples})
    used = sorted({example.category_id for example in examples})
    return {
        "info": {"description": f"{text}, by ntt-ray review", "draw": reviews[0].draw.sha256},
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
                "iscrowd": 0,
                **example.annotation(),
            }
            for number, example in enumerate(examples, 1)
        ],
        "categories": [{"id": key, "name": names[key], "supercategory": ""} for key in used],
    }


def _counted(examples: Sequence[Example | Box], names: Mapping[int, str]) -> str:
    counts = Counter(names[example.category_id] for example in examples)
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
