"""iSAID: instances in aerial images, in patches of 800 pixels as its authors' script cuts them.

Nobody published a figure that is measured this way: references are sampled from the patches of
train, those of val are labelled, all 15 classes, in tiles, since most objects are small.
"""

from __future__ import annotations

from ntt_ray import storage
from ntt_ray.errors import InputError
from ntt_ray.reproduce.coco_files import find_needed, load_coco
from ntt_ray.reproduce.declaration import (
    BOX_AP,
    MASK_AP,
    DataSet,
    Figure,
    Needed,
    Part,
    Protocol,
)
from ntt_ray.storage import Storage

CLASSES = 15
TILE_PX = 512
SOURCE = (
    "https://captain-whu.github.io/iSAID/dataset.html, cut by split.py and preprocess.py of "
    "https://github.com/CAPTAIN-WHU/iSAID_Devkit"
)


def _file(half: str) -> Needed:
    """The file of a half; the authors' page spells its name in another way than their script."""
    names = (f"{half}/{word}_filtered_{half}.json" for word in ("instancesonly", "instance_only"))
    return Needed(
        tuple(f"{folder}{name}" for name in names for folder in ("", "iSAID_patches/")), SOURCE
    )


TRAINING, TEST = _file("train"), _file("val")


def _needed(_shots: int) -> tuple[Needed, ...]:
    return TRAINING, TEST


def _read(data: str, store: Storage, _shots: int) -> DataSet:
    halves = []
    for needed in (TRAINING, TEST):
        coco = load_coco(data, needed, store)
        folder = (find_needed(data, needed, store) or "").rpartition("/")[0]
        halves.append((coco, storage.join(folder, "images")))
    (training, training_root), (test, test_root) = halves
    return DataSet(training, training_root, test, test_root)


def _classes(data: DataSet) -> tuple[str, ...]:
    names = tuple(category["name"] for category in data.test["categories"])
    if len(names) != CLASSES or {c["name"] for c in data.training["categories"]} != set(names):
        raise InputError(f"iSAID: both files must have the same {CLASSES} classes")
    return names


ISAID = Protocol(
    name="isaid",
    title="iSAID, patches of aerial images",
    images_from=SOURCE,
    parts=(Part("val", _needed, _read, _classes),),
    shots=(1, 5, 10, 30),
    figures=(MASK_AP, BOX_AP, Figure("nAP mask small", ("segm", "APs"))),
    settings={"method": {"tiles": {"side": TILE_PX}}},
)
