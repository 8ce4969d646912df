"""Every profile is read by the tools that people have; the table in the docs is what they saw."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tests.readers.coco_readers import average_precisions
from tests.readers.labelled import NAMES, Run
from tests.readers.matrix import CASES, ENOUGH_IOU, HEADER, Case, compared, row
from tests.support.paths import ROOT

PAGE = ROOT / "docs" / "outputs.md"
MEASURED: dict[str, str] = {}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_reader(run: Run, case: Case) -> None:
    everything = case.profile == "coco-results"
    found = case.read(run, case.file)
    ious = compared(found, run.everything if everything else run.expected, scores=case.scores)
    if not case.below:
        assert min(iou for of_kind in ious.values() for iou in of_kind) >= ENOUGH_IOU
    MEASURED[case.name] = row(case, ious)


@pytest.mark.parametrize("kind", ["segm", "bbox"])
def test_results_against_annotations_have_an_average_precision_of_one(run: Run, kind: str) -> None:
    found = average_precisions(run, kind)
    assert found == {name: pytest.approx(1.0) for name in ("pycocotools", "faster-coco-eval")}


def test_class_maps(run: Run) -> None:
    """Pillow gives indices, OpenCV colours."""
    import cv2

    indices = {name: number for number, name in NAMES.items()}
    for name, instances in run.expected.items():
        path = run.folder / "semantic" / f"{name}.png"
        with Image.open(path) as picture:
            values = np.asarray(picture)
        wanted = np.zeros(values.shape, dtype=np.uint8)
        for instance in sorted(instances, key=lambda instance: instance.score):
            wanted[instance.mask] = indices[instance.name]
        np.testing.assert_array_equal(values, wanted)
        assert cv2.imread(str(path), cv2.IMREAD_UNCHANGED).shape == (*wanted.shape, 3)


def test_the_table_is_what_was_measured(request: pytest.FixtureRequest) -> None:
    """Version by version and figure by figure; ``--write-table`` brings the page up to date."""
    if len(MEASURED) < len(CASES):
        pytest.skip("not every reader was tried, or one failed")
    table = HEADER + "".join(MEASURED[case.name] for case in CASES)
    page = PAGE.read_text(encoding="utf-8")
    start = page.index(HEADER.split(" |")[0])
    end = page.index("\n\n", start) + 1
    if request.config.getoption("--write-table"):
        PAGE.write_text(page[:start] + table + page[end:], encoding="utf-8")
    else:
        assert page[start:end] == table, "run make readers TABLE=--write-table"
