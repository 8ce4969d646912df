"""Readers of YOLO labels: ours, and those that Ultralytics' converter makes of our COCO files."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.readers.coco_readers import supervision_found
from tests.readers.labelled import NAMES, Found, Instance, Run


def ultralytics_labels(run: Run, name: str) -> Found:
    """The images that it trains and validates on, by ``data.yaml`` as it is."""
    from ultralytics.data.utils import check_det_dataset

    data = check_det_dataset(str(run.folder / name / "data.yaml"), autodownload=False)
    sides = (Path(data[side]) for side in ("train", "val"))
    train, val = (_ultralytics_found(side, run.images, data["names"]) for side in sides)
    assert not train.keys() & val.keys()
    return train | val


def ultralytics_converted(run: Run, name: str) -> Found:
    """Its converter from COCO, then the data set; it takes every class id less one as an index."""
    from ultralytics.data.converter import convert_coco

    folder = run.folder / "ultralytics" / name
    (folder / "in").mkdir(parents=True)
    shutil.copy(run.folder / name, folder / "in" / "instances_all.json")
    out = folder / "out"
    convert_coco(str(folder / "in"), str(out), use_segments=True, cls91to80=False)
    (out / "images").rmdir()
    (out / "images").mkdir()
    (out / "images" / "all").symlink_to(run.images)
    names = {category_id - 1: name for category_id, name in NAMES.items()}
    return _ultralytics_found(out / "images" / "all", out / "images" / "all", names)


def _ultralytics_found(images: Path, root: Path, names: dict[int, str]) -> Found:
    """Masks as its training makes them of labels, where images keep their size."""
    from ultralytics.data.dataset import YOLODataset
    from ultralytics.data.utils import polygons2masks

    data = {"names": names, "nc": len(names)}
    dataset = YOLODataset(str(images), data=data, task="segment", augment=False)
    found = {}
    for label in dataset.labels:
        (height, width), path = label["shape"], Path(label["im_file"])
        prepared = dataset.update_labels_info(dict(label))
        prepared["instances"].denormalize(width, height)
        masks = polygons2masks((height, width), prepared["instances"].segments, 1).astype(bool)
        found[str(path.relative_to(root))] = [
            Instance(names[int(index)], mask)
            for (index,), mask in zip(prepared["cls"], masks, strict=True)
        ]
    return found


def supervision_yolo(run: Run, name: str) -> Found:
    """It reads one folder of images at a time."""
    import supervision

    found = {}
    for folder in {path.parent for path in run.images.rglob("*.*")}:
        labels = run.folder / name / "labels" / folder.relative_to(run.images)
        data = str(run.folder / name / "data.yaml")
        dataset = supervision.DetectionDataset.from_yolo(str(folder), str(labels), data)
        found |= supervision_found(dataset, run.images)
    return found
