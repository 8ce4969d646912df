"""What lies around the references in their images, to become negatives of their classes.

Where every object of a class is annotated in the images of its references, the rest of these images
is not of the class. Objects that nobody annotated would count as not of it, too: measured, an
annotation of one object among several costs more than the background gains (docs/quality.md).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ntt_ray.coco_input import Annotation, Category, CocoFile
from ntt_ray.errors import InputError, ReferencesError, noted
from ntt_ray.masks import Rle, decode_rle, segmentation_to_rle
from ntt_ray.records import ImageEntry, ReferenceSet
from ntt_ray.references.validate import TITLE
from ntt_ray.settings import AnnotatedOrientation


@dataclass(frozen=True)
class Surroundings:
    """An image of a class's references, and everything of the class in it.

    Attributes:
        category_id: id of the class.
        image: the image that holds references of the class.
        size_hw: its height and width according to the reference file.
        rles: masks of all that is annotated as the class there, references or not, crowds too.
        orientation: how the image was seen when it was annotated.
    """

    category_id: int
    image: ImageEntry
    size_hw: tuple[int, int]
    rles: tuple[Rle, ...]
    orientation: AnnotatedOrientation = "auto"

    def taken(self) -> npt.NDArray[np.bool_]:
        """Where the class is: ``(h, w)``."""
        found = np.zeros(self.size_hw, dtype=np.bool_)
        for rle in self.rles:
            found |= decode_rle(rle)
        return found


def images_of(references: ReferenceSet, category_id: int) -> list[ImageEntry]:
    """The images of a class's references, in the order of the references, each once."""
    return list(dict.fromkeys(r.image for r in references.of_class(category_id)))


def surroundings_of(coco: Any, references: ReferenceSet) -> tuple[Surroundings, ...]:
    """What lies around references, class by class and in the order of `images_of`.

    Args:
        coco: the COCO file that the references were chosen from, opened or parsed; it was checked
            when they were chosen.
        references: the chosen references.

    Raises:
        ReferencesError: with every annotation of their classes in their images whose mask is none.
    """
    file = CocoFile.of(coco)
    categories = file.items("categories", Category)
    annotations = file.items("annotations", Annotation)
    assert categories is not None  # the references come from it
    assert annotations is not None
    raised = {label.name: label.category_id for label in references.classes}
    numbers = {c.id: raised[c.name] for _, c in categories.sound() if c.name in raised}
    wanted = {
        (r.category_id, r.image.image_id): (r.image, r.size_hw, r.orientation)
        for r in references.references
    }
    found: dict[tuple[int, int], list[Rle]] = {key: [] for key in wanted}
    problems: list[str] = []
    for position, annotation in annotations.sound():
        key = (numbers.get(annotation.category_id, 0), annotation.image_id)
        if key in wanted:
            with noted(problems, f"annotation {annotation.id}", InputError, ValueError):
                found[key].append(_mask(annotations.raw(position), *wanted[key][1]))
    if problems:
        raise ReferencesError(TITLE, problems)
    keys = [
        (label.category_id, entry.image_id)
        for label in references.classes
        for entry in images_of(references, label.category_id)
    ]
    return tuple(
        Surroundings(category_id, entry, size_hw, tuple(found[category_id, image_id]), orientation)
        for category_id, image_id in keys
        for entry, size_hw, orientation in [wanted[category_id, image_id]]
    )


def surroundings_digest(surroundings: Sequence[Surroundings]) -> str:
    """SHA-256 over what is annotated, in hex; the images are those of the references."""
    text = json.dumps([[s.category_id, s.image.image_id, s.rles] for s in surroundings])
    return hashlib.sha256(text.encode()).hexdigest()


def _mask(annotation: Mapping[str, Any], height: int, width: int) -> Rle:
    """The mask of an annotation, or its box where it has none."""
    segmentation = annotation.get("segmentation")
    if not segmentation:
        x, y, box_width, box_height = annotation["bbox"]
        right, bottom = x + box_width, y + box_height
        segmentation = [[x, y, right, y, right, bottom, x, bottom]]
    return segmentation_to_rle(segmentation, height, width)
