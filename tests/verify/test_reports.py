"""Metrics and reports that are not of this run or merge, are missing, or of an earlier version."""

import json

import pytest

from ntt_ray.evaluate.job import evaluate_run
from ntt_ray.merge import fragments, text_files
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


@pytest.mark.parametrize("division", ["files", "parts"])
def test_metrics_of_results_in_several_pieces(run, monkeypatch, division):
    """Split by images, or one file that tasks wrote in parts: the same metrics, a digest of all."""
    before = json.loads((run.output / "metrics.json").read_text())
    split = {"images_per_file": 3} if division == "files" else {}
    if division == "parts":
        monkeypatch.setattr(fragments, "FRAGMENT_BYTES", 1)
        monkeypatch.setattr(text_files, "PART_BYTES", 300)
    config = run.configured(**split).model_copy(update={"ground_truth": run.config.ground_truth})
    run.config = config
    record = json.loads((_finished(run).output / "merge.json").read_text())
    names = sorted(name for name in record["files"] if name.startswith("results"))
    assert len(names) == (3 if division == "files" else 1)
    assert record["format_version"] == (2 if division == "files" else 3)
    found = json.loads((run.output / "metrics.json").read_text())
    assert found["results_sha256"] != before["results_sha256"]
    for metrics in (before, found):
        del metrics["results_sha256"], metrics["sha256"]
    assert found == before
    data = (run.output / names[0]).read_bytes()
    run.publish(names[0], data.replace(b'"image_id":1,', b'"image_id":2,', 1))
    assert _found(run) == [("merged file edited", names[0])]
    run.publish(names[0], data[:-1])
    assert _found(run) == [("merged file edited", names[0])]
    run.publish(names[0], data)
    run.merge()
    assert _found(run) == []


def test_without_results_nobody_knows_of_which_merge_the_metrics_are(run):
    merge(run.configured(profiles=["coco"]))
    said = "metrics.json: of a results.json that the last merge did not write"
    found = run.verify().findings
    assert not found.counts
    assert any(note.startswith(said) for note in found.notes)
    run.merge()
    assert not any(note.startswith(said) for note in run.verify().findings.notes)


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
