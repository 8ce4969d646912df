"""Which detections of an image are right: COCO's greedy matching at one IoU, image by image.

For pictures and counts in the report, where `evaluate` gives the official metrics. Images are found
by file name and classes by name, as `evaluate` does.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ntt_ray.coco_input import TruthAnnotation, TruthImage, checked_truth
from ntt_ray.masks import Rle, mask_ious, overlap_shares, rle_area, segmentation_to_rle
from ntt_ray.records import ClassLabel, Detection, ImageLabels

MATCH_IOU = 0.5


@dataclass(frozen=True, slots=True)
class TruthObject:
    """One annotated object, with the run's category id."""

    category_id: int
    rle: Rle


@dataclass(frozen=True, slots=True)
class Matches:
    """Truth and detections of one image, side by side.

    Attributes:
        objects: the annotated objects of the run's classes, crowds left out.
        right: for each detection whether it is right; None for one that lies in a crowd region.
        matched_by: for each object the detection that found it, or None. A detection only competes
            with those of higher score, so this holds at every score threshold.
        ious: for each object the IoU with that detection, 0 without one.
    """

    objects: tuple[TruthObject, ...]
    right: tuple[bool | None, ...]
    matched_by: tuple[int | None, ...]
    ious: tuple[float, ...]

    def __post_init__(self) -> None:
        if not len(self.objects) == len(self.matched_by) == len(self.ious):
            raise ValueError("every object needs its match")


class GroundTruth:
    """A COCO instances file, looked up by the run's file names and classes.

    Masks are parsed when their image is compared, so that memory does not hold them all.
    """

    def __init__(self, coco: Any, classes: Sequence[ClassLabel]) -> None:
        truth = checked_truth(coco)
        own = {label.name: label.category_id for label in classes}
        self._classes = {c.id: own[c.name] for _, c in truth.categories.sound() if c.name in own}
        self._images = {image.file_name: image for _, image in truth.images.sound()}
        self._raw = truth.annotations.raw
        self._annotations: dict[int, list[tuple[int, TruthAnnotation]]] = defaultdict(list)
        for position, annotation in truth.annotations.sound():
            if annotation.category_id in self._classes:
                self._annotations[annotation.image_id].append((position, annotation))

    def match(self, labels: ImageLabels) -> Matches | None:
        """Compare an image's detections with its annotations; None where it has no ground truth."""
        image = self._images.get(labels.entry.file_name)
        if image is None or (image.height, image.width) != (labels.height, labels.width):
            return None
        objects, crowds = self._objects(image)
        return match(labels.detections, objects, crowds)

    def _objects(
        self, image: TruthImage
    ) -> tuple[tuple[TruthObject, ...], tuple[TruthObject, ...]]:
        objects: list[TruthObject] = []
        crowds: list[TruthObject] = []
        for position, annotation in self._annotations.get(image.id, ()):
            mask = self._raw(position).get("segmentation")
            try:
                rle = segmentation_to_rle(mask, image.height, image.width)
            except ValueError:
                continue  # a box without a mask has nothing to show
            if rle_area(rle):
                found = TruthObject(self._classes[annotation.category_id], rle)
                (crowds if annotation.iscrowd else objects).append(found)
        return tuple(objects), tuple(crowds)


def match(
    detections: Sequence[Detection],
    objects: tuple[TruthObject, ...],
    crowds: Sequence[TruthObject] = (),
) -> Matches:
    """Match detections to objects of their class, the highest score first.

    Args:
        detections: the detections of one image, by falling score.
        objects: the annotated objects of the same image.
        crowds: regions in which detections are neither right nor wrong.
    """
    ious = mask_ious([d.rle for d in detections], [o.rle for o in objects])
    right: list[bool | None] = []
    matched_by: list[int | None] = [None] * len(objects)
    for number, detection in enumerate(detections):
        free = [
            j
            for j, found in enumerate(objects)
            if matched_by[j] is None
            and found.category_id == detection.category_id
            and ious[number, j] >= MATCH_IOU
        ]
        if free:
            matched_by[max(free, key=lambda j: ious[number, j])] = number
            right.append(True)
        else:
            right.append(None if _in_crowd(detection, crowds) else False)
    best = tuple(0.0 if i is None else float(ious[i, j]) for j, i in enumerate(matched_by))
    return Matches(objects, tuple(right), tuple(matched_by), best)


def _in_crowd(detection: Detection, crowds: Sequence[TruthObject]) -> bool:
    own = [c.rle for c in crowds if c.category_id == detection.category_id]
    return any(overlap_shares([detection.rle, rle])[0, 1] >= MATCH_IOU for rle in own)
