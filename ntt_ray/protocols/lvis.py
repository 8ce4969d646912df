"""LVIS v1: references from its training file, the minival images of COCO's val2017 labelled.

Its evaluation is federated, see `quality.average_precision`; its images are COCO's, named by URL.
"""

from __future__ import annotations

from ntt_ray.protocols.coco_files import read_coco, tidied, with_names_from_urls
from ntt_ray.protocols.declaration import BOX_AP, MASK_AP, Figure, Part, PartData, Protocol
from ntt_ray.storage import Storage

TRAINING = ["annotations/lvis_v1_train.json", "lvis_v1_train.json"]
MINIVAL = [
    "annotations/lvis_v1_minival.json",
    "annotations/lvis_v1_minival_inserted_image_name.json",
    "lvis_v1_minival.json",
]


def _read(data: str, store: Storage, _shots: int) -> PartData:
    training = tidied(with_names_from_urls(read_coco(data, TRAINING, store)))
    test = tidied(with_names_from_urls(read_coco(data, MINIVAL, store)))
    there = {annotation["category_id"] for annotation in training["annotations"]}
    classes = [c for c in sorted(test["categories"], key=lambda c: c["id"]) if c["id"] in there]
    return PartData(training, data, test, data, tuple(c["name"] for c in classes))


LVIS_MINIVAL = Protocol(
    name="lvis-minival",
    title="LVIS v1 minival",
    parts=(Part("minival", _read),),
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
