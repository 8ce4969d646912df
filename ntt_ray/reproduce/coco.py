"""COCO: the 20 novel classes of few-shot detection, and the four folds of COCO-20i.

References are sampled from train2017, val2017 is labelled, with the classes of a part only.
"""

from __future__ import annotations

from functools import partial

from ntt_ray import storage
from ntt_ray.errors import InputError
from ntt_ray.reproduce.coco_files import load_coco, of_classes
from ntt_ray.reproduce.declaration import (
    BOX_AP,
    MASK_AP,
    DataSet,
    Figure,
    Needed,
    Part,
    Protocol,
    Published,
)
from ntt_ray.storage import Storage

NOVEL_IDS = (1, 2, 3, 4, 5, 6, 7, 9, 16, 17, 18, 19, 20, 21, 44, 62, 63, 64, 67, 72)
CLASSES, FOLDS = 80, 4
_ARCHIVES = "http://images.cocodataset.org"
_SOURCE = f"{_ARCHIVES}/annotations/annotations_trainval2017.zip"
IMAGES_FROM = f"{_ARCHIVES}/zips/train2017.zip and {_ARCHIVES}/zips/val2017.zip"
TRAINING = Needed(("annotations/instances_train2017.json",), _SOURCE)
TEST = Needed(("annotations/instances_val2017.json",), _SOURCE)


def _needed(_shots: int) -> tuple[Needed, ...]:
    return TRAINING, TEST


def _read(data: str, store: Storage, _shots: int) -> DataSet:
    return DataSet(
        load_coco(data, TRAINING, store),
        storage.join(data, "train2017"),
        load_coco(data, TEST, store),
        storage.join(data, "val2017"),
    )


def _novel(data: DataSet) -> tuple[str, ...]:
    return of_classes(data.test, NOVEL_IDS)


def _fold(data: DataSet, fold: int) -> tuple[str, ...]:
    """Every fourth of the 80 classes in COCO's order."""
    ids = sorted(category["id"] for category in data.test["categories"])
    if len(ids) != CLASSES:
        raise InputError(f"COCO has {CLASSES} classes, these annotations have {len(ids)}")
    return of_classes(data.test, ids[fold::FOLDS])


COCO_NOVEL = Protocol(
    name="coco-novel",
    title="COCO few-shot, 20 novel classes",
    images_from=IMAGES_FROM,
    parts=(Part("novel", _needed, _read, _novel),),
    shots=(1, 2, 3, 5, 10, 30),
    figures=(BOX_AP, MASK_AP),
    published=(
        Published("nAP box", 0.245, 1, 0.015, seeds=10),
        Published("nAP box", 0.295, 2, 0.015, seeds=10),
        Published("nAP box", 0.323, 3, 0.01, seeds=10),
        Published("nAP box", 0.344, 5, 0.01, seeds=10),
        Published("nAP box", 0.366, 10, 0.006),
        Published("nAP box", 0.368, 30, 0.006),
        Published("nAP box", 0.370, 30, 0.003, seeds=10, note="± 0.2 over draws"),
        Published("nAP mask", 0.342, 30, 0.006),
        Published("nAP mask", 0.344, 30, 0.003, seeds=10, note="± 0.2 over draws"),
    ),
)

COCO_20I = Protocol(
    name="coco-20i",
    title="COCO-20i, class maps of whole images",
    images_from=IMAGES_FROM,
    parts=tuple(
        Part(f"fold {fold}", _needed, _read, partial(_fold, fold=fold)) for fold in range(FOLDS)
    ),
    shots=(1, 5),
    figures=(
        Figure("mIoU", ("class_maps", "mIoU")),
        Figure("FB-IoU", ("class_maps", "FBIoU")),
        MASK_AP,
    ),
    class_maps=True,
    # the authors' own evaluation paints detections of this score or more
    settings={"merge": {"min_score": 0.5}},
)
