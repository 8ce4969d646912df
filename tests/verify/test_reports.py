"""Metrics and reports that are not of this run or merge, are missing, or of an earlier version."""

import json

import pytest

from ntt_ray.evaluate.job import evaluate_run
from ntt_ray.merge.job import merge
from ntt_ray.report.job import report_run
from tests.support.verify_run import Run


@pytest.fixture
def run(tmp_path):
    """Merged and evaluated, with a report."""
    run = Run(tmp_path)
    rows = [row for unit in range(3) for row in run.rows(unit)]
    truth = {
        "images": [
            {"id": r["image_id"], "file_name": r["file_name"], "height": 6, "width": 8}
            for r in rows
        ],
        "annotations": [],
        "categories": [{"id": 1, "name": "nut"}, {"id": 2, "name": "bölt"}],
    }
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(truth))
    run.config = run.config.model_copy(update={"ground_truth": str(path)})
    return _finished(run)


def _finished(run):
    run.merge()
    evaluate_run(run.config)
    report_run(run.config)
    assert run.verify().whole
    return run


def _found(run):
    return [(problem.kind, problem.where) for problem in run.problems()]


def test_metrics_of_the_merge_before(run):
    only = run.configured(classes=["nut"])
    merge(only)
    assert _found(run) == [("metrics older than merge", "metrics.json")]
    evaluate_run(only.model_copy(update={"ground_truth": run.config.ground_truth}))
    assert _found(run) == []


def test_without_results_nobody_knows_of_which_merge_the_metrics_are(run):
    merge(run.configured(profiles=["coco"]))
    assert _found(run) == []


def test_the_report_of_another_run(run, tmp_path):
    (tmp_path / "other").mkdir()
    other = Run(tmp_path / "other", bank=b"another").merge()
    report_run(other.config)
    for name in ("report.json", "report.html"):
        run.publish(name, (other.output / name).read_bytes())
    assert _found(run) == [("report of another run", "report.json")]


@pytest.mark.parametrize("name", ["report.json", "report.html"])
def test_half_a_report(run, name):
    (run.output / name).unlink()
    assert _found(run) == [("file missing", name)]


@pytest.mark.parametrize("name", ["metrics.json", "report.json"])
@pytest.mark.parametrize(
    ("data", "kind"),
    [(b"", "file damaged"), (b"{", "file damaged"), (b"[]", "file edited")],
    ids=["empty", "truncated", "a list"],
)
def test_what_is_no_such_file(run, name, data, kind):
    run.publish(name, data)
    assert _found(run) == [(kind, name)]


def test_those_of_an_earlier_version_are_not_checked_and_it_is_said(run):
    for name, keys in {
        "metrics.json": ("sha256", "results_sha256"),
        "report.json": ("sha256", "page_sha256"),
    }.items():
        run.edit_json(name, lambda data, keys=keys: [data.pop(key) for key in keys])
    found = run.verify()
    assert found.whole
    assert (
        sum("of an earlier version, without a digest" in note for note in found.findings.notes) == 2
    )
