"""Shards to COCO files: ``annotations.json`` (instances) and ``results.json`` (results format).

The rules each have a reader behind them that fails otherwise: compressed RLE with an ASCII string,
``iscrowd`` 0, annotation ids from 1 without gaps, tight boxes, ``info`` and ``licenses`` present,
images without objects listed, the decoded size of every image. Written as a stream, so memory does
not grow with the run. It does not know Ray or the models.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ntt_ray import storage
from ntt_ray.outputs.shards import iter_labels, read_shard
from ntt_ray.records import ClassLabel, Detection, ImageLabels
from ntt_ray.storage import Storage

COCO_FILE, RESULTS_FILE = "annotations.json", "results.json"


@dataclass
class MergeCounts:
    """What went through a merge; failed images have a row and are listed nowhere else."""

    images: int = 0
    ok: int = 0
    empty: int = 0
    failed: int = 0
    detections: int = 0
    annotations: int = 0


def merge_shards(
    output: str,
    shard_ids: Sequence[int],
    store: Storage,
    *,
    classes: Sequence[ClassLabel],
    info: Mapping[str, Any],
    min_score: float,
    profiles: Sequence[str],
    images_per_file: int | None = None,
) -> tuple[list[str], MergeCounts]:
    """Write the COCO files of a run.

    Args:
        output: the run's prefix.
        shard_ids: the shards to merge, in order.
        store: access to files.
        classes: of the run, all of them, also those without a detection.
        info: goes into the ``info`` block; no clock in it, so the same run gives the same bytes.
        min_score: ``annotations.json`` has detections of at least this score; the results all.
        profiles: any of ``coco`` and ``coco-results``.
        images_per_file: split ``annotations.json`` into self-contained files of so many images,
            with ids that are unique across them.

    Returns:
        Names of the files written, relative to the output, and counts.
    """
    counts = MergeCounts()
    rows = _all_labels(output, shard_ids, store, counts)
    head = _head(classes, info)
    names: list[str] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ntt-ray-merge-")))
        results = stack.enter_context((folder / RESULTS_FILE).open("w", encoding="ascii"))
        writer = _InstancesWriter(folder, head, min_score, counts)
        separator = "["
        for position, labels in enumerate(rows):
            if images_per_file and position and position % images_per_file == 0:
                writer.finish_file()
            writer.add(labels)
            for detection in labels.detections:
                results.write(separator + _dumps(_result(labels, detection)))
                separator = ",\n"
        results.write("[]\n" if separator == "[" else "]\n")
        results.flush()
        writer.finish_file()
        if "coco" in profiles:
            for name, path in zip(_file_names(len(writer.files), images_per_file), writer.files):
                store.publish_file(storage.join(output, name), path)
                names.append(name)
        if "coco-results" in profiles:
            store.publish_file(storage.join(output, RESULTS_FILE), folder / RESULTS_FILE)
            names.append(RESULTS_FILE)
    return names, counts


class _InstancesWriter:
    """Spools images and annotations apart, then joins them, file by file."""

    def __init__(self, folder: Path, head: str, min_score: float, counts: MergeCounts) -> None:
        self.files: list[Path] = []
        self._folder, self._head = folder, head
        self._min_score, self._counts = min_score, counts
        self._next_id = 1
        self._start_file()

    def _start_file(self) -> None:
        self._images, self._annotations = self._spool("images"), self._spool("annotations")
        self._image_separator = self._annotation_separator = "\n"

    def _spool(self, name: str) -> IO[str]:
        return (self._folder / f"{name}.spool").open("w+", encoding="ascii")

    def add(self, labels: ImageLabels) -> None:
        """Take in one image's labels."""
        if labels.height is None:
            return  # a failed image has no size: its row is in the shard and in the report
        self._images.write(self._image_separator + _dumps(_image(labels)))
        self._image_separator = ",\n"
        for detection in labels.detections:
            if detection.score < self._min_score:
                continue
            text = _dumps(_annotation(self._next_id, labels, detection))
            self._annotations.write(self._annotation_separator + text)
            self._annotation_separator = ",\n"
            self._next_id += 1
            self._counts.annotations += 1

    def finish_file(self) -> None:
        """Close the current file and begin the next."""
        path = self._folder / f"part-{len(self.files)}.json"
        with path.open("w", encoding="ascii") as target, self._images, self._annotations:
            target.write(self._head)
            for key, spool in (("images", self._images), ("annotations", self._annotations)):
                target.write(f',\n"{key}": [')
                spool.seek(0)
                shutil.copyfileobj(spool, target)
                target.write("]")
            target.write("}\n")
        self.files.append(path)
        self._start_file()


def _all_labels(
    output: str, shard_ids: Iterable[int], store: Storage, counts: MergeCounts
) -> Iterator[ImageLabels]:
    for shard_id in shard_ids:
        for labels in iter_labels(read_shard(output, shard_id, store)):
            counts.images += 1
            counts.detections += len(labels.detections)
            setattr(counts, labels.status, getattr(counts, labels.status) + 1)
            yield labels


def _file_names(count: int, images_per_file: int | None) -> list[str]:
    if images_per_file is None:
        return [COCO_FILE]
    stem = COCO_FILE.removesuffix(".json")
    return [f"{stem}-{number:05d}-of-{count:05d}.json" for number in range(1, count + 1)]


def _head(classes: Sequence[ClassLabel], info: Mapping[str, Any]) -> str:
    categories = [
        {"id": c.category_id, "name": c.name, "supercategory": ""}
        for c in sorted(classes, key=lambda c: c.category_id)
    ]
    head = {"info": dict(info), "licenses": [], "categories": categories}
    return _dumps(head)[:-1]


def _image(labels: ImageLabels) -> dict[str, Any]:
    return {
        "id": labels.entry.image_id,
        "file_name": labels.entry.file_name,
        "width": labels.width,
        "height": labels.height,
    }


def _annotation(identity: int, labels: ImageLabels, detection: Detection) -> dict[str, Any]:
    return {
        "id": identity,
        **_result(labels, detection),
        "area": detection.area,
        "iscrowd": 0,
    }


def _result(labels: ImageLabels, detection: Detection) -> dict[str, Any]:
    return {
        "image_id": labels.entry.image_id,
        "category_id": detection.category_id,
        "bbox": list(detection.bbox_xywh),
        "score": round(detection.score, 7),  # float32 has about 7 digits
        "segmentation": detection.rle,
    }


def _dumps(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), sort_keys=True, ensure_ascii=True)
