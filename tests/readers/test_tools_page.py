"""The blocks of ``docs/tools.md`` run as they stand, and find what the run has labelled."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import ntt_ray
from ntt_ray.config import load_config
from ntt_ray.merge.job import merge
from tests.support.python_page import run_recipe, write_example

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]
PAGE = "tools.md"
PROFILES = "[coco,coco-results,coco-polygon,yolo-seg,labelstudio,parquet]"


@pytest.fixture(scope="module")
def folder(run, tmp_path_factory):  # `run` keeps the packages quiet and offline
    folder = tmp_path_factory.mktemp("tools")
    path, overrides = write_example(folder)
    merge(load_config(path, [*overrides, f"merge.profiles={PROFILES}", "merge.min_score=0"]))
    return folder


@pytest.fixture(scope="module")
def counts(folder):
    """Instances of each image."""
    rows = ntt_ray.read_labels(folder / "runs" / "demo" / "run")
    found = {row.file_name: len(row.detections) for row in rows}
    assert sum(found.values())
    return found


@pytest.fixture
def names(folder, request):
    """What the blocks of a section define."""
    return run_recipe(request.param, folder, PAGE)[0]


def _for(title):
    return pytest.mark.parametrize("names", [title], indirect=True)


@_for("FiftyOne")
def test_fiftyone(names, counts):
    found = names["found"]
    assert {Path(path).name: len(label.detections) for path, label in found.items()} == counts


@_for("LightlyStudio")
def test_lightly_studio(names, counts):
    """Its masks are runs of the whole image, row by row, the first of them background."""
    found = {sample.file_name: sample for sample in names["dataset"]}
    assert {name: len(sample.annotations) for name, sample in found.items()} == counts
    for name, row in names["labels"].items():
        for one, other in zip(row.detections, found[name].annotations, strict=True):
            runs = other.segmentation_mask
            mask = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(row.size_hw)
            assert (mask == one.mask()).all()
            assert (other.class_name, other.confidence) == (one.name, pytest.approx(one.score))


@_for("CVAT")
def test_cvat(names, counts):
    groups = {  # an instance is a group: its mask, and its box
        Path(item.media.path).name: {annotation.group for annotation in item.annotations}
        for item in names["dataset"]
    }
    assert {name: len(found) for name, found in groups.items()} == counts


@_for("Label Studio")
def test_label_studio(names, counts):
    assert names["problems"] == [[]] * len(counts)
    found = {t["data"]["file_name"]: len(t["predictions"][0]["result"]) for t in names["tasks"]}
    assert found == counts


@_for("Ultralytics")
def test_ultralytics(names, counts):
    lists = [Path(names["data"][side]).read_text().split() for side in ("train", "val")]
    assert {Path(line).name for lines in lists for line in lines} == set(counts)


@_for("Supervision")
def test_supervision(names, counts):
    found = names["dataset"].annotations
    assert {Path(path).name: len(detections) for path, detections in found.items()} == counts


@_for("DuckDB and pandas")
def test_duckdb_and_pandas(names, counts):
    assert sum(instances for _, instances, _ in names["per_class"]) == sum(counts.values())
    table = names["table"]
    assert dict(Counter(table.file_name)) == {name: n for name, n in counts.items() if n}


@_for("Hugging Face datasets")
def test_hugging_face_datasets(names, counts):
    assert len(names["rows"]) == sum(counts.values())


@_for("Delta Lake and Iceberg")
def test_delta_lake_and_iceberg(names, counts, folder):
    found = {name: n for name, n in counts.items() if n}
    for table in (names["delta"], names["iceberg"].scan().to_arrow()):
        assert dict(Counter(table["file_name"].to_pylist())) == found
    run = folder / "runs" / "demo" / "run"
    copies = [path for path in folder.rglob("*.parquet") if run not in path.parents]
    assert [path for path in copies if "tables" in path.parts] == []  # nothing is written again
