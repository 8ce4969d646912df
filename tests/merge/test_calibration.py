"""calibration.json: what is read, refused and written."""

import json

import pytest

from ntt_ray.errors import InputError
from ntt_ray.merge.calibration import Calibration, ClassEvidence, calibrated, unlike_run
from ntt_ray.merge.thresholds import Thresholds
from ntt_ray.records import ClassLabel
from ntt_ray.run.identity import scores_content

CLASSES = [ClassLabel(1, "nut"), ClassLabel(2, "bolt"), ClassLabel(7, "washer")]
URI = "s3://key:secret@bucket/calibration.json"


def test_a_file_written_by_hand_needs_thresholds_only():
    written = {"thresholds": {"bolt": 0.9, "nut": 0}, "made": "by hand"}
    found = calibrated(Calibration.parse(written, URI), URI, CLASSES, 0.4)
    assert found == Thresholds(0.4, {1: 0.0, 2: 0.9})


def test_written_and_read_it_is_the_same():
    evidence = ClassEvidence(
        images=3,
        objects=5,
        judged_detections=4,
        right_detections=2,
        expected_precision=0.5,
        expected_recall=None,
        precision_range=(0.25, 0.75),
        recall_range=None,
        enough_references=True,
    )
    made = Calibration(bank="abc", thresholds={"nut": 0.5}, classes={"nut": evidence})
    content = json.loads(made.to_bytes())
    assert content["format_version"] == 1
    assert content["classes"]["nut"]["precision_range"] == [0.25, 0.75]
    assert Calibration.parse(content, URI) == made
    del content["format_version"]
    assert Calibration.parse(content, URI) == made


def test_other_settings_than_those_of_the_labels_are_named():
    made_with = {"method": {"nms_iou": 0.5}, "decode": {"orientation": "upright"}}
    made = Calibration(bank="a" * 64, made_with=made_with, thresholds={})
    assert unlike_run(made, "a" * 64, made_with) == []
    other = {"method": {"nms_iou": 0.7}, "decode": {"orientation": "upright"}}
    found = unlike_run(made, "b" * 64, other)
    assert found == [
        f"bank: {'a' * 12} there, {'b' * 12} here",
        "method.nms_iou: 0.5 there, 0.7 here",
    ]
    by_hand = Calibration(thresholds={"nut": 0.5})
    assert unlike_run(by_hand, "b" * 64, other) == []


def test_scores_depend_on_neither_images_nor_the_device_nor_what_is_kept():
    models = {"encoder": {"checkpoint": "e"}, "proposer": {"checkpoint": "p"}}
    identity = {
        "models": {**models, "precision": "bf16", "device": "cuda", "compile": True},
        "decode": {},
        "method": {"nms_iou": 0.5},
        "images": "s3://bucket/",
        "manifest": "m",
        "bank": "b",
        "job": {"images_per_unit": 4},
        "proposals": {"keep": True, "max_iou": 0.9},
    }
    found = scores_content(identity)
    assert found == {"models": models, "decode": {}, "method": {"nms_iou": 0.5}}
    asked = {"grid": False, "boxes": {"sha256": "x", "per_image": 30}}
    assert scores_content({**identity, "proposals": asked}) == {**found, "proposals": asked}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "a calibration is"),
        ({"thresholds": []}, "a calibration is"),
        ({"thresholds": {}, "format_version": 2}, "format_version: Input should be 1"),
        ({"thresholds": {"nut": 2, "bolt": -1}}, r"nut: 2 is no score .*; thresholds\.bolt: -1"),
        ({"thresholds": {"nut": 1, "a": 1, "b": 0}}, r"thresholds\.a: .*; thresholds\.b: "),
        ({"nut": 0.5}, "a calibration is"),
        ({"thresholds": {"nutt": 0.5}}, "no such class; did you mean 'nut'?"),
        ({"thresholds": {"nut": 1.5}}, r"thresholds\.nut: 1\.5 is no score"),
        ({"thresholds": {"nut": True}}, "True is no score"),
        ({"thresholds": {"nut": "0.5"}}, "'0.5' is no score"),
        ({"thresholds": {"nut": float("nan")}}, "nan is no score"),
    ],
    ids=[
        "a list",
        "listed",
        "later",
        "two scores",
        "two classes",
        "flat",
        "unknown class",
        "too large",
        "bool",
        "text",
        "nan",
    ],
)
def test_what_is_no_calibration_is_refused(content, message):
    with pytest.raises(InputError, match=message) as caught:
        calibrated(Calibration.parse(content, URI), URI, CLASSES, 0.4)
    assert "secret" not in str(caught.value)
