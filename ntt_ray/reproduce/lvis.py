"""LVIS v1: references from its training file, the minival images of COCO's val2017 labelled.

Minival is that part of the validation file whose images are COCO's val2017. It is passed around as
a file of its own, with masks or without; without the file, or without its masks, the validation
file gives them. The evaluation is federated, see `evaluate.average_precision`; images are COCO's,
named by URL.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ntt_ray.errors import InputError
from ntt_ray.reproduce.coco import IMAGES_FROM
from ntt_ray.reproduce.coco_files import find_needed, load_coco
from ntt_ray.reproduce.declaration import BOX_AP, MASK_AP, DataSet, Figure, Needed, Part, Protocol
from ntt_ray.storage import Storage

_ARCHIVES = "https://dl.fbaipublicfiles.com/LVIS"
_MINIVAL_FOLDER = "val2017/"


def _places(*names: str) -> tuple[str, ...]:
    return tuple(f"{folder}{name}" for name in names for folder in ("annotations/", "", "lvis/"))


TRAINING = Needed(_places("lvis_v1_train.json"), f"{_ARCHIVES}/lvis_v1_train.json.zip")
VALIDATION = Needed(_places("lvis_v1_val.json"), f"{_ARCHIVES}/lvis_v1_val.json.zip")
MINIVAL = Needed(
    _places("lvis_v1_minival.json", "lvis_v1_minival_inserted_image_name.json"), VALIDATION.source
)
TEST = Needed(
    (*MINIVAL.places, *VALIDATION.places),
    f"{_ARCHIVES}/lvis_v1_val.json.zip: lvis_v1_val.json holds minival and does as well",
)


def _needed(_shots: int) -> tuple[Needed, ...]:
    return TRAINING, TEST


def _read(data: str, store: Storage, _shots: int) -> DataSet:
    test = _minival(data, store)
    return DataSet(load_coco(data, TRAINING, store, names_from_urls=True), data, test, data)


def _minival(data: str, store: Storage) -> dict[str, Any]:
    if find_needed(data, MINIVAL, store) is None:
        return minival_of(load_coco(data, VALIDATION, store, names_from_urls=True))
    test = load_coco(data, MINIVAL, store, names_from_urls=True)
    if all(annotation.get("segmentation") for annotation in test["annotations"]):
        return test
    try:
        return with_masks_of(test, load_coco(data, VALIDATION, store, names_from_urls=True))
    except InputError as error:
        raise InputError(f"minival's file has boxes only, masks are in lvis_v1_val: {error}") from (
            error
        )


def minival_of(validation: Mapping[str, Any]) -> dict[str, Any]:
    """The images of COCO's val2017 in the validation file, with their objects."""
    images = [i for i in validation["images"] if i["file_name"].startswith(_MINIVAL_FOLDER)]
    kept = {image["id"] for image in images}
    objects = [a for a in validation["annotations"] if a["image_id"] in kept]
    return {**validation, "images": images, "annotations": objects}


def with_masks_of(test: Mapping[str, Any], validation: Mapping[str, Any]) -> dict[str, Any]:
    """Minival's objects with the masks that the validation file has for their ids.

    Raises:
        InputError: an object is not in the validation file.
    """
    known = {annotation["id"]: annotation for annotation in validation["annotations"]}
    objects = []
    for annotation in test["annotations"]:
        other = known.get(annotation["id"], {})
        same = all(other.get(key) == annotation[key] for key in ("image_id", "category_id"))
        if not same or not other.get("segmentation"):
            raise InputError(f"annotation {annotation['id']} of minival is not in it with a mask")
        objects.append({**annotation, "segmentation": other["segmentation"]})
    return {**test, "annotations": objects}


def _classes(data: DataSet) -> tuple[str, ...]:
    """All that have a training object, by their ids."""
    there = {annotation["category_id"] for annotation in data.training["annotations"]}
    known = sorted(data.test["categories"], key=lambda category: int(category["id"]))
    return tuple(category["name"] for category in known if category["id"] in there)


LVIS_MINIVAL = Protocol(
    name="lvis-minival",
    title="LVIS v1 minival",
    images_from=IMAGES_FROM,
    parts=(Part("minival", _needed, _read, _classes),),
    shots=(10,),
    figures=(
        MASK_AP,
        *(
            Figure(f"AP {group} mask", ("by_frequency", "segm", group))
            for group in ("rare", "common", "frequent")
        ),
        BOX_AP,
    ),
    fill_short=True,
)
