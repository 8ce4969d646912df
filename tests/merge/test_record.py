"""The merge record: what it says, and that of the version before."""

import json

import pytest

from ntt_ray.errors import InputError
from ntt_ray.merge.digests import FileDigest, FolderDigest
from ntt_ray.merge.record import MergeRecord, read_merge_record, stretches, write_merge_record
from ntt_ray.merge.rendering import Loss
from ntt_ray.merge.thresholds import Thresholds
from ntt_ray.storage import Storage

STORE = Storage()
RECORD = MergeRecord(
    labels_hash="a" * 64,
    run_sha256="b" * 64,
    min_score=0.5,
    class_scores=((2, 0.25),),
    classes=((1, 1, "nut"), (2, 1, "nut")),
    profiles=("coco", "yolo-seg"),
    images_per_file=None,
    units=((0, 1), (4, 4)),
    shards=("c" * 64, "d" * 64, "e" * 64),
    files={"annotations.json": FileDigest(7, "f" * 64)},
    folders={"yolo/labels/": FolderDigest(2, 9, "0" * 64)},
    losses={"yolo-seg": Loss(3, 1, 0.5, 0.5)},
)
VERSION_1 = {  # as it was written before there were digests
    "class_scores": [[2, 0.25]],
    "classes": [[1, 1, "nut"], [2, 1, "nut"]],
    "files": ["annotations.json", "yolo/data.yaml"],
    "folders": {"yolo/labels/": 7},
    "format_version": 1,
    "images_per_file": 3,
    "labels_hash": "a" * 64,
    "losses": {"yolo-seg": {"changed": 1, "instances": 9, "lost_iou": 0.1, "min_iou": 0.9}},
    "min_score": 0.5,
    "profiles": ["coco", "yolo-seg"],
    "units": [[0, 1], [4, 4]],
}


def test_written_and_read_it_is_the_same(tmp_path):
    write_merge_record(str(tmp_path), RECORD, STORE)
    found = read_merge_record(str(tmp_path), STORE)
    assert found.model_copy(update={"record_sha256": ""}) == RECORD
    assert found.record_sha256 == found.digest() == RECORD.digest()
    assert found.has_digests
    assert found.missing(6) == [2, 3, 5]
    assert found.shard_digests() == {0: "c" * 64, 1: "d" * 64, 4: "e" * 64}
    assert found.thresholds == Thresholds(0.5, {2: 0.25}, {1: 1, 2: 1})
    assert read_merge_record(str(tmp_path / "elsewhere"), STORE) is None


def test_a_record_without_settings_has_the_digest_of_its_version():
    assert RECORD.digest() == ("a2f3b5bca4b0b049d6d98dbdf64a7edcc71fcc357a787b9c3fa9c06eaf1ae67a")
    assert RECORD.model_copy(update={"settings": {"min_score": 0.5}}).digest() != RECORD.digest()


def _read(tmp_path, data):
    (tmp_path / "merge.json").write_text(json.dumps(data))
    return read_merge_record(str(tmp_path), STORE)


def test_the_version_before_is_read(tmp_path):
    found = _read(tmp_path, VERSION_1)
    assert not found.has_digests
    assert found.files == {"annotations.json": None, "yolo/data.yaml": None}
    assert (found.folders, found.shard_digests()) == ({}, {})
    assert found.missing(6) == [2, 3, 5]
    assert found.losses["yolo-seg"] == Loss(9, 1, 0.1, 0.9)
    assert found.thresholds == RECORD.thresholds


DAMAGES = {
    "a list": ([], "not a merge record"),
    "another version": ({**VERSION_1, "format_version": 4}, "format_version: "),
    "no version": ({"files": []}, "labels_hash: Field required"),
    "a part of a file": ({**VERSION_1, "images_per_file": 0}, "images_per_file: "),
    "a fraction of an image": ({**VERSION_1, "images_per_file": 2.5}, "images_per_file: "),
    "files without names": ({**VERSION_1, "files": [[]]}, "TypeError"),
    "no files": ({"format_version": 1}, "KeyError"),
    "units out of pairs": ({**VERSION_1, "units": [[1]]}, r"units\.0"),
}


@pytest.mark.parametrize(("data", "message"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_record_is_refused(tmp_path, data, message):
    with pytest.raises(InputError, match=message) as caught:
        _read(tmp_path, data)
    assert str(caught.value).endswith("; merge again")


@pytest.mark.parametrize(
    ("units", "found"),
    [([], ()), ([3], ((3, 3),)), ([0, 1, 2, 5, 7, 8], ((0, 2), (5, 5), (7, 8)))],
)
def test_stretches(units, found):
    assert stretches(units) == found
