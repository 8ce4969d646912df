"""Every benchmark to its end, through Ray, with the bundled weights, on miniatures of its data."""

import json

import pytest

from miniatures import COCO_IDS, write_cd_fsod, write_coco, write_lvis, write_voc
from ntt_ray.cli import app
from ntt_ray.cli.app import console
from test_cli import run_command

DEMO = (
    "models.encoder={name: dinov2_demo, image_size: 140}",
    "models.proposer={name: sam2_demo, image_size: 320}",
    "method.points_per_side=8",
)


def reproduce(name, data, output, *options):
    """What the command says and writes."""
    arguments = ["reproduce", name, "--data", str(data), "--output", str(output), *options]
    for setting in DEMO:
        arguments += ["--set", setting]
    with console.capture() as capture:
        app(arguments, standalone_mode=False)
    return capture.get(), json.loads((output / "comparison.json").read_text())


CASES = {
    "coco-novel": (
        write_coco, ("--shots", "1", "--seeds", "33,34"), {"nAP box", "nAP mask"}, "24.5",
    ),
    "voc": (write_voc, ("--shots", "1", "--part", "split 1"), {"nAP50 box"}, "71.2"),
    "lvis-minival": (
        write_lvis,
        ("--shots", "2"),
        {"nAP mask", "nAP box", "AP rare mask", "AP common mask", "AP frequent mask"},
        "-",
    ),
    "coco-20i": (
        lambda folder: write_coco(folder, COCO_IDS[0::4]),
        ("--shots", "1", "--part", "fold 0"),
        {"mIoU", "FB-IoU", "nAP mask"},
        "-",
    ),
    "cd-fsod": (
        lambda folder: [write_cd_fsod(folder, part) for part in ("DeepFish", "UODD")],
        ("--shots", "1", "--part", "DeepFish", "--part", "UODD"),
        {"nAP box", "nAP50 box"},
        "18.0",
    ),
}  # fmt: skip


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("name", CASES)
def test_a_benchmark_runs_to_its_end(tmp_path, name):
    write, options, figures, published = CASES[name]
    write(tmp_path / "data")
    said, comparison = reproduce(name, tmp_path / "data", tmp_path / "out", *options)
    assert {row["figure"] for row in comparison["rows"]} == figures
    for row in comparison["rows"]:
        assert row["figure"] in said
        assert row["ours"] is None or 0 <= row["ours"] <= 1
    for run in comparison["runs"]:  # what a benchmark is known by has a value in every run
        assert next(iter(run["figures"].values())) is not None
    assert any(row["ours"] for row in comparison["rows"])  # something was found
    assert published in said
    for report in (tmp_path / "out").glob("*/*/run/report.html"):
        assert report.stat().st_size > 10_000
    # the same command again labels nothing and compares the same
    again = reproduce(name, tmp_path / "data", tmp_path / "out", *options)[1]
    assert again == comparison


def test_bad_arguments_end_with_status_2(tmp_path):
    for arguments in (
        ("coco", "--data", "x"),
        ("voc", "--data", "x", "--shots", "0"),
        ("voc", "--data", "x", "--seeds", "1,one"),
        ("voc", "--data", str(tmp_path)),
        ("voc", "--data", "x", "--set", "methods.nms_iou=1"),
    ):
        done = run_command("reproduce", *arguments)
        assert done.returncode == 2, arguments
        assert "Traceback" not in done.stderr
