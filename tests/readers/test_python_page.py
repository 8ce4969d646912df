"""The recipes of ``docs/python.md`` for packages of readers give what the run has labelled."""

from __future__ import annotations

import numpy as np
import pytest

import ntt_ray
from tests.support.python_page import run_recipe, write_example

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def folder(run, tmp_path_factory):  # `run` keeps the packages quiet and offline
    folder = tmp_path_factory.mktemp("python")
    write_example(folder)
    return folder


@pytest.fixture(scope="module")
def labelled(folder):
    rows = list(ntt_ray.read_labels(folder / "runs" / "demo" / "run"))
    assert any(row.detections for row in rows)
    return rows


def test_to_supervision(folder, labelled):
    images = run_recipe("To supervision", folder)[0]["images"]
    assert list(images) == [row.file_name for row in labelled]
    for row, found in zip(labelled, images.values(), strict=True):
        assert len(found) == len(row.detections)
        if row.detections:
            assert (found.mask == [one.mask() for one in row.detections]).all()
            assert list(found["class_name"]) == [one.name for one in row.detections]
            assert found.box_area.tolist() == [
                one.bbox_xywh[2] * one.bbox_xywh[3] for one in row.detections
            ]


def test_to_fiftyone(folder, labelled):
    samples = run_recipe("To FiftyOne", folder)[0]["samples"]
    for row, sample in zip(labelled, samples, strict=True):
        assert sample.filepath.endswith(row.file_name)
        for one, found in zip(row.detections, sample["labels"].detections, strict=True):
            height, width = row.size_hw
            assert (found.label, found.confidence) == (one.name, one.score)
            x, y = round(found.bounding_box[0] * width), round(found.bounding_box[1] * height)
            whole = np.zeros((height, width), dtype=bool)
            whole[y : y + found.mask.shape[0], x : x + found.mask.shape[1]] = found.mask
            assert (whole == one.mask()).all()
