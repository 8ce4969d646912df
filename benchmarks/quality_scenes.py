"""Scenes, ground truth and references that `benchmarks.quality` measures on.

All drawn, of families that the demo weights were not trained on; the same seed draws the same. It
does not know which options there are.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from ntt_ray.bank.build import Background, background_means, crop_features, masked_mean
from ntt_ray.bank.clustering import cluster_directions
from ntt_ray.bank.memory import MemoryBank
from ntt_ray.bank.patches import ReferencePatches, reference_patches
from ntt_ray.demo.families import FAMILIES, NOVEL_FAMILIES
from ntt_ray.demo.scenes import (
    SIZES_WH,
    Layout,
    Scene,
    render_scene,
    write_references,
    write_scenes,
)
from ntt_ray.images import RgbImage, decode_image, resize_square
from ntt_ray.masks import decode_rle, encode_mask, rle_area, rle_bbox_xywh
from ntt_ray.models.interfaces import Encoder
from ntt_ray.records import ClassLabel, ImageEntry, Reference
from ntt_ray.references.crops import ReferenceCrop, cut_reference
from ntt_ray.references.dataset import load_references, read_image
from ntt_ray.storage import Storage

SHOTS = 5
CONTEXT_RATIO = 0.2
BACKGROUNDS = 2  # prototypes of each reference's background
LARGER = 3
LARGE = Layout(objects=(6, 14), diameters=(0.12 / LARGER, 0.5 / LARGER), kinds=4)
BUSY = Layout(objects=(3, 6), diameters=(0.22, 0.45), kinds=3)

Truth = dict[str, Any]
Form = Literal["crops", "images"]  # what lies around a reference: in its crop, or in its image
T = TypeVar("T")
Rows = list[list[tuple[torch.Tensor, float]]]  # mean and weight of a family's references


@dataclass(frozen=True)
class Scenes:
    """Images and what is in them, in COCO form."""

    truth: Truth
    pictures: list[RgbImage]

    def grouped(self, groups: Sequence[Sequence[int]]) -> Scenes:
        """The same where classes are groups of families; other families are no class."""
        new = {k + 1: n for n, group in enumerate(groups, start=1) for k in group}
        annotations = [
            {**a, "category_id": new[a["category_id"]]}
            for a in self.truth["annotations"]
            if a["category_id"] in new
        ]
        categories = [{"id": c.category_id, "name": c.name} for c in class_labels(groups)]
        truth = {**self.truth, "categories": categories, "annotations": annotations}
        return Scenes(truth, self.pictures)

    def sizes(self) -> dict[str, int]:
        """How many images, images without objects, objects, and small objects as COCO says."""
        annotations = self.truth["annotations"]
        return {
            "images": len(self.pictures),
            "images_without_objects": len(self.pictures)
            - len({a["image_id"] for a in annotations}),
            "objects": len(annotations),
            "small_objects": sum(a["area"] < 32**2 for a in annotations),
        }


@dataclass(frozen=True)
class Example:
    """A reference.

    Attributes:
        family: its position among the novel ones.
        crop: the object and its surroundings.
        image_rgb: uint8 ``(h, w, 3)``, all of its image.
        taken: bool ``(h, w)``, what is annotated as the class there.
    """

    family: int
    crop: ReferenceCrop
    image_rgb: RgbImage
    taken: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Means:
    """Rows of a bank for each family, those of the background in two forms, and all patches."""

    inside: Rows
    outside: dict[Form, Rows]
    patches: list[list[ReferencePatches]] = field(default_factory=list)

    def bank(
        self,
        groups: Sequence[Sequence[int]],
        background: Form | None = None,
        *,
        patches: bool = False,
    ) -> MemoryBank:
        """A bank whose classes are groups of families; a background goes where negatives go."""

        def joined(rows: list[list[T]]) -> list[list[T]]:
            return [[one for k in group for one in rows[k]] for group in groups]

        negatives = () if background is None else joined(self.outside[background])
        return MemoryBank.from_means(
            class_labels(groups),
            joined(self.inside),
            encoder={},
            reference_digest="",
            negatives=negatives,
            patches=joined(self.patches) if patches else (),
        )


def class_labels(groups: Sequence[Sequence[int]]) -> list[ClassLabel]:
    """Classes that are groups of families."""
    return [
        ClassLabel(n, " or ".join(NOVEL_FAMILIES[k] for k in group))
        for n, group in enumerate(groups, start=1)
    ]


def means_of(examples: Iterable[Example], encoder: Encoder, side: int) -> Means:
    """Average references, and cluster the patches outside of their masks.

    Args:
        examples: references of every family.
        encoder: makes patch features.
        side: to which whole images are brought first, as those to label are.
    """
    inside, crops, images = ([[] for _ in NOVEL_FAMILIES] for _ in range(3))
    patches: list[list[ReferencePatches]] = [[] for _ in NOVEL_FAMILIES]
    for example in examples:
        features, soft = crop_features(example.crop, encoder)
        inside[example.family].append(masked_mean(example.crop, features, soft))
        patches[example.family].append(reference_patches(features, soft))
        crops[example.family] += _clustered(features, soft)
        background = Background(
            example.family, resize_square(example.image_rgb, side), example.taken
        )
        images[example.family] += background_means(background, encoder, BACKGROUNDS)
    return Means(inside, {"crops": crops, "images": images}, patches)


def _clustered(features: torch.Tensor, mask: torch.Tensor) -> list[tuple[torch.Tensor, float]]:
    """Means of a few clusters of the patches that a mask nowhere touches, and their patches."""
    touched = F.adaptive_max_pool2d(mask[None, None], features.shape[:2])[0, 0] > 0
    patches = features[~touched]
    if not len(patches):
        return []
    owner = cluster_directions(patches, BACKGROUNDS, seed=33)
    parts = [patches[owner == cluster] for cluster in range(int(owner.max()) + 1)]
    return [(part.mean(dim=0), float(len(part))) for part in parts]


def demo_examples(folder: Path, seed: int) -> Iterator[Example]:
    """The demo's references: one object is annotated in each image, where two may be."""
    path = write_references(folder, families=NOVEL_FAMILIES, shots=SHOTS, seed=seed)
    store = Storage()
    for reference in load_references(str(path), str(folder / "images"), store).references:
        image_rgb = read_image(reference, store)
        crop = cut_reference(reference, image_rgb, CONTEXT_RATIO)
        yield Example(reference.category_id - 1, crop, image_rgb, decode_rle(reference.rle))


def busy_examples(seed: int) -> Iterator[Example]:
    """References among objects of other families; every object of the class is annotated."""
    for family, name in enumerate(NOVEL_FAMILIES):
        shots = attempt = 0
        while shots < SHOTS:
            rng = np.random.default_rng([seed, 6, family, attempt])
            attempt += 1
            others = rng.permutation([k for k in NOVEL_FAMILIES if k != name])[:2]
            kinds = [FAMILIES[name], *(FAMILIES[str(other)] for other in others)]
            scene = render_scene(rng, kinds, SIZES_WH[int(rng.integers(len(SIZES_WH)))], BUSY)
            own = [n for n, other in enumerate(scene.families) if other == name]
            clear = [n for n in own if scene.visible[n] > 0.95]
            if clear and len(own) < len(scene.families):
                largest = max(clear, key=lambda n: int(scene.masks_nhw[n].sum()))
                yield _example(scene, family, largest, own)
                shots += 1


def _example(scene: Scene, family: int, index: int, own: Sequence[int]) -> Example:
    rle = encode_mask(scene.masks_nhw[index])
    height, width = scene.image_rgb.shape[:2]
    bbox = rle_bbox_xywh(rle)
    entry = ImageEntry(1, "drawn", "drawn")
    reference = Reference(1, family + 1, entry, (height, width), bbox, rle)
    crop = cut_reference(reference, scene.image_rgb, CONTEXT_RATIO)
    return Example(family, crop, scene.image_rgb, scene.masks_nhw[list(own)].any(axis=0))


def demo_scenes(folder: Path, seed: int, images: int) -> Scenes:
    """The demo's scenes, as they are read from their files."""
    path = write_scenes(folder, families=NOVEL_FAMILIES, images=images, seed=seed)
    truth = json.loads(path.read_text())
    files = [folder / "images" / image["file_name"] for image in truth["images"]]
    return Scenes(truth, [decode_image(file.read_bytes()) for file in files])


def large_scenes(seed: int, images: int) -> Scenes:
    """Scenes of many pixels, with objects of the size in pixels that they have in the demo."""
    kinds = [FAMILIES[name] for name in NOVEL_FAMILIES]
    groups = [[k] for k in range(len(kinds))]
    rng = np.random.default_rng([seed, 4])
    found = Scenes({"images": [], "annotations": []}, []).grouped(groups)
    for number in range(1, images + 1):
        width, height = (LARGER * side for side in SIZES_WH[int(rng.integers(len(SIZES_WH)))])
        own = np.random.default_rng([seed, 5, number])
        scene = render_scene(own, kinds, (width, height), LARGE)
        found.pictures.append(scene.image_rgb)
        image = {"id": number, "file_name": f"{number}.png", "width": width, "height": height}
        found.truth["images"].append(image)
        for family, mask in zip(scene.families, scene.masks_nhw, strict=True):
            rle = encode_mask(mask)
            found.truth["annotations"].append(
                {
                    "id": len(found.truth["annotations"]) + 1,
                    "image_id": number,
                    "category_id": NOVEL_FAMILIES.index(family) + 1,
                    "segmentation": rle,
                    "area": rle_area(rle),
                    "bbox": rle_bbox_xywh(rle),
                    "iscrowd": 0,
                }
            )
    return found
