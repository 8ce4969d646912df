"""CD-FSOD: six data sets far from COCO, with boxes only; the shots come as files of their own."""

from __future__ import annotations

from functools import partial

from ntt_ray import storage
from ntt_ray.errors import InputError
from ntt_ray.protocols.coco_files import read_coco, tidied
from ntt_ray.protocols.declaration import BOX_AP, BOX_AP50, Part, PartData, Protocol, Published
from ntt_ray.storage import Storage

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


def _read(data: str, store: Storage, shots: int, *, folder: str, classes: int) -> PartData:
    place = storage.join(data, folder)
    training = tidied(read_coco(place, [f"annotations/{shots}_shot.json"], store), boxes_only=True)
    test = tidied(read_coco(place, ["annotations/test.json"], store), boxes_only=True)
    names = tuple(category["name"] for category in test["categories"])
    if len(names) != classes or {c["name"] for c in training["categories"]} != set(names):
        raise InputError(f"{folder}: its files must have the same {classes} classes")
    roots = [
        _image_root(place, NESTED[key], coco["images"], store)
        for key, coco in (("train", training), ("test", test))
    ]
    return PartData(training, roots[0], test, roots[1], names, given=True)


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
    parts=tuple(
        Part(name, partial(_read, folder=folder, classes=classes))
        for name, (folder, classes) in DATA_SETS.items()
    ),
    shots=(1, 5, 10),
    figures=(BOX_AP, BOX_AP50),
    published=(
        Published("nAP box", 0.180, 1, "mean over the six"),
        Published("nAP box", 0.224, 5, "mean over the six"),
        Published("nAP box", 0.214, 10, "mean over the six"),
    ),
    references="boxes",
)
