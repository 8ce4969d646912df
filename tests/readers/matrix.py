"""Which reader is tried on which file, what it must find there, and the row that says so.

`docs/outputs.md` has the rows; they are compared with what is measured, word by word.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tests.readers import coco_readers, other_readers, yolo_readers
from tests.readers.labelled import KINDS, Found, Instance, Run, kind_of

ENOUGH_IOU = 0.99  # of masks that the format can hold
HEADER = (
    "| Reader | Profile | Scores | One part | With a hole | Two parts | 12 odd masks | Remarks |\n"
    "|---|---|---|---|---|---|---|---|\n"
)


@dataclass(frozen=True)
class Case:
    """A reader and a profile.

    Attributes:
        package: that is tried, as its registry calls it.
        profile: name of the profile, as in `ntt_ray.merge.passes`.
        file: of the merge, or a folder of it.
        read: gives what the reader finds.
        scores: whether it keeps them.
        below: why masks may be less than `ENOUGH_IOU`; else none may.
        remarks: for people.
    """

    package: str
    profile: str
    file: str
    read: Callable[[Run, str], Found]
    scores: bool = True
    below: str = ""
    remarks: str = ""

    @property
    def name(self) -> str:
        """For the test's name."""
        return f"{self.package}-{self.profile}"


_COCO, _POLYGONS, _RESULTS = "annotations.json", "polygons.json", "results.json"
_ROUNDS = "rounds corners to whole pixels, then paints the border too"
_LINES = "paints the line between parts"
CASES = (
    Case(
        "pycocotools", "coco", _COCO, coco_readers.pycocotools_coco,
        remarks="AP 1.0 of `results.json` against it, masks and boxes",
    ),
    Case("pycocotools", "coco-results", _RESULTS, coco_readers.pycocotools_results),
    Case("pycocotools", "coco-polygon", _POLYGONS, coco_readers.pycocotools_coco),
    Case(
        "faster-coco-eval", "coco", _COCO, coco_readers.faster_coco_eval_coco,
        remarks="AP 1.0 of `results.json` against it, masks and boxes",
    ),
    Case("faster-coco-eval", "coco-results", _RESULTS, coco_readers.faster_coco_eval_results),
    Case("faster-coco-eval", "coco-polygon", _POLYGONS, coco_readers.faster_coco_eval_coco),
    Case("torchvision", "coco", _COCO, coco_readers.torchvision_coco, scores=False),
    Case("torchvision", "coco-polygon", _POLYGONS, coco_readers.torchvision_coco, scores=False),
    Case(
        "fiftyone", "coco", _COCO, coco_readers.fiftyone_coco,
        remarks="its importer; a data set needs a MongoDB server",
    ),
    Case("fiftyone", "coco-polygon", _POLYGONS, coco_readers.fiftyone_coco),
    Case(
        "datumaro", "coco", _COCO, coco_readers.datumaro_coco,
        remarks="wants `annotations/instances_NAME.json` beside `images/`",
    ),
    Case("datumaro", "coco-polygon", _POLYGONS, coco_readers.datumaro_coco),
    Case(
        "labelformat", "coco-polygon", _POLYGONS, coco_readers.labelformat_coco,
        scores=False, remarks="takes RLE for crowds only",
    ),
    Case("supervision", "coco", _COCO, coco_readers.supervision_coco, scores=False),
    Case(
        "supervision", "coco-polygon", _POLYGONS, coco_readers.supervision_coco,
        scores=False, below=_ROUNDS,
    ),
    Case(
        "supervision", "yolo-seg", "yolo", yolo_readers.supervision_yolo,
        scores=False, below=_ROUNDS, remarks="one folder at a time",
    ),
    Case(
        "ultralytics", "yolo-seg", "yolo", yolo_readers.ultralytics_labels,
        scores=False, below=_LINES,
    ),
    Case(
        "ultralytics", "coco", _COCO, yolo_readers.ultralytics_converted,
        scores=False, below="its converter fills holes and shaves edges: give it `polygons.json`",
    ),
    Case(
        "ultralytics", "coco-polygon", _POLYGONS, yolo_readers.ultralytics_converted,
        scores=False, below=_LINES, remarks="its converter",
    ),
    Case(
        "label-studio-sdk", "labelstudio", "labelstudio.json", other_readers.label_studio,
        remarks="valid for `labelstudio.xml`",
    ),
    Case("duckdb", "parquet", "instances", other_readers.duckdb_table),
    Case("datasets", "parquet", "instances", other_readers.hugging_face_table),
    Case(
        "datasets", "hf", "hf", other_readers.hugging_face_dataset,
        remarks="`load_dataset` of the folder; keys of the images in their tars",
    ),
    Case(
        "webdataset", "webdataset", "webdataset", other_readers.webdataset_beside_images,
        remarks="beside the images in their tars, key by key",
    ),
)  # fmt: skip


def compared(found: Found, expected: Found, *, scores: bool) -> dict[str, list[float]]:
    """IoU of every mask, by kind; images, instances, classes and scores must be the same."""
    assert set(found) == set(expected)
    ious: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for name, instances in expected.items():
        left = list(found[name])
        assert len(left) == len(instances), name
        for instance in instances:
            other = left.pop(int(np.argmax([_iou(instance, other) for other in left])))
            assert other.name == instance.name, name
            assert other.score == (instance.score if scores else None), name
            assert other.mask.shape == instance.mask.shape, name
            ious[kind_of(instance.mask)].append(_iou(instance, other))
    return ious


def row(case: Case, ious: dict[str, list[float]]) -> str:
    """The row of the table that says what was measured."""
    worst = [f"{_cut(min(ious[kind]))}" for kind in KINDS]
    exact = sum(iou == 1.0 for iou in ious["odd"])
    if exact < len(ious["odd"]):
        worst[-1] += f" ({exact} exact)"
    remarks = "; ".join(text for text in (case.below, case.remarks) if text)
    scores = "same" if case.scores else "dropped"
    reader = f"{case.package} {importlib.metadata.version(case.package)}"
    cells = (reader, f"`{case.profile}`", scores, *worst, remarks)
    return f"| {' | '.join(cells)} |\n"


def _cut(iou: float) -> str:
    """Three digits, never more than it is."""
    return f"{np.floor(iou * 1000) / 1000:.3f}"


def _iou(instance: Instance, other: Instance) -> float:
    both = np.logical_and(instance.mask, other.mask).sum()
    return float(both / np.logical_or(instance.mask, other.mask).sum())
