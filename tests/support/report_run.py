"""A small made-up run for the report's tests: shards, images, references and truth, no models.

Names are as hostile as a class or file name can be; scores and places are fixed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ntt_ray.masks import encode_mask, rle_area, rle_bbox_xywh
from ntt_ray.merge.thresholds import Thresholds
from ntt_ray.records import ClassLabel, Detection, ImageEntry, ImageLabels, ReferenceSet
from ntt_ray.references.dataset import parse_references
from ntt_ray.report.report import write_report
from ntt_ray.run.layout import shard_uri
from ntt_ray.run.record import RunRecord
from ntt_ray.run.shard import labels_to_table, table_to_bytes
from ntt_ray.storage import Storage

HOSTILE_CLASS = "<script>alert(1);window.hacked=1</script>"
HOSTILE_FILE = "a&b \"quoted\" 'x' </script><img src=x onerror=window.hacked=1>.png"
CLASSES = (
    ClassLabel(3, "disc"),
    ClassLabel(7, HOSTILE_CLASS),
    ClassLabel(12, "$title & ${data}"),
)
SIZE_HW = (72, 96)
UNIT = 3
MIN_SCORE = 0.4
# file name, then (category id, score, box as x, y, width, height), the truth, and the error
IMAGES: tuple[tuple[str, list[Any], list[Any], str | None], ...] = (
    (
        "one.png",
        [(3, 0.9, (5, 5, 30, 30)), (7, 0.6, (50, 10, 30, 40)), (3, 0.2, (60, 50, 20, 20))],
        [(3, (6, 5, 30, 30)), (7, (50, 12, 30, 40))],
        None,
    ),
    (HOSTILE_FILE, [(7, 0.45, (10, 10, 60, 40))], [(3, (10, 10, 60, 40))], None),
    ("empty.png", [], [], None),
    ("missed.png", [], [(12, (20, 20, 20, 20))], None),
    ("gone.png", [], [], "there is no file s3://bucket/gone-17.png"),
    ("lost.png", [], [], "there is no file s3://bucket/lost-4.png"),
    ("weak.png", [(12, 0.41, (1, 1, 9, 9)), (12, 0.4, (30, 30, 9, 9))], [], None),
)


@dataclass
class Run:
    """A run on disk and what `write_report` wants to know about it."""

    output: str
    labels: list[ImageLabels]
    arguments: dict[str, Any] = field(default_factory=dict)
    store: Storage = field(default_factory=Storage)

    def report(self, **changes: Any) -> dict[str, Any]:
        return write_report(self.output, self.store, **{**self.arguments, **changes})

    @property
    def html(self) -> str:
        return (Path(self.output) / "report.html").read_text(encoding="utf-8")


def detection(category_id: int, score: float, box: tuple[int, int, int, int]) -> Detection:
    rle = box_rle(box)
    bbox = rle_bbox_xywh(rle)
    exact = float(np.float32(score))  # as it comes back from a shard
    return Detection(
        category_id, exact, 0.9, (bbox[0], bbox[1], bbox[2], bbox[3]), rle_area(rle), rle
    )


def box_rle(box: tuple[int, int, int, int], size_hw: tuple[int, int] = SIZE_HW) -> Any:
    x, y, width, height = box
    mask = np.zeros(size_hw, dtype=bool)
    mask[y : y + height, x : x + width] = True
    return encode_mask(mask)


def write_run(folder: Path, labels: list[ImageLabels], classes: tuple[ClassLabel, ...]) -> Run:
    """Shards of `UNIT` images each, with the run record that belongs to them."""
    store = Storage()
    output = str(folder / "run")
    units = [labels[i : i + UNIT] for i in range(0, len(labels), UNIT)]
    for shard_id, unit in enumerate(units):
        data = table_to_bytes(labels_to_table(unit), {})
        store.publish_bytes(shard_uri(output, shard_id), data)
    entries = [[item.entry for item in unit] for unit in units]
    record = {
        "format_version": 1,
        "labels_hash": "ab" * 32,
        "classes": [{"id": c.category_id, "name": c.name} for c in classes],
        "plan": {"units": len(units), "images": len(labels)},
        "identity": {
            "images": "s3://bucket/photos/",
            "manifest": "45" * 32,
            "bank": "cd" * 32,
            "models": {
                "encoder": {"name": "dinov2", "image_size": 518, "checkpoint": "ef" * 32},
                "proposer": {"name": "sam2", "image_size": 1024, "checkpoint": "01" * 32},
                "precision": "fp32",
                "device": "cpu",
            },
            "decode": {"orientation": "stored", "max_pixels": 200_000_000},
            "method": {"context_ratio": 0.2, "nms_iou": 0.5},
        },
        "versions": {"numpy": "2.0"},
        "git_revision": None,
    }
    arguments = {
        "record": RunRecord.model_validate_json(json.dumps(record)),
        "shard_ids": range(len(units)),
        "read_unit": entries.__getitem__,
        "thresholds": Thresholds(MIN_SCORE),
    }
    return Run(output, labels, arguments, store)


def example_run(folder: Path) -> Run:
    """The images of `IMAGES` with pictures; `truth_of` and `references_of` go with it."""
    folder.mkdir(parents=True, exist_ok=True)
    labels = []
    for number, (name, found, _, error) in enumerate(IMAGES, start=1):
        path = folder / f"{number}.png"
        entry = ImageEntry(number, name, str(path))
        if error is not None:
            labels.append(ImageLabels.failed(entry, error))
            continue
        _paint(path, number)
        detections = tuple(detection(*item) for item in found)
        labels.append(ImageLabels.labelled(entry, SIZE_HW, detections))
    return write_run(folder, labels, CLASSES)


def truth_of_example() -> dict[str, Any]:
    """A COCO file with its own ids: image 100 is the first of the run, category 1 is the second."""
    own = {3: 2, 7: 1, 12: 9}
    height, width = SIZE_HW
    annotations = [
        {"image_id": 100 + number, "category_id": own[category_id], "bbox": list(box)}
        | {"segmentation": box_rle(box), "area": box[2] * box[3], "iscrowd": 0}
        for number, (_, _, objects, _) in enumerate(IMAGES)
        for category_id, box in objects
    ]
    return {
        "images": [
            {"id": 100 + number, "file_name": name, "height": height, "width": width}
            for number, (name, *_) in enumerate(IMAGES)
        ],
        "annotations": [{"id": i, **a} for i, a in enumerate(annotations, start=1)],
        "categories": [{"id": own[c.category_id], "name": c.name} for c in CLASSES],
    }


def references_of_example(folder: Path) -> ReferenceSet:
    """Two references per class; the image of one of them is missing."""
    _paint(folder / "ref.png", 5)
    height, width = SIZE_HW
    images = [
        {"id": 1, "file_name": "ref.png", "height": height, "width": width},
        {"id": 2, "file_name": "gone.png", "height": height, "width": width},
    ]
    annotations = [
        {"image_id": 1 + shot, "category_id": label.category_id, "bbox": [20, 10, 40, 30]}
        | {"segmentation": box_rle((20, 10, 40, 30))}
        for label in CLASSES
        for shot in range(2)
    ]
    coco = {
        "images": images,
        "annotations": [{"id": i, **a} for i, a in enumerate(annotations, start=1)],
        "categories": [{"id": c.category_id, "name": c.name} for c in CLASSES],
    }
    return parse_references(coco, image_root=str(folder))


def _paint(path: Path, seed: int) -> None:
    pixels = np.zeros((*SIZE_HW, 3), dtype=np.uint8)
    pixels[:] = (40 * seed % 200 + 30, 90, 150)
    pixels[10:40, 10:60] = (200, 160, 40 * seed % 250)
    Image.fromarray(pixels).save(path)
