"""What Label Studio's converter and Datumaro (CVAT's) export of a review comes back as verdicts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ntt_ray.config import Config
from ntt_ray.review.importing import import_run
from ntt_ray.review.job import draw_run, open_review
from ntt_ray.review.publish import publish_review
from ntt_ray.review.records import Verdicts
from ntt_ray.run.layout import REVIEW_COCO, REVIEW_INTERFACE, REVIEW_TASKS
from tests.support.review_run import CLASSES, SIZE_HW, review_run

NAMES = [label.name for label in CLASSES]


@pytest.fixture
def config(tmp_path: Path) -> Config:
    config = review_run(tmp_path / "made")
    draw_run(config, labels=1000, images=4, seed=1, publish=publish_review)
    return config


def expected(config: Config) -> tuple[str, str, str]:
    """Ids of three labels of one class: to be removed, given another class, and drawn anew."""
    labels = sorted(open_review(config).draw.labels, key=lambda label: label.id)
    own = [str(label.id) for label in labels if label.category_id == CLASSES[0].category_id]
    return own[0], own[1], own[2]


def check(config: Config, path: Path) -> Verdicts:
    found = import_run(config, str(path), "anna")[1]
    gone, other, anew = expected(config)
    assert found.labels[gone] == "nothing"
    assert found.labels[other] == "class"
    assert found.labels[anew] == "mask"
    assert list(found.labels.values()).count("right") == len(found.labels) - 3
    assert len(found.labels) == len(open_review(config).draw.labels)
    return found


def upper_part(bbox: Any) -> np.ndarray[Any, Any]:
    """Six tenths of a rectangle."""
    x, y, width, height = (int(value) for value in bbox)
    mask = np.zeros(SIZE_HW, dtype=np.uint8)
    mask[y : y + height * 6 // 10, x : x + width] = 255
    return mask


def test_label_studio(config: Config, tmp_path: Path) -> None:
    from label_studio_sdk.converter import Converter
    from label_studio_sdk.converter.brush import mask2rle

    gone, other, anew = expected(config)
    boxes = {str(label.id): label.bbox for label in open_review(config).draw.labels}
    output = Path(config.output)
    tasks = json.loads((output / REVIEW_TASKS).read_text())
    for number, task in enumerate(tasks, 1):
        results = [r for r in task["predictions"][0]["result"] if r["id"] != gone]
        for result in results:
            if result["id"] == other:
                result["value"]["brushlabels"] = [NAMES[1]]
            if result["id"] == anew:
                result["value"]["rle"] = mask2rle(upper_part(boxes[anew]))
        task |= {"id": number, "annotations": [{"id": number, "result": results}]}
    (tmp_path / "tasks.json").write_text(json.dumps(tasks))
    converter = Converter((output / REVIEW_INTERFACE).read_text(), str(tmp_path))
    converter.convert(str(tmp_path / "tasks.json"), str(tmp_path / "out"), "JSON", is_dir=False)
    (exported,) = (tmp_path / "out").glob("*.json")
    check(config, exported)


def test_datumaro_which_writes_the_files_of_cvat(config: Config, tmp_path: Path) -> None:
    import datumaro

    gone, other, anew = map(int, expected(config))
    folder, pictures = tmp_path / "in", Path(config.images)
    (folder / "annotations").mkdir(parents=True)
    (folder / "images").symlink_to(pictures)
    data = (Path(config.output) / REVIEW_COCO).read_bytes()
    (folder / "annotations" / "instances_default.json").write_bytes(data)
    boxes = {label.id: label.bbox for label in open_review(config).draw.labels}
    dataset = datumaro.Dataset.import_from(str(folder), "coco_instances")
    labels = [label.name for label in dataset.categories()[datumaro.AnnotationType.label]]
    items = []
    for item in dataset:
        kept = []
        for own in item.annotations:
            if own.type != datumaro.AnnotationType.mask or own.id == gone:
                continue
            mask, label = own.image, own.label
            if own.id == other:
                label = labels.index(NAMES[1])
            if own.id == anew:
                mask = upper_part(boxes[anew]) > 0
            kept.append(datumaro.Mask(mask, label=label, id=own.id, group=own.group))
        items.append(item.wrap(annotations=kept))
    changed = datumaro.Dataset.from_iterable(items, categories=dataset.categories())
    changed.export(str(tmp_path / "out"), "coco_instances", save_media=False)
    (exported,) = (tmp_path / "out" / "annotations").glob("*.json")
    check(config, exported)
