import hashlib
import json

import pytest

from ntt_ray.errors import InputError, OutputMismatchError
from ntt_ray.records import ClassLabel
from ntt_ray.run.layout import RECORD_FILE
from ntt_ray.run.record import (
    Identity,
    check_same_run,
    make_record,
    read_record,
    write_record,
)
from ntt_ray.storage import Storage

IDENTITY = {
    "manifest": "m",
    "bank": "a",
    "method": {"nms_iou": 0.5, "points_per_side": 32},
    "models": {"encoder": {"checkpoint": "e"}, "proposer": {"checkpoint": "p"}},
}


def _record():
    return make_record(
        identity=Identity.model_validate(IDENTITY),
        config={"images": "x"},
        classes=(ClassLabel(3, "nut"),),
        units=2,
        images=5,
    )


def test_round_trip(tmp_path):
    assert read_record(str(tmp_path), Storage()) is None
    write_record(str(tmp_path), _record(), Storage())
    found = read_record(str(tmp_path), Storage())
    assert found.identity.plain() == IDENTITY
    assert found.labels_hash == found.identity.digest()
    assert found.class_labels == (ClassLabel(3, "nut"),)
    assert found.versions["torch"]
    check_same_run(found, Identity.model_validate(IDENTITY), str(tmp_path))


def test_no_clock_in_it():
    assert _record() == _record()


def test_differences_are_listed_by_path():
    other = {**IDENTITY, "method": {"nms_iou": 0.6, "points_per_side": 32}, "bank": "b"}
    with pytest.raises(OutputMismatchError) as caught:
        check_same_run(_record(), Identity.model_validate(other), "/out")
    assert caught.value.problems == (
        "bank: 'a' there, 'b' here",
        "method.nms_iou: 0.5 there, 0.6 here",
    )
    assert caught.value.exit_status == 2


def test_damaged_records_are_named(tmp_path):
    damaged = {
        **_record().plain(),
        "plan": {"units": 10**9},
        "classes": [{"id": "3"}],
        "versions": None,
    }
    (tmp_path / RECORD_FILE).write_text(json.dumps(damaged))
    with pytest.raises(InputError, match="a damaged run record") as caught:
        read_record(str(tmp_path), Storage())
    for text in (
        "plan.units: input should be less than or equal to 10000000",
        "plan.images: field required",
        "classes.0.id: input should be a valid integer",
        "classes.0.name: field required",
        "versions: input should be an object",
    ):
        assert text in str(caught.value)


def test_keys_of_other_versions_are_kept_and_count_in_the_hash(tmp_path):
    models = {
        "encoder": {"checkpoint": "e", "name": "dino", "patch": 14},
        "proposer": {"checkpoint": "p", "config": None},
        "precision": "fp32",
    }
    identity = {**IDENTITY, "models": models, "image_root": None, "newer": [1, {"a": 0.1}]}
    data = {**_record().plain(), "identity": identity, "newer": {"b": 2}}
    data["classes"] = [{"id": 3, "name": "nut", "newer": 1}]
    (tmp_path / RECORD_FILE).write_text(json.dumps(data))
    found = read_record(str(tmp_path), Storage())
    assert found.identity.plain() == identity
    text = json.dumps(identity, sort_keys=True)
    assert found.identity.digest() == hashlib.sha256(text.encode()).hexdigest()
    assert found.identity.decode == {}
    write_record(str(tmp_path / "again"), found, Storage())
    assert json.loads((tmp_path / "again" / RECORD_FILE).read_text()) == data


@pytest.mark.parametrize("text", ["{", "[]", json.dumps({"format_version": 99})])
def test_other_files_are_refused(tmp_path, text):
    (tmp_path / RECORD_FILE).write_text(text)
    with pytest.raises(InputError, match="not a run record"):
        read_record(str(tmp_path), Storage())
