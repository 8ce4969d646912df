"""CD-FSOD: six data sets far from COCO, with boxes only; the shots come as files of their own."""

from __future__ import annotations

from functools import partial

from ntt_ray import storage
from ntt_ray.errors import InputError
from ntt_ray.reproduce.coco_files import load_coco
from ntt_ray.reproduce.declaration import (
    BOX_AP,
    BOX_AP50,
    DataSet,
    Needed,
    Part,
    Protocol,
    Published,
)
from ntt_ray.storage import Storage

SOURCE = "the links in the README of https://github.com/lovelyqian/CDFSOD-benchmark"
# data set -> its folder and number of classes
DATA_SETS = {
    "ArTaxOr": ("ArTaxOr", 7),
    "Clipart1k": ("clipart1k", 20),
    "DIOR": ("DIOR", 20),
    "DeepFish": ("FISH", 1),
    "NEU-DET": ("NEU-DET", 6),
    "UODD": ("UODD", 3),
}
# DIOR's archives unpack into a folder more
NESTED = {"train": ("train", "train/new_train"), "test": ("test", "test/new_test")}


def _files(shots: int, folder: str) -> tuple[Needed, Needed]:
    names = (f"{shots}_shot.json", "test.json")
    training, test = (Needed((f"{folder}/annotations/{name}",), SOURCE) for name in names)
    return training, test


def _read(data: str, store: Storage, shots: int, *, folder: str) -> DataSet:
    place = storage.join(data, folder)
    needed = _files(shots, folder)
    training, test = (load_coco(data, file, store, boxes_only=True) for file in needed)
    roots = [
        _image_root(place, NESTED[key], coco["images"], store)
        for key, coco in (("train", training), ("test", test))
    ]
    return DataSet(training, roots[0], test, roots[1], given=True)


def _classes(data: DataSet, *, folder: str, classes: int) -> tuple[str, ...]:
    names = tuple(category["name"] for category in data.test["categories"])
    if len(names) != classes or {c["name"] for c in data.training["categories"]} != set(names):
        raise InputError(f"{folder}: its files must have the same {classes} classes")
    return names


def _image_root(
    place: str, folders: tuple[str, ...], images: list[dict[str, str]], store: Storage
) -> str:
    """The folder that the first image lies in; the first one where there is none."""
    roots = [storage.join(place, folder) for folder in folders]
    first = images[0].get("file_name", "") if images else ""
    return next((r for r in roots if first and store.exists(storage.below(r, first))), roots[0])


CD_FSOD = Protocol(
    name="cd-fsod",
    title="CD-FSOD, six data sets",
    images_from=SOURCE,
    parts=tuple(
        Part(
            name,
            partial(_files, folder=folder),
            partial(_read, folder=folder),
            partial(_classes, folder=folder, classes=classes),
        )
        for name, (folder, classes) in DATA_SETS.items()
    ),
    shots=(1, 5, 10),
    figures=(BOX_AP, BOX_AP50),
    published=(
        Published("nAP box", 0.180, 1, 0.015, note="mean over the six"),
        Published("nAP box", 0.224, 5, 0.015, note="mean over the six"),
        Published("nAP box", 0.214, 10, 0.015, note="mean over the six"),
    ),
    references="boxes",
)
