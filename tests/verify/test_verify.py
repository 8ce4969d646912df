"""Verify finds every kind of damage, names it, and accepts what is whole."""

import io
import json
import re

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from ntt_ray.errors import InputError
from ntt_ray.masks import encode_mask
from ntt_ray.merge.calibration import Calibration
from ntt_ray.merge.job import merge
from ntt_ray.merge.record import read_merge_record
from ntt_ray.run.identity import scores_content
from ntt_ray.run.layout import shard_uri
from ntt_ray.verify.problems import KEPT, Findings
from tests.support.commands import run_command
from tests.support.verify_run import STORE, Run


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path).merge()


WHOLE = {
    "plain": {},
    "every score": {"min_score": 0.0},
    "split by three": {"images_per_file": 3},
    "split in the middle of units": {"images_per_file": 2},
    "split with one file": {"images_per_file": 100},
    "annotations only": {"profiles": ["coco"]},
    "results only": {"profiles": ["coco-results"]},
}


@pytest.mark.parametrize("settings", WHOLE.values(), ids=WHOLE.keys())
def test_a_good_run_is_whole(tmp_path, settings):
    verdict = Run(tmp_path, **settings).merge().verify()
    assert verdict.findings.kept == []
    assert verdict.whole
    assert (verdict.rows, verdict.images, verdict.units_done, verdict.units) == (8, 8, 3, 3)
    assert verdict.statuses == {"ok": 5, "empty": 2, "failed": 1}
    assert verdict.detections == 11


def test_failed_images_are_said_and_are_no_problem(run):
    (note,) = run.verify().findings.notes
    assert note.startswith("1 of 8 images failed, more than job.max_failed_fraction 0.01 allows")


def _shard(run, unit=1):
    return run.output / "labels" / f"shard-{unit:06d}.parquet"


def _row_change(unit, row, **changes):
    def change(run):
        rows = run.rows(unit)
        rows[row] |= changes
        run.write_shard(unit, rows)

    return change


def _detection_change(unit, row, detection, **changes):
    def change(run):
        rows = run.rows(unit)
        rows[row]["annotations"][detection] |= changes
        run.write_shard(unit, rows)

    return change


def _rows_change(unit, change_rows):
    def change(run):
        rows = run.rows(unit)
        change_rows(rows)
        run.write_shard(unit, rows)

    return change


def _moved_to_another_shard(run):
    rows = run.rows(1)
    rows[0] = run.rows(0)[0]
    run.write_shard(1, rows)


def _json_change(name, change):
    return lambda run: run.edit_json(name, change)


def _publish(name, data=b"x"):
    return lambda run: run.publish(name, data)


def _truncate(name, size):
    def change(run):
        path = run.output / name
        path.write_bytes(path.read_bytes()[:size])

    return change


FULL = encode_mask(np.ones((6, 8), dtype=bool))["counts"]
NOTHING = encode_mask(np.zeros((6, 8), dtype=bool))["counts"]
# what is done to a whole run, the kinds of problem that it must give, and a part of the text
DAMAGE = {
    # shards
    "a deleted shard": (lambda run: _shard(run).unlink(), {"shard missing"}, "shard-000001"),
    "a truncated shard": (_truncate("labels/shard-000001.parquet", -9), {"shard damaged"}, "Parq"),
    "an empty shard": (_truncate("labels/shard-000001.parquet", 0), {"shard damaged"}, "damaged"),
    "a shard of other columns": (
        lambda run: pq.write_table(pq.read_table(_shard(run)).select(["image_id"]), _shard(run)),
        {"shard damaged"},
        "shard format",
    ),
    "a shard of another run": (
        lambda run: run.write_shard(1, labels_hash="0" * 64),
        {"shard of another run"},
        "its labels_hash is 000000000000",
    ),
    "a shard of another bank": (
        lambda run: run.write_shard(1, bank_digest="0" * 64),
        {"shard of another run"},
        "its bank_digest is",
    ),
    "a shard of another checkpoint": (
        lambda run: run.write_shard(1, encoder_digest="0" * 64),
        {"shard of another run"},
        "its encoder_digest is",
    ),
    "a shard with a number beyond the plan": (
        lambda run: STORE.publish_bytes(
            shard_uri(str(run.output), 7), STORE.read_bytes(shard_uri(str(run.output), 0))
        ),
        {"stray file"},
        "is no shard of a run of 3 units",
    ),
    "a copy of a shard": (_publish("labels/shard-1.parquet"), {"stray file"}, "shard-1.parquet"),
    "a shard number written otherwise": (
        _publish("labels/shard-0000001.parquet"),
        {"stray file"},
        "shard-0000001.parquet",
    ),
    # rows
    "an image twice in a shard": (
        _rows_change(1, lambda rows: rows.append(rows[0])),
        {"image twice", "merge older than shard"},
        "image 4 has 2 rows",
    ),
    "an image twice in two shards": (
        _moved_to_another_shard,
        {"foreign image", "image without row", "merge older than shard"},
        "image 1 belongs to unit 0",
    ),
    "an image of nowhere": (
        _row_change(1, 2, image_id=99),
        {"foreign image", "image without row", "merge older than shard"},
        "image 99 is not in the manifest",
    ),
    "a row dropped": (
        _rows_change(1, lambda rows: rows.pop(1)),
        {"image without row"},
        "image 5 ('img/5.jpg') has no row",
    ),
    "rows swapped": (
        _rows_change(0, lambda rows: rows.reverse()),
        {"rows out of order", "merge older than shard"},
        "image 3 is not where the manifest has it",
    ),
    "another file name": (
        _row_change(0, 1, file_name="b.jpg"),
        {"wrong file name", "merge older than shard"},
        "is 'b.jpg', in the manifest 'img/2.jpg'",
    ),
    "an unknown status": (_row_change(0, 0, status="fine"), {"wrong status"}, "'fine' is not"),
    "failed without a reason": (_row_change(1, 1, error=None), {"wrong status"}, "without a rea"),
    "failed with a size": (
        _row_change(1, 1, height=6, width=8),
        {"wrong status", "merge older than shard"},
        "yet it has a size",
    ),
    "ok without a size": (
        _row_change(0, 0, height=None, width=None),
        {"wrong status", "merge older than shard"},
        "its size is None",
    ),
    "ok without detections": (
        _row_change(0, 0, annotations=[]),
        {"wrong status", "merge older than shard"},
        "it has 0 detections",
    ),
    "empty with a reason": (_row_change(1, 0, error="odd"), {"wrong status"}, "a reason to fail"),
    # detections
    "a damaged mask": (
        _detection_change(0, 0, 0, counts="o"),
        {"wrong mask", "merge older than shard"},
        "end in the middle of a number",
    ),
    "a mask of another size": (
        _detection_change(0, 0, 0, counts="11"),
        {"wrong mask", "merge older than shard"},
        "of 2 pixels, not 6 x 8",
    ),
    "an empty mask": (
        _detection_change(0, 0, 0, counts=NOTHING),
        {"wrong mask", "merge older than shard"},
        "its mask is empty",
    ),
    "another mask": (
        _detection_change(0, 0, 0, counts=FULL),
        {"wrong area", "wrong box", "merge older than shard"},
        "its mask has 48 pixels",
    ),
    "another area": (
        _detection_change(0, 0, 0, area=7),
        {"wrong area", "merge older than shard"},
        "says 7, its mask has 6",
    ),
    "another box": (
        _detection_change(0, 0, 0, bbox=[2.0, 1.0, 3.0, 3.0]),
        {"wrong box", "merge older than shard"},
        "its mask [2, 1, 3, 2]",
    ),
    "a score above one": (
        _detection_change(0, 0, 0, score=1.5),
        {"wrong score", "merge older than shard"},
        "not all in 0 to 1",
    ),
    "a score that is no number": (
        _detection_change(0, 0, 0, score=float("nan")),
        {"wrong score", "merge older than shard"},
        "not all in 0 to 1",
    ),
    "scores that rise": (
        _rows_change(0, lambda rows: rows[2]["annotations"].reverse()),
        {"wrong score", "merge older than shard"},
        "do not fall",
    ),
    "an unknown class": (
        _detection_change(0, 0, 0, category_id=5),
        {"unknown class", "merge older than shard"},
        "category 5 is no class",
    ),
    # the run's own files
    "another manifest": (
        lambda run: run.publish("manifest.parquet", _edited_manifest(run)),
        {"file edited", "wrong file name"},
        "manifest.parquet: its SHA-256",
    ),
    "a truncated manifest": (
        _truncate("manifest.parquet", -9),
        {"file edited", "file damaged"},
        "manifest.parquet",
    ),
    "no manifest": (
        lambda run: (run.output / "manifest.parquet").unlink(),
        {"file missing"},
        "manifest.parquet",
    ),
    "another bank": (_publish("bank.safetensors"), {"file edited"}, "bank.safetensors: its SHA"),
    "no bank": (
        lambda run: (run.output / "bank.safetensors").unlink(),
        {"file missing"},
        "bank.safetensors",
    ),
    "an edited identity": (
        _json_change("run.json", lambda record: record["identity"]["method"].update(nms_iou=0.6)),
        {"run record edited", "shard of another run"},
        "its labels_hash is not that of its identity",
    ),
    "another plan": (
        _json_change("run.json", lambda record: record["plan"].update(images=9)),
        {"wrong plan"},
        "3 units of 8 images, in run.json 3 of 9",
    ),
    "a class added": (
        _json_change("run.json", lambda r: r["classes"].append({"id": 9, "name": "new"})),
        {"run record edited"},
        "run.json: its SHA-256 is",
    ),
    "a damaged merge record": (_truncate("merge.json", 20), {"file damaged"}, "merge again"),
    "a merge record of another run": (
        _json_change("merge.json", lambda merge: merge.update(labels_hash="0")),
        {"merge of another run"},
        "merge again",
    ),
    "an older merge beside it": (
        _publish("annotations-00001-of-00002.json"),
        {"stray file"},
        "is not of the last merge",
    ),
}


def _edited_manifest(run):
    table = pq.read_table(run.output / "manifest.parquet")
    rows = table.to_pylist()
    rows[1]["file_name"] = "other.jpg"
    sink = io.BytesIO()
    pq.write_table(type(table).from_pylist(rows, schema=table.schema), sink, row_group_size=3)
    return sink.getvalue()


@pytest.mark.parametrize(("damage", "kinds", "text"), DAMAGE.values(), ids=DAMAGE.keys())
def test_damage_is_found_and_named(run, damage, kinds, text):
    damage(run)
    verdict = run.verify()
    assert not verdict.whole
    found = [f"{p.where}: {p.text}" for p in verdict.findings.kept]
    assert kinds <= set(verdict.findings.counts), found
    assert any(text in line for line in found), found


def _annotation(number=0, **changes):
    return lambda coco: coco["annotations"][number].update(**changes)


def _mask_in_the_file(coco):
    coco["annotations"][0]["segmentation"].update(counts=FULL)


# what is done to the data of a merged JSON file
EDITS = {
    "an annotation dropped": lambda coco: coco["annotations"].pop(1),
    "the last annotation dropped": lambda coco: coco["annotations"].pop(),
    "an annotation twice": lambda coco: coco["annotations"].insert(1, coco["annotations"][0]),
    "an annotation moved to a later image": _annotation(image_id=6),
    "an annotation moved to nowhere": _annotation(-1, image_id=10**9),
    "another category": _annotation(category_id=2),
    "another id": _annotation(id=12),
    "a crowd": _annotation(iscrowd=1),
    "a type": _annotation(iscrowd=False),
    "a mask in the file": _mask_in_the_file,
    "a field more": _annotation(note="x"),
    "an annotation that is none": lambda coco: coco["annotations"].insert(0, [1]),
    "an image dropped": lambda coco: coco["images"].pop(2),
    "images swapped": lambda coco: coco["images"].reverse(),
    "the width of an image": lambda coco: coco["images"][0].update(width=9),
    "a class renamed": lambda coco: coco["categories"][0].update(name="nit"),
    "the provenance": lambda coco: coco["info"].update(bank="0"),
    "a key more": lambda coco: coco.update(extra=1),
    "a layout of its own": lambda coco: None,  # other spaces, the same data
}
RESULT_EDITS = {
    "a result dropped": lambda results: results.pop(3),
    "a result more": lambda results: results.append(results[0]),
    "the predicted IoU of a result": lambda results: results[0].update(predicted_iou=0.5),
}
COCO, RESULTS = "annotations.json", "results.json"
# a merged file, and what is done to it
FILE_DAMAGE = {
    "a digit of a score": (COCO, lambda run: run.edit(COCO, '"score":0.75', '"score":0.76')),
    **{name: (COCO, _json_change(COCO, change)) for name, change in EDITS.items()},
    "a truncated COCO file": (COCO, _truncate(COCO, 900)),
    "an empty COCO file": (COCO, _truncate(COCO, 0)),
    "something behind the COCO file": (COCO, lambda run: run.edit(COCO, "]}\n", "]}\n{}")),
    "a byte behind the COCO file": (COCO, lambda run: run.edit(COCO, "]}\n", "]}\n\n")),
    "a COCO file that is deeply nested": (COCO, _publish(COCO, b'{"info":' + b"[" * 100_000)),
    "a key twice": (COCO, lambda run: run.edit(COCO, '"licenses"', '"info":{},"licenses"')),
    "a score in the results": (
        RESULTS,
        lambda run: run.edit(RESULTS, '"score":0.25', '"score":0.2'),
    ),
    **{name: (RESULTS, _json_change(RESULTS, change)) for name, change in RESULT_EDITS.items()},
}


@pytest.mark.parametrize(("name", "damage"), FILE_DAMAGE.values(), ids=FILE_DAMAGE.keys())
def test_a_merged_file_that_was_edited_is_named_once(run, name, damage):
    damage(run)
    assert [(p.kind, p.where) for p in run.problems()] == [("merged file edited", name)]


@pytest.mark.parametrize("name", [COCO, RESULTS])
def test_a_merged_file_that_is_missing_is_named(run, name):
    (run.output / name).unlink()
    assert [(p.kind, p.where) for p in run.problems()] == [("merged file missing", name)]


def test_what_is_said_of_an_edited_file(run):
    run.edit(COCO, '"score":0.75', '"score":0.76')
    (problem,) = run.problems()
    text = r"its SHA-256 is \w{12}, when it was written \w{12}; merge again"
    assert re.fullmatch(text, problem.text)
    run.edit(COCO, '"score":0.76', '"score":0.7')
    (problem,) = run.problems()
    assert re.fullmatch(r"has (\d+) bytes, \d+ were written; merge again", problem.text)


SECOND = "annotations-00002-of-00003.json"
SPLIT_DAMAGE = {
    "a score in the second file": (
        lambda run: run.edit(SECOND, '"score":0.75', '"score":0.7'),
        ("merged file edited", SECOND),
    ),
    "a file deleted": (
        lambda run: (run.output / SECOND).unlink(),
        ("merged file missing", SECOND),
    ),
    "files swapped": (
        lambda run: run.publish(
            SECOND, (run.output / "annotations-00003-of-00003.json").read_bytes()
        ),
        ("merged file edited", SECOND),
    ),
}


@pytest.mark.parametrize(("damage", "problem"), SPLIT_DAMAGE.values(), ids=SPLIT_DAMAGE.keys())
def test_damage_to_split_files_is_found(tmp_path, damage, problem):
    run = Run(tmp_path, images_per_file=3).merge()
    damage(run)
    assert [(p.kind, p.where) for p in run.problems()] == [problem]


def test_an_unfinished_run_says_what_is_missing(tmp_path):
    run = Run(tmp_path, units=range(1))
    run.publish("driver.lock", b"{}")
    run.publish("labels/shard-000001.journal.json", b"{}")
    verdict = run.verify()
    assert verdict.findings.counts == {"shard missing": 2, "not merged": 1}
    assert (verdict.units_done, verdict.rows) == (1, 3)
    assert any("a driver is at work" in note for note in verdict.findings.notes)
    assert any("notes on a unit at work" in note for note in verdict.findings.notes)


def test_a_partial_merge_is_checked_and_reported(tmp_path):
    run = Run(tmp_path, units=range(1, 3)).merge(partial=True)
    verdict = run.verify()
    assert verdict.findings.counts == {"shard missing": 1}
    assert any("made without 1 of 3 shards" in note for note in verdict.findings.notes)
    run.edit("annotations.json", '"score":0.75', '"score":0.7')
    assert run.verify().findings.counts == {"shard missing": 1, "merged file edited": 1}


def test_a_partial_merge_of_a_finished_run_is_a_problem(tmp_path):
    run = Run(tmp_path, units=range(2)).merge(partial=True)
    run.write_shard(2)
    assert run.verify().findings.counts == {"partial merge": 1}


def test_other_merge_settings_are_said_and_are_no_problem(run):
    verdict = run.verify(min_score=0.6, profiles=["coco"])
    assert verdict.whole
    assert "merged with min_score 0.4, the config now says 0.6" in verdict.findings.notes
    assert "merged with profiles coco, coco-results, the config now says coco" in (
        verdict.findings.notes
    )


def test_without_a_merge_record_nothing_can_be_said_of_merged_files(run):
    (run.output / "merge.json").unlink()
    (problem,) = run.problems()
    assert (problem.kind, problem.where) == ("file missing", "merge.json")
    assert problem.text == "is missing, so 2 merged files cannot be checked; merge again"
    assert run.merge().verify().whole


def test_left_over_temporary_files_are_said(run):
    run.publish("labels/.shard-000001.parquet.0123456789ab.tmp", b"x")
    verdict = run.verify()
    assert verdict.whole
    assert any("left by a write that did not end" in note for note in verdict.findings.notes)


def test_merged_files_are_checked_beside_an_unreadable_shard(run):
    _truncate("labels/shard-000001.parquet", -9)(run)
    assert run.verify().findings.counts == {"shard damaged": 1}
    run.edit("annotations.json", '"score":0.75', '"score":0.7')
    assert run.verify().findings.counts == {"shard damaged": 1, "merged file edited": 1}


def test_a_shard_that_was_labelled_again_is_named(run):
    run.write_shard(1, note="the same rows, in other bytes than those that were merged")
    (problem,) = run.problems()
    assert (problem.kind, problem.where) == ("merge older than shard", "shard-000001.parquet")
    assert problem.text == "the merged files were made of another shard of this name; merge again"
    assert run.merge().verify().whole


def test_there_must_be_a_run(tmp_path):
    run = Run(tmp_path)
    (run.output / "run.json").unlink()
    with pytest.raises(InputError, match="there is no run here"):
        run.verify()


def test_memory_holds_few_problems_and_the_listener_gets_all():
    heard = []
    findings = Findings(heard.append)
    for number in range(1000):
        findings.problem("odd", f"row {number}", "is odd")
    assert findings.counts == {"odd": 1000}
    assert len(findings.kept) == KEPT
    assert len(heard) == 1000


def _command(run, tmp_path, *options):
    data = {"images": "/data", "output": str(run.output), "bank": "/data/bank"}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(data))
    return run_command("verify", str(path), *options)


def test_the_command_and_its_exit_status(run, tmp_path):
    done = _command(run, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "3 of 3 shards; 8 of 8 rows (2 empty, 1 failed, 5 ok); 11 detections" in done.stderr
    assert "whole: everything is there and agrees" in done.stderr
    run.edit("annotations.json", '"score":0.75', '"score":0.7')
    done = _command(run, tmp_path, "--json", str(tmp_path / "problems.jsonl"))
    assert done.returncode == 1, done.stderr
    assert "merged file edited: 1" in done.stderr
    assert "annotations.json: has" in done.stderr
    (line,) = (tmp_path / "problems.jsonl").read_text().splitlines()
    assert json.loads(line)["kind"] == "merged file edited"
    (run.output / "run.json").unlink()
    done = _command(run, tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    run.publish("run.json", b"{")
    done = _command(run, tmp_path)
    assert done.returncode == 1
    assert "run.json: not a run record" in done.stderr.replace(str(run.output) + "/", "")


def test_a_calibrated_merge_needs_its_calibration_no_more(tmp_path):
    calibration = tmp_path / "calibration.json"
    calibration.write_text('{"thresholds": {"nut": 0.8}}')
    run = Run(tmp_path, calibration=str(calibration)).merge()
    calibration.unlink()
    assert run.verify().whole
    assert read_merge_record(str(run.output), STORE).class_scores == ((1, 0.8),)


@pytest.mark.parametrize("nms_iou", [0.5, 0.7])
def test_a_merge_says_that_its_calibration_is_of_other_settings(tmp_path, caplog, nms_iou):
    calibration = tmp_path / "calibration.json"
    run = Run(tmp_path, calibration=str(calibration))
    made_with = scores_content(run.identity.plain())
    made_with["method"] = {**made_with["method"], "nms_iou": nms_iou}
    found = Calibration(bank=run.identity.bank, made_with=made_with, thresholds={"nut": 0.8})
    calibration.write_bytes(found.to_bytes())
    run.merge()
    said = "made with other settings than the labels"
    assert (said in caplog.text) == (nms_iou != 0.5)
    assert ("method.nms_iou: 0.7 there, 0.5 here" in caplog.text) == (nms_iou != 0.5)


RECORD_EDITS = {
    "class_scores": [[1, 0.8]],
    "classes": None,
    "min_score": 0.3,
    "images_per_file": 5,
    "files": {},
    "shards": [],
    "a field of a later version": 1,
}


@pytest.mark.parametrize("key", RECORD_EDITS)
def test_an_edited_merge_record_is_found(tmp_path, key):
    run = Run(tmp_path, classes=["bölt"]).merge()
    run.edit_json("merge.json", lambda record: record.update({key: RECORD_EDITS[key]}))
    assert ("file edited", "merge.json") in {(p.kind, p.where) for p in run.problems()}


EVERYTHING = (
    *("coco", "coco-results", "coco-polygon", "yolo-seg", "labelstudio", "parquet"),
    "semantic-png",
)


def test_all_profiles_with_other_classes_are_whole(tmp_path):
    for number, choice in enumerate(
        ({}, {"classes": ["bölt"]}, {"rename": {"nut": "thing", "bölt": "thing"}})
    ):
        run = Run(tmp_path / str(number), profiles=EVERYTHING, **choice).merge()
        assert run.problems() == []
        assert run.verify().whole


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    return Run(tmp_path_factory.mktemp("all"), profiles=EVERYTHING).merge()


# a merged file, and where it is said that it is missing or was edited
FILES = {
    "polygons.json": "polygons.json",
    "labelstudio.json": "labelstudio.json",
    "labelstudio.xml": "labelstudio.xml",
    "instances/part-00001-of-00001.parquet": "instances/part-00001-of-00001.parquet",
    "yolo/data.yaml": "yolo/data.yaml",
    "yolo/labels/img/4.txt": "yolo/labels/",
    "yolo/labels/img/1.txt": "yolo/labels/",
    "semantic/classes.json": "semantic/classes.json",
    "semantic/img/4.jpg.png": "semantic/",
}


@pytest.mark.parametrize(("name", "where"), FILES.items(), ids=FILES)
def test_damage_to_files_of_every_profile(everything, name, where):
    path = everything.output / name
    before = path.read_bytes()
    damage = [("merged file missing", None), ("merged file edited", before + b"\n")]
    if before:  # an empty label file has no byte to change
        damage.append(("merged file edited", bytes([before[0] ^ 1]) + before[1:]))
    for kind, data in damage:
        path.unlink() if data is None else path.write_bytes(data)
        found = [(p.kind, p.where) for p in everything.problems()]
        path.write_bytes(before)
        assert found == [(kind, where)]
    assert everything.verify().whole


STRAY = {
    "annotations-00001-of-00002.json": "annotations-00001-of-00002.json",
    "polygons-00001-of-00002.json": "polygons-00001-of-00002.json",
    "instances/part-00002-of-00002.parquet": "instances/part-00002-of-00002.parquet",
    "yolo/labels/img/more.txt": "yolo/labels/",
    "semantic/more.png": "semantic/",
}


@pytest.mark.parametrize(("name", "where"), STRAY.items(), ids=STRAY)
def test_files_that_the_merge_did_not_write(everything, name, where):
    everything.publish(name, b"x")
    found = [(p.kind, p.where) for p in everything.problems()]
    (everything.output / name).unlink()
    assert found == [("stray file", where)]


def test_a_folder_of_images_that_no_merge_speaks_of(tmp_path):
    """As it stays where the merge record was lost before the profile was left out."""
    run = Run(tmp_path, profiles=["yolo-seg", "semantic-png"]).merge()
    (run.output / "merge.json").unlink()
    merge(run.configured(profiles=["coco"]))
    strays = {p.where for p in run.problems() if p.kind == "stray file"}
    assert {"yolo/labels/", "semantic/", "yolo/data.yaml"} <= strays


def test_files_of_two_images_swapped(everything):
    paths = [everything.output / f"yolo/labels/img/{number}.txt" for number in (1, 2)]
    before = [path.read_bytes() for path in paths]
    for path, data in zip(paths, reversed(before), strict=True):
        path.write_bytes(data)
    found = [(p.kind, p.where) for p in everything.problems()]
    for path, data in zip(paths, before, strict=True):
        path.write_bytes(data)
    assert found == [("merged file edited", "yolo/labels/")]


def test_other_files_beside_the_merged_ones_are_no_problem(everything):
    others = ("yolo/images/img/1.jpg", "yolo/labels/img/.4.txt.0123456789ab.tmp", "notes.json")
    for name in others:
        everything.publish(name, b"x")
    whole = everything.verify().whole
    for name in others:
        (everything.output / name).unlink()
    assert whole


def as_version_1(run):
    """The merge record as the version before wrote it."""

    def change(record):
        for key in ("run_sha256", "shards", "record_sha256"):
            del record[key]
        record["files"] = list(record["files"])
        record["folders"] = {name: f["files"] for name, f in record["folders"].items()}
        record["format_version"] = 1

    run.edit_json("merge.json", change)


def test_a_merge_record_without_digests_asks_for_another_merge(tmp_path):
    run = Run(tmp_path, profiles=["coco", "yolo-seg"]).merge()
    as_version_1(run)
    (problem,) = run.problems()
    assert (problem.kind, problem.where) == ("merged files not checked", "merge.json")
    assert problem.text.endswith("the merged files cannot be checked; merge again")
    (run.output / "annotations.json").unlink()
    assert {p.kind for p in run.problems()} == {problem.kind, "merged file missing"}
    assert run.merge().verify().whole


def test_the_merge_record_tells_what_was_lost(tmp_path):
    run = Run(tmp_path, profiles=["coco-polygon", "yolo-seg"]).merge()
    record = read_merge_record(str(run.output), STORE)
    assert record.losses["coco-polygon"].instances == record.losses["yolo-seg"].instances > 0
    assert record.losses["coco-polygon"].changed == 0
    assert {name: folder.files for name, folder in record.folders.items()} == {"yolo/labels/": 7}
