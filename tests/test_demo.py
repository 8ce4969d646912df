"""The bundled example: its average precision, and what it leaves behind."""

import json
from pathlib import Path

import pytest

from ntt_ray.cli import run as commands
from ntt_ray.cli.app import console
from ntt_ray.config import load_config
from ntt_ray.demo.example import draw_example
from ntt_ray.demo.families import NOVEL_FAMILIES, TRAIN_FAMILIES
from ntt_ray.models.weights import BUNDLED, bundled_file

pytestmark = [pytest.mark.ray, pytest.mark.slow]

# measured with the shipped weights, less a margin for another CPU's rounding
MASK_AP, MASK_AP50 = 0.56, 0.88


def test_the_families_shown_were_never_trained_on():
    assert len(NOVEL_FAMILIES) >= 6
    assert not set(NOVEL_FAMILIES) & set(TRAIN_FAMILIES)


def test_the_weights_are_small():
    assert sum(bundled_file(name).stat().st_size for name in BUNDLED.values()) <= 8_000_000


@pytest.mark.usefixtures("ray_cluster")
def test_the_demo(tmp_path):
    with console.capture() as capture:
        commands.demo(output=str(tmp_path), verbose=False)
    said = capture.get()
    output = tmp_path / "run"
    metrics = json.loads((output / "metrics.json").read_text())
    masks, boxes = metrics["segm"], metrics["bbox"]
    assert metrics["images"] >= 60
    assert set(metrics["per_class"]) == set(NOVEL_FAMILIES)
    assert masks["AP"] >= MASK_AP
    assert masks["AP50"] >= MASK_AP50
    assert abs(boxes["AP"] - masks["AP"]) <= 0.1
    alarms = metrics["false_alarms"]
    assert alarms["images_without_objects"] >= 3
    assert 0 <= alarms["share"] <= 1

    report = (output / "report.html").read_text(encoding="utf-8")
    assert 100_000 < len(report) < 5_000_000
    for line in ("mask AP / AP50", "false alarms", "images/s", "report.html", "photos.yaml"):
        assert line in said

    # a second start does nothing, and says the same
    before = (output / "results.json").read_bytes()
    commands.demo(output=str(tmp_path), verbose=False)
    assert (output / "results.json").read_bytes() == before
    assert json.loads((output / "metrics.json").read_text()) == metrics


def test_the_config_runs_where_the_demo_was_drawn(tmp_path):
    path, overrides = draw_example(tmp_path, images=2)
    settings = load_config(str(path), overrides)
    for place in (settings.images, settings.image_root, settings.ground_truth):
        assert Path(place).exists()
