"""``ntt-ray average``: what it says of several runs, and what it refuses."""

import json

import pytest

from ntt_ray.cli import app
from ntt_ray.errors import InputError


def metrics(ap, **changes):
    figures = {"AP": ap, "AP50": 0.5, "APs": None}
    return {
        "images": 10,
        "instances": 20,
        "segm": figures,
        "bbox": figures,
        "per_class": {"[red]nut": {"segm": figures, "bbox": figures}},
        "false_alarms": {"score": 0.5, "share": 0.25, "class_share": 0.1},
        "curves": {"[red]nut": [1.0, 0.0]},
    } | changes


@pytest.fixture
def average(tmp_path, capsys):
    """Runs the command on runs with these metrics; gives what it says."""

    def run(*found, options=()):
        outputs = []
        for number, content in enumerate(found):
            folder = tmp_path / f"run-{number}"
            folder.mkdir(exist_ok=True)
            outputs.append(str(folder))
            if content is not None:
                (folder / "metrics.json").write_text(json.dumps(content))
        app(["average", *outputs, *options], standalone_mode=False)
        return capsys.readouterr().err

    return run


def test_mean_and_deviation(average, tmp_path):
    said = average(metrics(0.3), metrics(0.5), options=("--json", str(tmp_path / "all.json")))
    assert "2 runs, mean ± standard deviation, in per cent" in said
    for text in ("40.0 ± 14.1", "50.0 ± 0.0", "AP of [red]nut", "images without objects: 25.0"):
        assert text in said
    assert "not judged on the same" not in said
    written = json.loads((tmp_path / "all.json").read_text())
    assert written["metrics"]["segm"]["AP"]["mean"] == pytest.approx(0.4)
    assert [output[-5:] for output in written["outputs"]] == ["run-0", "run-1"]


def test_boxes_only_and_a_figure_of_one_run(average):
    found = [{**metrics(0.3), "segm": {}}, {**metrics(None), "segm": {}}]
    said = average(*found)
    assert "masks" not in said
    assert "30.0 ± one run" in said


def test_other_ground_truth_is_said(average):
    assert "same ground truth: images 10, 9" in average(metrics(0.3), metrics(0.5, images=9))


def test_many_classes(average):
    many = {f"class {n}": {} for n in range(45)}
    assert "and 6 more classes" in average(metrics(0.3, per_class=many), metrics(0.3))


WRONG = {
    "one run": ((metrics(0.3),), "two runs or more"),
    "not evaluated": ((metrics(0.3), None), "run-1/metrics.json: no such file; run `ntt-ray eval"),
    "something else": ((metrics(0.3), [1]), "not the metrics of a run"),
}


@pytest.mark.parametrize(("found", "message"), WRONG.values(), ids=WRONG.keys())
def test_what_is_refused(average, found, message):
    with pytest.raises(InputError, match=message):
        average(*found)
