"""A finished run with pictures for the tests of a review, written without models or Ray.

Each image has a rectangle of each class that was labelled; names are as hostile as they can be.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from ntt_ray.bank.file import bank_digest
from ntt_ray.bank.memory import MemoryBank
from ntt_ray.config import Config, build_config
from ntt_ray.masks import Rle, encode_mask, rle_area, rle_bbox_xywh
from ntt_ray.records import ClassLabel, Detection, ImageEntry, ImageLabels
from ntt_ray.run import manifest as manifest_file
from ntt_ray.run import manifest_writer
from ntt_ray.run.layout import BANK_FILE, MANIFEST_FILE, shard_uri
from ntt_ray.run.record import Identity, make_record, write_record
from ntt_ray.run.shard import labels_to_table, table_to_bytes, with_embeddings
from ntt_ray.storage import Storage
from tests.support.run_files import manifest_table

STORE = Storage()
HOSTILE = "<img src=x onerror=window.hacked=1></script>"
CLASSES = (ClassLabel(2, "disc"), ClassLabel(5, HOSTILE))
SIZE_HW = (60, 80)
PER_UNIT = 4
MIN_SCORE = 0.4


def box_rle(x: int, y: int, width: int, height: int) -> Rle:
    """The mask of a rectangle."""
    mask = np.zeros(SIZE_HW, dtype=bool)
    mask[y : y + height, x : x + width] = True
    return encode_mask(mask)


def review_run(
    folder: Path, images: int = 24, *, vectors: npt.NDArray[np.float32] | None = None, **merge: Any
) -> Config:
    """Write a run; of every six images one failed and one is empty, the others have two labels.

    A third label of each image has a score below `MIN_SCORE`. With `vectors` labels have these for
    embeddings, in turn, and there is a bank: its classes look as the first two axes.
    """
    pictures, output = folder / "pictures", folder / "run"
    pictures.mkdir(parents=True)
    entries = [
        ImageEntry(10 + n, f"a & b/{n}'.png", str(pictures / f"a & b/{n}'.png"))
        for n in range(images)
    ]
    rows = [_labelled(entry, n) for n, entry in enumerate(entries)]
    manifest = manifest_writer.manifest_bytes(manifest_table(entries), PER_UNIT)
    config = _config(folder, output, merge)
    STORE.publish_bytes(str(output / MANIFEST_FILE), manifest)
    identity = Identity.model_validate(
        ({} if vectors is None else {"proposals": {"keep": True, "embeddings": True}})
        | {
            "manifest": manifest_file.manifest_digest(manifest),
            "bank": "cd" * 32 if vectors is None else bank_digest(_bank(vectors.shape[1])),
            "models": {
                "encoder": {"name": "dinov2", "image_size": 518, "checkpoint": "ef" * 32},
                "proposer": {"name": "sam2", "image_size": 1024, "checkpoint": "01" * 32},
            },
            "method": {"context_ratio": 0.2},
            "decode": {"orientation": "upright"},
        }
    )
    units = [rows[i : i + PER_UNIT] for i in range(0, len(rows), PER_UNIT)]
    record = make_record(
        identity=identity,
        config=config.resolved(),
        classes=CLASSES,
        units=len(units),
        images=len(rows),
    )
    write_record(str(output), record, STORE)
    for unit, own in enumerate(units):
        table = labels_to_table(own)
        if vectors is not None:
            table = with_embeddings([_embedded(row, vectors) for row in own])
        data = table_to_bytes(table, identity.provenance())
        STORE.publish_bytes(shard_uri(str(output), unit), data)
    if vectors is not None:
        STORE.publish_bytes(str(output / BANK_FILE), _bank(vectors.shape[1]))
    return config


def _embedded(row: ImageLabels, vectors: npt.NDArray[np.float32]) -> ImageLabels:
    first = len(row.detections) * (row.entry.image_id - 10)
    found = tuple(
        replace(detection, embedding=vectors[(first + n) % len(vectors)])
        for n, detection in enumerate(row.detections)
    )
    return replace(row, detections=found)


def _bank(channels: int) -> bytes:
    means = [[(torch.eye(channels)[k], 1.0)] for k in range(len(CLASSES))]
    encoder = {"name": "dinov2", "image_size": 518, "checkpoint": "ef" * 32}
    return MemoryBank.from_means(CLASSES, means, encoder=encoder, reference_digest="d").to_bytes()


def _config(folder: Path, output: Path, merge: dict[str, Any]) -> Config:
    paint(folder / "reference.png", 3)
    height, width = SIZE_HW
    rle = box_rle(20, 10, 30, 30)
    coco = {
        "images": [{"id": 1, "file_name": "reference.png", "height": height, "width": width}],
        "annotations": [
            {"id": n, "image_id": 1, "category_id": c.category_id, "bbox": [20, 10, 30, 30]}
            | {"segmentation": rle}
            for n, c in enumerate(CLASSES, 1)
        ],
        "categories": [{"id": c.category_id, "name": c.name} for c in CLASSES],
    }
    (folder / "references.json").write_text(json.dumps(coco))
    return build_config(
        {
            "images": str(folder / "pictures"),
            "output": str(output),
            "references": {"annotations": str(folder / "references.json")},
            "merge": {"min_score": MIN_SCORE, **merge},
        }
    )


def _labelled(entry: ImageEntry, number: int) -> ImageLabels:
    paint(Path(entry.uri), number)
    if number % 6 == 4:
        return ImageLabels.failed(entry, "cut off")
    if number % 6 == 5:
        return ImageLabels.labelled(entry, SIZE_HW, ())
    high = 0.5 + (number * 37 % 100) / 220
    found = (
        (CLASSES[number % 2].category_id, high, (10, 10, 20, 20)),
        (CLASSES[(number + 1) % 2].category_id, 0.45 + number / 1000, (40, 20, 30, 30)),
        (CLASSES[0].category_id, 0.2, (0, 0, 5, 5)),
    )
    return ImageLabels.labelled(entry, SIZE_HW, tuple(detection(*item) for item in found))


def detection(category_id: int, score: float, box: tuple[int, int, int, int]) -> Detection:
    """A rectangle; its score as it comes back from a shard."""
    rle = box_rle(*box)
    x, y, width, height = rle_bbox_xywh(rle)
    exact = float(np.float32(score))
    return Detection(category_id, exact, 0.9, (x, y, width, height), rle_area(rle), rle)


def paint(path: Path, seed: int) -> None:
    """A picture with two rectangles on a plain colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((*SIZE_HW, 3), (40 * seed % 200 + 30, 90, 150), dtype=np.uint8)
    pixels[10:30, 10:30] = (200, 160, 40)
    pixels[20:50, 40:70] = (60, 40 * seed % 250, 90)
    Image.fromarray(pixels).save(path)
