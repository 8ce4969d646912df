"""Verify finds every kind of damage, names it, and accepts what is whole."""

import io
import json
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from ntt_ray.errors import InputError
from ntt_ray.masks import encode_mask
from ntt_ray.merge.record import read_merge_record
from ntt_ray.run.layout import shard_uri
from ntt_ray.verify.json_stream import JsonStream
from ntt_ray.verify.problems import KEPT, Findings
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
        {"image twice", "merged file edited"},
        "image 4 has 2 rows",
    ),
    "an image twice in two shards": (
        _moved_to_another_shard,
        {"foreign image", "image without row", "merged file edited"},
        "image 1 belongs to unit 0",
    ),
    "an image of nowhere": (
        _row_change(1, 2, image_id=99),
        {"foreign image", "image without row", "merged file edited"},
        "image 99 is not in the manifest",
    ),
    "a row dropped": (
        _rows_change(1, lambda rows: rows.pop(1)),
        {"image without row"},
        "image 5 ('img/5.jpg') has no row",
    ),
    "rows swapped": (
        _rows_change(0, lambda rows: rows.reverse()),
        {"rows out of order", "merged file edited"},
        "image 3 is not where the manifest has it",
    ),
    "another file name": (
        _row_change(0, 1, file_name="b.jpg"),
        {"wrong file name", "merged file edited"},
        "is 'b.jpg', in the manifest 'img/2.jpg'",
    ),
    "an unknown status": (_row_change(0, 0, status="fine"), {"wrong status"}, "'fine' is not"),
    "failed without a reason": (_row_change(1, 1, error=None), {"wrong status"}, "without a rea"),
    "failed with a size": (
        _row_change(1, 1, height=6, width=8),
        {"wrong status", "merged file edited"},
        "yet it has a size",
    ),
    "ok without a size": (
        _row_change(0, 0, height=None, width=None),
        {"wrong status", "merged file edited"},
        "its size is None",
    ),
    "ok without detections": (
        _row_change(0, 0, annotations=[]),
        {"wrong status", "merged file edited"},
        "it has 0 detections",
    ),
    "empty with a reason": (_row_change(1, 0, error="odd"), {"wrong status"}, "a reason to fail"),
    # detections
    "a damaged mask": (
        _detection_change(0, 0, 0, counts="o"),
        {"wrong mask", "merged file edited"},
        "end in the middle of a number",
    ),
    "a mask of another size": (
        _detection_change(0, 0, 0, counts="11"),
        {"wrong mask", "merged file edited"},
        "of 2 pixels, not 6 x 8",
    ),
    "an empty mask": (
        _detection_change(0, 0, 0, counts=NOTHING),
        {"wrong mask", "merged file edited"},
        "its mask is empty",
    ),
    "another mask": (
        _detection_change(0, 0, 0, counts=FULL),
        {"wrong area", "wrong box", "merged file edited"},
        "its mask has 48 pixels",
    ),
    "another area": (
        _detection_change(0, 0, 0, area=7),
        {"wrong area", "merged file edited"},
        "says 7, its mask has 6",
    ),
    "another box": (
        _detection_change(0, 0, 0, bbox=[2.0, 1.0, 3.0, 3.0]),
        {"wrong box", "merged file edited"},
        "its mask [2, 1, 3, 2]",
    ),
    "a score above one": (
        _detection_change(0, 0, 0, score=1.5),
        {"wrong score", "merged file edited"},
        "not all in 0 to 1",
    ),
    "a score that is no number": (
        _detection_change(0, 0, 0, score=float("nan")),
        {"wrong score", "merged file edited"},
        "not all in 0 to 1",
    ),
    "scores that rise": (
        _rows_change(0, lambda rows: rows[2]["annotations"].reverse()),
        {"wrong score", "merged file edited"},
        "do not fall",
    ),
    "an unknown class": (
        _detection_change(0, 0, 0, category_id=5),
        {"unknown class", "merged file edited"},
        "category 5 is no class",
    ),
    # annotations.json
    "a digit of a score": (
        lambda run: run.edit("annotations.json", '"score":0.75', '"score":0.76'),
        {"merged file edited"},
        "score is 0.76, should be 0.75",
    ),
    "an annotation dropped": (
        _json_change("annotations.json", lambda coco: coco["annotations"].pop(1)),
        {"merged file edited"},
        "1 annotation records, 2 by its shard",
    ),
    "the last annotation dropped": (
        _json_change("annotations.json", lambda coco: coco["annotations"].pop()),
        {"merged file edited"},
        "image 7: 1 annotation records, 2",
    ),
    "an annotation twice": (
        _json_change(
            "annotations.json", lambda coco: coco["annotations"].insert(1, coco["annotations"][0])
        ),
        {"merged file edited"},
        "2 annotation records, 1 by its shard",
    ),
    "an annotation moved to a later image": (
        _json_change("annotations.json", lambda c: c["annotations"][0].update(image_id=6)),
        {"merged file edited"},
        "an annotation of image 6 that no shard has there",
    ),
    "an annotation moved to nowhere": (
        _json_change("annotations.json", lambda c: c["annotations"][-1].update(image_id=10**9)),
        {"merged file edited"},
        "an annotation of image 1000000000",
    ),
    "another category": (
        _json_change("annotations.json", lambda c: c["annotations"][0].update(category_id=2)),
        {"merged file edited"},
        "category_id is 2, should be 1",
    ),
    "another id": (
        _json_change("annotations.json", lambda c: c["annotations"][0].update(id=12)),
        {"merged file edited"},
        "id is 12, should be 1",
    ),
    "a crowd": (
        _json_change("annotations.json", lambda c: c["annotations"][0].update(iscrowd=1)),
        {"merged file edited"},
        "iscrowd is 1, should be 0",
    ),
    "a type": (
        _json_change("annotations.json", lambda c: c["annotations"][0].update(iscrowd=False)),
        {"merged file edited"},
        "iscrowd is False, should be 0",
    ),
    "a mask in the file": (
        _json_change(
            "annotations.json",
            lambda c: c["annotations"][0]["segmentation"].update(counts=FULL),
        ),
        {"merged file edited"},
        "segmentation is",
    ),
    "a field more": (
        _json_change("annotations.json", lambda c: c["annotations"][0].update(note="x")),
        {"merged file edited"},
        "note is 'x', should be None",
    ),
    "an annotation that is none": (
        _json_change("annotations.json", lambda c: c["annotations"].insert(0, [1])),
        {"merged file edited"},
        "an annotation of image None",
    ),
    "an image dropped": (
        _json_change("annotations.json", lambda coco: coco["images"].pop(2)),
        {"merged file edited"},
        "image 3: 0 image records, 1 by its shard",
    ),
    "images swapped": (
        _json_change("annotations.json", lambda coco: coco["images"].reverse()),
        {"merged file edited"},
        "image",
    ),
    "the width of an image": (
        _json_change("annotations.json", lambda coco: coco["images"][0].update(width=9)),
        {"merged file edited"},
        "width is 9, should be 8",
    ),
    "a class renamed": (
        _json_change("annotations.json", lambda coco: coco["categories"][0].update(name="nit")),
        {"merged file edited"},
        "its categories is not that of the run",
    ),
    "the provenance": (
        _json_change("annotations.json", lambda coco: coco["info"].update(bank="0")),
        {"merged file edited"},
        "its info is not that of the run: bank is '0'",
    ),
    "a key more": (
        _json_change("annotations.json", lambda coco: coco.update(extra=1)),
        {"merged file edited"},
        "unknown keys: ['extra']",
    ),
    "a truncated COCO file": (
        _truncate("annotations.json", 900),
        {"merged file damaged"},
        "annotations.json",
    ),
    "an empty COCO file": (_truncate("annotations.json", 0), {"merged file damaged"}, "the end"),
    "something behind the COCO file": (
        lambda run: run.publish(
            "annotations.json", (run.output / "annotations.json").read_bytes() + b"{}"
        ),
        {"merged file damaged"},
        "something follows the end",
    ),
    "a COCO file that is deeply nested": (
        _publish("annotations.json", b'{"info":' + b"[" * 100_000),
        {"merged file damaged"},
        "annotations.json",
    ),
    "a key twice": (
        lambda run: run.edit("annotations.json", '"licenses"', '"info":{},"licenses"'),
        {"merged file damaged"},
        "the key 'info' twice",
    ),
    "no annotations.json": (
        lambda run: (run.output / "annotations.json").unlink(),
        {"merged file missing"},
        "annotations.json",
    ),
    # results.json
    "a score in the results": (
        lambda run: run.edit("results.json", '"score":0.25', '"score":0.2'),
        {"merged file edited"},
        "score is 0.2, should be 0.25",
    ),
    "a result dropped": (
        _json_change("results.json", lambda results: results.pop(3)),
        {"merged file edited"},
        "2 result records, 3 by its shard",
    ),
    "a result more": (
        _json_change("results.json", lambda results: results.append(results[0])),
        {"merged file edited"},
        "a result of image 1 that no shard has there",
    ),
    "no results.json": (
        lambda run: (run.output / "results.json").unlink(),
        {"merged file missing"},
        "results.json",
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
        {"run record edited", "shard of another run", "merged file edited"},
        "its labels_hash is not that of its identity",
    ),
    "another plan": (
        _json_change("run.json", lambda record: record["plan"].update(images=9)),
        {"wrong plan"},
        "3 units of 8 images, in run.json 3 of 9",
    ),
    "a class added": (
        _json_change("run.json", lambda r: r["classes"].append({"id": 9, "name": "new"})),
        {"merged file edited"},
        "its categories is not that of the run",
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


SPLIT_DAMAGE = {
    "a score in the second file": (
        lambda run: run.edit("annotations-00002-of-00003.json", '"score":0.75', '"score":0.7'),
        "00002-of-00003.json, image 6, annotation 1: score is 0.7, should be 0.75",
    ),
    "a file deleted": (
        lambda run: (run.output / "annotations-00002-of-00003.json").unlink(),
        "00002-of-00003.json: merge again",
    ),
    "files swapped": (
        lambda run: run.publish(
            "annotations-00002-of-00003.json",
            (run.output / "annotations-00003-of-00003.json").read_bytes(),
        ),
        "image 4: 0 image records, 1 by its shard",
    ),
}


@pytest.mark.parametrize(("damage", "text"), SPLIT_DAMAGE.values(), ids=SPLIT_DAMAGE.keys())
def test_damage_to_split_files_is_found(tmp_path, damage, text):
    run = Run(tmp_path, images_per_file=3).merge()
    damage(run)
    assert any(text in f"{p.where}: {p.text}" for p in run.problems())


def test_one_edit_is_one_problem(run):
    run.edit_json("annotations.json", lambda coco: coco["annotations"].pop(1))
    assert len(run.problems()) == 1


def test_a_layout_of_its_own_is_no_edit(run):
    run.edit_json("annotations.json", lambda coco: None)  # other spaces, the same data
    assert run.verify().whole


def test_an_unfinished_run_says_what_is_missing(tmp_path):
    run = Run(tmp_path, units=range(1))
    run.publish("driver.lock", b"{}")
    run.publish("labels/shard-000001.journal.json", b"{}")
    verdict = run.verify()
    assert verdict.findings.counts == {"shard missing": 2, "not merged": 1}
    assert (verdict.units_done, verdict.rows) == (1, 3)
    assert any("a driver is at work" in note for note in verdict.findings.notes)
    assert any("notes on a unit at work" in note for note in verdict.findings.notes)


def test_a_partial_merge_is_compared_and_reported(tmp_path):
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


def test_without_a_merge_record_the_config_says_how_it_was_merged(run):
    (run.output / "merge.json").unlink()
    verdict = run.verify()
    assert verdict.whole
    assert any("there is no merge.json" in note for note in verdict.findings.notes)
    assert not run.verify(min_score=0.6).whole


def test_left_over_temporary_files_are_said(run):
    run.publish("labels/.shard-000001.parquet.0123456789ab.tmp", b"x")
    verdict = run.verify()
    assert verdict.whole
    assert any("left by a write that did not end" in note for note in verdict.findings.notes)


def test_merged_files_are_compared_up_to_the_first_unreadable_shard(run):
    _truncate("labels/shard-000001.parquet", -9)(run)
    verdict = run.verify()
    assert verdict.findings.counts == {"shard damaged": 1}
    assert any("compared up to unit 1 only" in note for note in verdict.findings.notes)


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


@pytest.mark.parametrize("step", [1, 2, 7, 1 << 18])
def test_a_document_is_read_whatever_the_size_of_the_pieces(monkeypatch, step):
    data = {"a": [1, 23, {"b": 'ü\\"]'}, [], -1.5e3], "c": {"d": None}, "e": [], "f": 12}
    text = json.dumps(data, indent=1, ensure_ascii=False).encode()

    class Slowly(io.BytesIO):
        def read(self, size=-1):
            return super().read(min(size, step))

    stream = JsonStream(Slowly(text))
    lists = frozenset({"a", "e"})
    found = {key: list(v) if key in lists else v for key, v in stream.members(lists)}
    stream.end()
    assert found == data


def test_a_document_that_goes_on_wrongly_is_not_read_to_its_end():
    class Endless(io.RawIOBase):
        """Numbers behind a value that is whole without them."""

        taken = 0

        def read(self, size=-1):
            assert self.taken < 1 << 22, "far more was read than one value needs"
            self.taken += size
            return b'["a"'.ljust(size, b"1") if self.taken == size else b"1" * size

    with pytest.raises(ValueError, match="is missing before '1111"):
        list(JsonStream(Endless()).items())


def _command(run, tmp_path, *options):
    data = {"images": "/data", "output": str(run.output), "bank": "/data/bank"}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(data))
    return subprocess.run(
        [sys.executable, "-m", "ntt_ray", "verify", str(path), *options],
        capture_output=True,
        text=True,
        timeout=170,
    )


def test_the_command_and_its_exit_status(run, tmp_path):
    done = _command(run, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "3 of 3 shards; 8 of 8 rows (2 empty, 1 failed, 5 ok); 11 detections" in done.stderr
    assert "whole: everything is there and agrees" in done.stderr
    run.edit("annotations.json", '"score":0.75', '"score":0.7')
    done = _command(run, tmp_path, "--json", str(tmp_path / "problems.jsonl"))
    assert done.returncode == 1, done.stderr
    assert "merged file edited: 1" in done.stderr
    assert "score is 0.7, should be 0.75" in done.stderr
    (line,) = (tmp_path / "problems.jsonl").read_text().splitlines()
    assert json.loads(line)["kind"] == "merged file edited"
    (run.output / "run.json").unlink()
    done = _command(run, tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_a_calibrated_merge_is_compared_by_its_thresholds(tmp_path):
    calibration = tmp_path / "calibration.json"
    calibration.write_text('{"thresholds": {"nut": 0.8}}')
    run = Run(tmp_path, calibration=str(calibration)).merge()
    calibration.unlink()  # the record of the merge knows
    assert run.verify().whole
    run.edit_json("merge.json", lambda record: record.update(class_scores=[]))
    assert not run.verify().whole


EVERYTHING = ("coco", "coco-results", "coco-polygon", "yolo-seg", "labelstudio", "parquet")


def test_all_profiles_with_other_classes_are_whole(tmp_path):
    for number, choice in enumerate(
        ({}, {"classes": ["bölt"]}, {"rename": {"nut": "thing", "bölt": "thing"}})
    ):
        profiles = [*EVERYTHING, "semantic-png"]
        run = Run(tmp_path / str(number), profiles=profiles, **choice).merge()
        assert run.problems() == []
        assert run.verify().whole


def test_other_classes_than_recorded_are_found(tmp_path):
    run = Run(tmp_path, classes=["bölt"]).merge()
    run.edit_json("merge.json", lambda record: record.update(classes=None))
    assert "merged file edited" in {problem.kind for problem in run.problems()}


@pytest.mark.parametrize(
    ("missing", "where"),
    [
        ("polygons.json", "polygons.json"),
        ("labelstudio.xml", "labelstudio.xml"),
        ("instances/part-00001-of-00001.parquet", "instances/part-00001-of-00001.parquet"),
        ("yolo/labels/img/4.txt", "yolo/labels/"),
    ],
)
def test_missing_files_of_other_profiles(tmp_path, missing, where):
    run = Run(tmp_path, profiles=EVERYTHING).merge()
    (run.output / missing).unlink()
    assert [(p.kind, p.where) for p in run.problems()] == [("merged file missing", where)]


def test_the_merge_record_tells_what_was_lost(tmp_path):
    run = Run(tmp_path, profiles=["coco-polygon", "yolo-seg"]).merge()
    record = read_merge_record(str(run.output), STORE)
    assert record.losses["coco-polygon"].instances == record.losses["yolo-seg"].instances > 0
    assert record.losses["coco-polygon"].changed == 0
    assert record.folders == {"yolo/labels/": 7}
