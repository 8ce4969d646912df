import json

import pytest

from ntt_ray.errors import InputError, OutputMismatchError
from ntt_ray.records import ClassLabel
from ntt_ray.run import record
from ntt_ray.run.layout import RECORD_FILE
from ntt_ray.storage import Storage

IDENTITY = {
    "manifest": "m",
    "bank": "a",
    "method": {"nms_iou": 0.5, "points_per_side": 32},
    "models": {"encoder": {"checkpoint": "e"}, "proposer": {"checkpoint": "p"}},
}


def _record():
    return record.make_record(
        identity=IDENTITY,
        config={"images": "x"},
        classes=(ClassLabel(3, "nut"),),
        units=2,
        images=5,
    )


def test_round_trip(tmp_path):
    assert record.read_record(str(tmp_path), Storage()) is None
    record.write_record(str(tmp_path), _record(), Storage())
    found = record.read_record(str(tmp_path), Storage())
    assert found["identity"] == IDENTITY
    assert found["labels_hash"] == record.labels_hash(IDENTITY)
    assert record.record_classes(found) == (ClassLabel(3, "nut"),)
    assert found["versions"]["torch"]
    record.check_same_run(found, IDENTITY, str(tmp_path))


def test_no_clock_in_it():
    assert _record() == _record()


def test_differences_are_listed_by_path():
    other = {**IDENTITY, "method": {"nms_iou": 0.6, "points_per_side": 32}, "bank": "b"}
    with pytest.raises(OutputMismatchError) as caught:
        record.check_same_run(_record(), other, "/out")
    assert caught.value.problems == (
        "bank: 'a' there, 'b' here",
        "method.nms_iou: 0.5 there, 0.6 here",
    )
    assert caught.value.exit_status == 2


def test_damaged_records_are_named(tmp_path):
    damaged = {**_record(), "plan": {"units": 10**9}, "classes": [{"id": "3"}], "versions": None}
    (tmp_path / RECORD_FILE).write_text(json.dumps(damaged))
    with pytest.raises(InputError, match="a damaged run record") as caught:
        record.read_record(str(tmp_path), Storage())
    for text in ("plan.units is not in", "plan.images is not int", "classes.0", "versions is not"):
        assert text in str(caught.value)


@pytest.mark.parametrize("text", ["{", "[]", json.dumps({"format_version": 99})])
def test_other_files_are_refused(tmp_path, text):
    (tmp_path / RECORD_FILE).write_text(text)
    with pytest.raises(InputError, match="not a run record"):
        record.read_record(str(tmp_path), Storage())
