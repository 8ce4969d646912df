"""Readers of COCO files: each gives what it finds in one, by file name.

Each is imported when it is used: `pytest` on one of them needs no other.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.readers.labelled import Found, Instance, Run


def pycocotools_coco(run: Run, name: str) -> Found:
    from pycocotools.coco import COCO

    return _coco_found(_quietly(COCO, str(run.folder / name)))


def pycocotools_results(run: Run, name: str) -> Found:
    from pycocotools.coco import COCO

    coco = _quietly(COCO, str(run.folder / "annotations.json"))
    return _coco_found(_quietly(coco.loadRes, str(run.folder / name)))


def faster_coco_eval_coco(run: Run, name: str) -> Found:
    from faster_coco_eval import COCO

    return _coco_found(COCO(str(run.folder / name)))


def faster_coco_eval_results(run: Run, name: str) -> Found:
    from faster_coco_eval import COCO

    return _coco_found(COCO(str(run.folder / "annotations.json")).loadRes(str(run.folder / name)))


def _coco_found(coco) -> Found:
    """What ``COCO``, or what has the same methods, holds."""
    names = {category["id"]: category["name"] for category in coco.loadCats(coco.getCatIds())}
    found = {}
    for image in coco.loadImgs(coco.getImgIds()):
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=[image["id"]]))
        found[image["file_name"]] = [
            Instance(names[a["category_id"]], coco.annToMask(a).astype(bool), a["score"])
            for a in annotations
        ]
    return found


def torchvision_coco(run: Run, name: str) -> Found:
    from torchvision.datasets import CocoDetection, wrap_dataset_for_transforms_v2

    dataset = _quietly(CocoDetection, str(run.images), str(run.folder / name))
    wrapped = wrap_dataset_for_transforms_v2(dataset, target_keys={"image_id", "masks", "labels"})
    found = {}
    for index in range(len(wrapped)):
        _, target = wrapped[index]
        masks, labels = target.get("masks", []), target.get("labels", [])
        found[dataset.coco.imgs[target["image_id"]]["file_name"]] = [
            Instance(dataset.coco.cats[int(label)]["name"], mask.numpy().astype(bool))
            for mask, label in zip(masks, labels, strict=True)
        ]
    return found


def supervision_coco(run: Run, name: str) -> Found:
    import supervision

    dataset = supervision.DetectionDataset.from_coco(str(run.images), str(run.folder / name))
    return supervision_found(dataset, run.images)


def supervision_found(dataset, images: Path) -> Found:
    """What a ``DetectionDataset`` holds."""
    return {
        str(Path(path).relative_to(images)): [
            Instance(dataset.classes[class_id], mask)
            for class_id, mask in zip(
                detections.class_id, [] if detections.mask is None else detections.mask, strict=True
            )
        ]
        for path, detections in dataset.annotations.items()
    }


def datumaro_coco(run: Run, name: str) -> Found:
    """It wants ``annotations/instances_SUBSET.json`` beside ``images/``."""
    import datumaro
    from pycocotools import mask as coco_mask

    folder = run.folder / "datumaro" / name
    (folder / "annotations").mkdir(parents=True)
    shutil.copy(run.folder / name, folder / "annotations" / "instances_default.json")
    (folder / "images").symlink_to(run.images)
    dataset = datumaro.Dataset.import_from(str(folder), "coco_instances")
    labels = dataset.categories()[datumaro.AnnotationType.label]
    found = {}
    for item in dataset:
        size_hw, parts = item.media.size, {}
        for annotation in item.annotations:
            if annotation.type == datumaro.AnnotationType.mask:
                mask = annotation.image.astype(bool)
            elif annotation.type == datumaro.AnnotationType.polygon:
                rles = coco_mask.frPyObjects([annotation.points], *size_hw)
                mask = coco_mask.decode(coco_mask.merge(rles)).astype(bool)
            else:
                continue
            parts.setdefault(annotation.group, []).append((annotation, mask))
        found[str(Path(item.media.path).relative_to(folder / "images"))] = [
            Instance(
                labels[group[0][0].label].name,
                np.logical_or.reduce([mask for _, mask in group]),
                group[0][0].attributes["score"],
            )
            for group in parts.values()
        ]
    return found


def labelformat_coco(run: Run, name: str) -> Found:
    """What LightlyStudio reads COCO files with; it knows polygons, and RLE of crowds only."""
    from labelformat.formats.coco import COCOInstanceSegmentationInput
    from pycocotools import mask as coco_mask

    found = {}
    for label in COCOInstanceSegmentationInput(input_file=run.folder / name).get_labels():
        size_hw = (label.image.height, label.image.width)
        found[label.image.filename] = [
            Instance(
                item.category.name,
                coco_mask.decode(
                    coco_mask.merge(
                        coco_mask.frPyObjects(
                            [np.ravel(part).tolist() for part in item.segmentation.polygons],
                            *size_hw,
                        )
                    )
                ).astype(bool),
            )
            for item in label.objects
        ]
    return found


def fiftyone_coco(run: Run, name: str) -> Found:
    """Its importer, which is all that reads files; data sets need its database server."""
    from fiftyone.utils.coco import COCODetectionDatasetImporter

    importer = COCODetectionDatasetImporter(
        data_path=str(run.images), labels_path=str(run.folder / name), label_types="segmentations"
    )
    importer.setup()
    found = {}
    for path, metadata, label in importer:
        found[str(Path(path).relative_to(run.images))] = [
            Instance(d.label, _placed(d, metadata), d.confidence)
            for d in (label.detections if label is not None else [])
        ]
    return found


def _placed(detection, metadata) -> np.ndarray:
    """The mask of a FiftyOne detection, which covers its box only, in its image."""
    whole = np.zeros((metadata.height, metadata.width), dtype=bool)
    x, y, _, _ = detection.bounding_box
    left, top = round(x * metadata.width), round(y * metadata.height)
    height, width = detection.mask.shape
    whole[top : top + height, left : left + width] = detection.mask
    return whole


def average_precisions(run: Run, kind: str) -> dict[str, float]:
    """AP of the results against the annotations, of every score, by evaluator."""
    import faster_coco_eval
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    found = {}
    for name, read, evaluator in (
        ("pycocotools", COCO, COCOeval),
        ("faster-coco-eval", faster_coco_eval.COCO, faster_coco_eval.COCOeval_faster),
    ):
        found[name] = _quietly(_average_precision, run, kind, read, evaluator)
    return found


def _average_precision(run: Run, kind: str, read: Callable, evaluator: Callable) -> float:
    truth = json.loads((run.folder / "annotations.json").read_text())
    results = json.loads((run.folder / "results.json").read_text())
    coco = read(str(run.folder / "annotations.json"))
    kept = {(a["image_id"], a["score"]) for a in truth["annotations"]}
    evaluation = evaluator(
        coco, coco.loadRes([r for r in results if (r["image_id"], r["score"]) in kept]), kind
    )
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return float(evaluation.stats[0])


def _quietly(function: Callable, *arguments):
    with contextlib.redirect_stdout(io.StringIO()):
        return function(*arguments)
