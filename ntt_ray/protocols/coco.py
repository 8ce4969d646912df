"""COCO: the 20 novel classes of few-shot detection, and the four folds of COCO-20i.

References are drawn from train2017, val2017 is labelled, with the classes of a part only.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ntt_ray import storage
from ntt_ray.errors import InputError
from ntt_ray.protocols.coco_files import of_classes, read_coco, tidied
from ntt_ray.protocols.declaration import (
    BOX_AP,
    MASK_AP,
    Figure,
    Part,
    PartData,
    Protocol,
    Published,
)
from ntt_ray.storage import Storage

NOVEL_IDS = (1, 2, 3, 4, 5, 6, 7, 9, 16, 17, 18, 19, 20, 21, 44, 62, 63, 64, 67, 72)
CLASSES, FOLDS = 80, 4


def _novel(_ids: tuple[int, ...]) -> tuple[int, ...]:
    return NOVEL_IDS


def _fold(ids: tuple[int, ...], fold: int) -> tuple[int, ...]:
    """Every fourth of the 80 classes in COCO's order."""
    if len(ids) != CLASSES:
        raise InputError(f"COCO has {CLASSES} classes, these annotations have {len(ids)}")
    return ids[fold::FOLDS]


def _read(
    data: str, store: Storage, _shots: int, *, chosen: Callable[[tuple[int, ...]], tuple[int, ...]]
) -> PartData:
    training = tidied(read_coco(data, ["annotations/instances_train2017.json"], store))
    test = tidied(read_coco(data, ["annotations/instances_val2017.json"], store))
    ids = chosen(tuple(sorted(category["id"] for category in test["categories"])))
    return PartData(
        training,
        storage.join(data, "train2017"),
        test,
        storage.join(data, "val2017"),
        of_classes(test, ids),
    )


COCO_NOVEL = Protocol(
    name="coco-novel",
    title="COCO few-shot, 20 novel classes",
    parts=(Part("novel", partial(_read, chosen=_novel)),),
    shots=(1, 2, 3, 5, 10, 30),
    figures=(BOX_AP, MASK_AP),
    published=(
        Published("nAP box", 0.245, 1, "mean over seeds"),
        Published("nAP box", 0.295, 2, "mean over seeds"),
        Published("nAP box", 0.323, 3, "mean over seeds"),
        Published("nAP box", 0.344, 5, "mean over seeds"),
        Published("nAP box", 0.366, 10),
        Published("nAP box", 0.368, 30, "10 seeds: 37.0 ± 0.2"),
        Published("nAP mask", 0.344, 30, "10 seeds: ± 0.2"),
    ),
)

COCO_20I = Protocol(
    name="coco-20i",
    title="COCO-20i, class maps of whole images",
    parts=tuple(
        Part(f"fold {fold}", partial(_read, chosen=partial(_fold, fold=fold)))
        for fold in range(FOLDS)
    ),
    shots=(1, 5),
    figures=(
        Figure("mIoU", ("class_maps", "mIoU")),
        Figure("FB-IoU", ("class_maps", "FBIoU")),
        MASK_AP,
    ),
    class_maps=True,
)
