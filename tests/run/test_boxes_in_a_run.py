"""A run that asks SAM2 with boxes: its labels, its record, what another start may not change."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import ntt_ray
from ntt_ray.calibrate.job import calibrate_run
from ntt_ray.config import BoxesConfig, build_config
from ntt_ray.errors import ConfigError, InputError, OutputMismatchError
from ntt_ray.models.spec import ModelSpec
from ntt_ray.plan.estimate import estimate_run
from ntt_ray.records import ImageBoxes
from ntt_ray.run.job import BoxPrompts
from ntt_ray.run.label import label
from ntt_ray.run.loading import loaded_labeler
from ntt_ray.run.prepare import make_plan
from ntt_ray.run.rematch import rematch
from ntt_ray.run.shard import iter_labels, read_shard
from ntt_ray.settings import BoxSettings
from ntt_ray.storage import Storage
from ntt_ray.verify.problems import Findings
from ntt_ray.verify.verify import verify
from tests.support.golden import GOLDEN

TARGETS = json.loads((GOLDEN / "targets.json").read_text())
NAMES = [image["file_name"] for image in TARGETS["images"]]


SEED = 0  # of a sample of three that leaves out an image with boxes


def _boxes_of(name: str) -> list[list[float]]:
    """Boxes of half of the objects, and one beside the picture for the first image."""
    ids = {image["file_name"]: image["id"] for image in TARGETS["images"]}
    own = [a["bbox"] for a in TARGETS["annotations"] if a["image_id"] == ids[name]]
    return own[::2] + [[2000.0, 10.0, 50.0, 50.0]] * (name == NAMES[0])


@pytest.fixture
def data(golden_config, tmp_path) -> dict[str, Any]:
    """The golden case in boxes; the last image has none, and one box is of another image."""
    rows = [(name, box) for name in NAMES[:-1] for box in _boxes_of(name)]
    rows.append(("elsewhere.png", [0.0, 0.0, 5.0, 5.0]))
    names, boxes = zip(*rows)
    scores = np.linspace(1.0, 0.5, len(rows))
    table = {"file_name": names, "bbox": boxes, "score": scores}
    pq.write_table(pa.table({k: list(v) for k, v in table.items()}), tmp_path / "boxes.parquet")
    return {
        **golden_config,
        "method": {"points_per_side": 16, "min_predicted_iou": 0.0},
        "proposals": {"grid": False, "boxes": str(tmp_path / "boxes.parquet")},
    }


def _rows(output: str) -> dict[str, Any]:
    units = (read_shard(output, unit, Storage()) for unit in range(2))
    return {row.entry.file_name: row for unit in units for row in iter_labels(unit)}


def _expected(data: dict[str, Any], name: str, settings: BoxSettings, *, grid: bool) -> Any:
    """The detections of an image by a labeller in this process."""
    config = build_config(data)
    bank = (Path(config.output) / "bank.safetensors").read_bytes()
    labeler: Any = loaded_labeler(
        ModelSpec(config.models), bank, config.method, BoxPrompts(settings, grid, "")
    )
    table = pq.read_table(config.proposals.boxes.uri).to_pylist()
    own = sorted((row for row in table if row["file_name"] == name), key=lambda r: -r["score"])
    xywh = np.array([row["bbox"] for row in own], np.float32).reshape(-1, 4)
    boxes = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
    image = np.asarray(Image.open(GOLDEN / "targets" / name).convert("RGB"))
    scores = np.array([row["score"] for row in own], np.float32)
    (found,) = labeler.label([image], [ImageBoxes(boxes, scores).on_image(image.shape[:2])])
    return found


ASKED = {
    "boxes alone": ({"grid": False}, BoxSettings()),
    "centres, weighed by scores, two an image": (
        {"grid": False, "boxes": {"prompt": "centre", "score_power": 0.5, "per_image": 2}},
        BoxSettings(prompt="centre", score_power=0.5, per_image=2),
    ),
    "besides the grid": ({"grid": True}, BoxSettings()),
}


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED.keys())
def test_labels_are_those_of_the_boxes(data, asked):
    proposals, settings = asked
    uri = {"uri": data["proposals"]["boxes"]}
    data = {**data, "proposals": {**proposals, "boxes": proposals.get("boxes", {}) | uri}}
    label(build_config(data), lambda *_: None)
    rows = _rows(data["output"])
    assert sorted(rows) == NAMES
    assert sum(len(row.detections) for row in rows.values()) > 3
    if settings.per_image == 100:
        for name, row in rows.items():
            assert row.detections == _expected(data, name, settings, grid=proposals["grid"]), name
    assert (rows[NAMES[-1]].status == "empty") is not proposals["grid"]
    beside = settings.per_image == 100  # that box has the lowest score of its image
    assert [row.notes for row in rows.values()] == [("beside_boxes",) * beside, (), (), ()]


def _files(output: str) -> dict[str, bytes]:
    paths = [*Path(output).glob("labels/*.parquet"), Path(output) / "boxes.parquet"]
    return {path.name: path.read_bytes() for path in paths}


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_run_goes_on_with_the_same_boxes_only(data, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    output = Path(data["output"])
    label(build_config(data), lambda *_: None)
    record = json.loads((output / "run.json").read_text())
    total = sum(len(_boxes_of(name)) for name in NAMES[:-1])
    counts = {"boxes": total + 1, "used": total, "elsewhere": 1, "images_without": 1, "images": 3}
    assert record["boxes"].items() >= counts.items()
    assert record["boxes"]["without"] == NAMES[-1:]
    assert record["boxes"]["others"] == ["elsewhere.png"]
    assert record["identity"]["proposals"]["boxes"].keys() == {"sha256", "per_image", "prompt"}
    assert "1 images have none (targets_03.png)" in caplog.text
    assert "1 belong to images that are not in the run (elsewhere.png)" in caplog.text
    verdict = verify(build_config(data), Findings())
    assert verdict.units_done == 2
    assert set(verdict.findings.counts) == {"not merged"}

    # what is lost comes again with the same bytes
    before = _files(data["output"])
    (output / "labels" / "shard-000001.parquet").unlink()
    (output / "boxes.parquet").unlink()
    assert verify(build_config(data), Findings()).findings.counts["boxes damaged"] == 1
    label(build_config(data), lambda *_: None)
    assert _files(data["output"]) == before
    assert "boxes.parquet was missing" in caplog.text

    # other settings are refused before anything is started, a dry run refuses them too
    uri = data["proposals"]["boxes"]
    for changed, named in {
        "grid": ({"grid": True, "boxes": uri}, "proposals.grid: False there, True here"),
        "prompt": (
            {"grid": False, "boxes": {"uri": uri, "prompt": "centre"}},
            "proposals.boxes.prompt: 'box' there, 'centre' here",
        ),
        "number": (
            {"grid": False, "boxes": {"uri": uri, "per_image": 3}},
            "proposals.boxes.per_image: 100 there, 3 here",
        ),
        "none": ({}, "proposals: .*'boxes'.* there, None here"),
    }.values():
        for start in (make_plan, lambda config: label(config, lambda *_: None)):
            with pytest.raises(OutputMismatchError, match=named):
                start(build_config({**data, "proposals": changed}))
    table = pq.read_table(uri)
    pq.write_table(table.slice(0, len(table) - 1), uri)
    with pytest.raises(OutputMismatchError, match=r"proposals.boxes.sha256: '\w{64}' there"):
        make_plan(build_config(data))
    assert _files(data["output"]) == before


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_sample_is_asked_with_the_boxes_of_its_images(data):
    found, sample = estimate_run(build_config(data), 3, SEED, lambda *_: None)
    assert found.sample.images == 3
    record = json.loads((Path(sample.output) / "run.json").read_text())
    rows = map(json.loads, Path(sample.images).read_text().splitlines())
    asked = {row["file_name"] for row in rows} - {NAMES[-1]}
    total = sum(len(_boxes_of(name)) for name in NAMES[:-1])
    used = sum(len(_boxes_of(name)) for name in asked)
    counts = {"images": len(asked), "used": used, "elsewhere": 1 + total - used}
    assert used < total
    assert record["boxes"].items() >= counts.items()
    assert record["identity"]["proposals"]["grid"] is False


def test_what_cannot_be_used_is_refused_before_anything_is_started(data, tmp_path, monkeypatch):
    monkeypatch.setattr("ntt_ray.run.prepare.start_models", None)
    (tmp_path / "bad.json").write_text(json.dumps([{"image_id": 326, "bbox": [1, 2, -3, 4]}]))
    (tmp_path / "other.json").write_text(json.dumps([{"image_id": 1, "bbox": [1, 2, 3, 4]}]))
    for uri, message in {
        "bad.json": r"bad.json: results\[0\]: its bbox has a negative",
        "other.json": r"other.json: none of its 1 boxes can be asked(?s:.*)targets_00.png",
        "none.json": "proposals.boxes: .*none.json: no such file",
    }.items():
        config = build_config(data, [f"proposals.boxes={tmp_path / uri}"])
        with pytest.raises(InputError, match=message):
            make_plan(config)
    unscored = tmp_path / "unscored.json"
    unscored.write_text(json.dumps([{"image_id": 326, "bbox": [1, 2, 3, 4]}]))
    boxes = {"uri": str(unscored), "score_power": 1.0}
    with pytest.raises(InputError, match="its boxes have no scores"):
        make_plan(build_config({**data, "proposals": {"grid": False, "boxes": boxes}}))
    assert not Path(data["output"]).exists()


def test_a_dry_run_of_boxes_writes_nothing(data):
    assert make_plan(build_config(data)).images == 4
    assert not Path(data["output"]).exists()


OTHERS = {
    "single images": lambda config: ntt_ray.load_labeler(config),
    "calibration": calibrate_run,
    "matching again": lambda config: rematch(config, "elsewhere", lambda *_: None),
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS.keys())
def test_where_images_have_no_boxes_they_are_refused(data, other):
    with pytest.raises(ConfigError, match=r"takes no boxes(?s:.*)set proposals\.boxes to null"):
        other(build_config(data))


def test_a_uri_alone_is_a_setting(data):
    boxes = build_config(data).proposals.boxes
    assert boxes == BoxesConfig(uri=data["proposals"]["boxes"])
