"""Every benchmark to its end, through Ray, with the bundled weights, on miniatures of its data.

A run takes most of its time to start an actor, so each benchmark has the one run it can be shown
with. Other parts are read, drawn and refused in `test_protocols`; several seeds have made-up runs.
"""

import json

import pytest

from ntt_ray.cli import app
from ntt_ray.cli import reproduce as reproducing
from ntt_ray.cli.app import console
from ntt_ray.errors import NttRayError, RunIncompleteError
from ntt_ray.reproduce.catalogue import find_protocol
from ntt_ray.reproduce.comparison import compare
from ntt_ray.reproduce.runner import Measured
from tests.support.miniatures import (
    COCO_IDS,
    write_cd_fsod,
    write_coco,
    write_isaid,
    write_lvis,
    write_voc,
)

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
    "coco-novel": (write_coco, ("--shots", "1"), {"nAP box", "nAP mask"}, "24.5"),
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
        lambda folder: write_cd_fsod(folder, "ArTaxOr"),  # texts as image ids
        ("--shots", "1", "--part", "ArTaxOr"),
        {"nAP box", "nAP50 box"},
        "18.0",
    ),
    "isaid": (write_isaid, ("--shots", "1"), {"nAP mask", "nAP box", "nAP mask small"}, "-"),
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
    for summary in comparison["summaries"]:
        assert summary["metrics"]["bbox"]["AP"]["runs"] == len(comparison["runs"])
    for report in (tmp_path / "out").glob("*/*/run/report.html"):
        assert report.stat().st_size > 10_000
    # the same command again labels nothing and compares the same
    again = reproduce(name, tmp_path / "data", tmp_path / "out", *options)[1]
    assert again == comparison


def made_up_runs(monkeypatch, *found):
    """Runs that end with these mask and box AP, or with that error."""
    left = list(found)

    def run(settings, class_maps):
        result = left.pop(0)
        if isinstance(result, Exception):
            raise result
        return {kind: {"AP": ap} for kind, ap in zip(("segm", "bbox"), result, strict=True)}

    monkeypatch.setattr(reproducing, "_run", run)


@pytest.mark.slow
def test_several_seeds_are_averaged(tmp_path, monkeypatch):
    write_coco(tmp_path / "data")
    made_up_runs(monkeypatch, (0.2, 0.24), (0.3, 0.26))
    options = ("--shots", "1", "--seeds", "33,34")
    said, comparison = reproduce("coco-novel", tmp_path / "data", tmp_path / "out", *options)
    box = next(line for line in said.splitlines() if "nAP box" in line)
    assert box.split() == ["novel", "1", "nAP", "box", "25.0", "±", "1.4", "24.5", "a", "+0.5"]
    assert "a: mean of 10 draws; ours: 2 of 10 draws" in said
    assert [run["seed"] for run in comparison["runs"]] == [33, 34]
    assert comparison["summaries"][0]["metrics"]["segm"]["AP"]["runs"] == 2
    assert sorted(p.name for p in (tmp_path / "out" / "novel").glob("*-shot-*")) == [
        "1-shot-seed-33", "1-shot-seed-34",
    ]  # fmt: skip


@pytest.mark.slow
def test_what_is_known_is_written_however_the_next_run_ends(tmp_path, monkeypatch):
    write_coco(tmp_path / "data")
    made_up_runs(monkeypatch, (0.2, 0.24), RunIncompleteError("1 of 3 images failed"))
    options = ("--shots", "1", "--seeds", "33,34")
    with pytest.raises(RunIncompleteError):
        reproduce("coco-novel", tmp_path / "data", tmp_path / "out", *options)
    comparison = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert [run["seed"] for run in comparison["runs"]] == [33]


def test_the_table_fits_80_columns_and_says_what_is_in_its_band():
    coco, lvis = find_protocol("coco-novel"), find_protocol("lvis-minival")
    runs = [Measured("novel", 30, seed, {"nAP box": 0.371, "nAP mask": 0.33}) for seed in range(10)]
    runs.append(Measured("novel", 10, 33, {"nAP box": 0.3, "nAP mask": None}))
    runs.append(Measured("novel", 1, 33, {"nAP box": 0.25, "nAP mask": None}))
    rare = [
        Measured("minival", 10, seed, {figure.name: 1.0 - seed for figure in lvis.figures})
        for seed in (0, 1)
    ]
    with console.capture() as capture:
        reproducing.print_table(coco, compare(coco, runs))
        reproducing.print_table(lvis, compare(lvis, rare))
    lines = [" ".join(line.split()) for line in capture.get().splitlines()]
    assert max(len(line) for line in capture.get().splitlines()) <= 80
    for line in (
        "novel 30 nAP box 37.1 ± 0.0 37.0 a +0.1 in ± 0.3",
        "novel 30 nAP mask 33.0 ± 0.0 34.4 a -1.4 beyond ± 0.3",
        "novel 10 nAP box 30.0 36.6 -6.6 beyond ± 0.6",
        "novel 10 nAP mask - -",
        "novel 1 nAP box 25.0 24.5 b +0.5",  # one draw beside a mean of ten: not judged
        "a: mean of 10 draws; ± 0.2 over draws",
        "b: mean of 10 draws; ours: 1 of 10 draws",
        "minival 10 AP frequent mask 50.0 ± 70.7 -",
    ):
        assert line in lines


def test_a_dry_run_starts_nothing(tmp_path, capsys):
    write_cd_fsod(tmp_path / "data", "DeepFish")
    options = ("--part", "DeepFish", "--shots", "1", "--output", str(tmp_path / "out"))
    arguments = ["reproduce", "cd-fsod", "--data", str(tmp_path / "data"), *options, "--dry-run"]
    app(arguments, standalone_mode=False)
    said = capsys.readouterr().err
    assert "DeepFish: 1 shots, seed 33; 2 images" in said
    assert "1 runs; nothing was started" in said
    assert not (tmp_path / "out").exists()


WRONG = {
    "name": ("coco", "--data", "x"),
    "shots": ("voc", "--data", "x", "--shots", "0"),
    "seeds": ("voc", "--data", "x", "--seeds", "1,one"),
    "data": ("voc", "--data", "nowhere"),
    "setting": ("voc", "--data", "x", "--set", "methods.nms_iou=1"),
    "own setting": ("voc", "--data", "x", "--set", "output=x"),
}


@pytest.mark.parametrize("arguments", WRONG.values(), ids=WRONG.keys())
def test_bad_arguments_end_with_status_2(arguments):
    with pytest.raises(NttRayError) as caught:
        app(["reproduce", *arguments], standalone_mode=False)
    assert caught.value.exit_status == 2
