"""A typo in what comes after labelling is found before it."""

import json

import pytest

from ntt_ray.config import build_config
from ntt_ray.errors import InputError
from ntt_ray.evaluate import ahead
from ntt_ray.evaluate.ahead import check_ahead
from ntt_ray.records import ClassLabel
from ntt_ray.storage import Storage

CLASSES = (ClassLabel(1, "nut"), ClassLabel(2, "bolt"))


def _check(**settings):
    base = {"images": "/photos", "output": "/out", "bank": "/bank"}
    return check_ahead(build_config({**base, **settings}), CLASSES, Storage())


def _file(path, content) -> str:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def test_what_fits_is_accepted(tmp_path):
    _check()
    truth = {"images": [], "annotations": [], "categories": [{"id": 5, "name": "nut"}]}
    _check(
        ground_truth=_file(tmp_path / "t.json", truth),
        merge={
            "classes": ["nut"],
            "rename": {"nut": "Nut"},
            "calibration": _file(tmp_path / "c.json", {"thresholds": {"bolt": 0.5}}),
        },
    )


@pytest.mark.parametrize(
    ("merge", "said"),
    [
        ({"classes": ["nutt"]}, r"merge\.classes: nutt: .*did you mean 'nut'"),
        ({"rename": {"screw": "x"}}, r"merge\.rename: screw"),
        ({"calibration": "/c.json"}, r"merge\.calibration: /c\.json: no such file"),
    ],
)
def test_what_merging_would_refuse(merge, said):
    with pytest.raises(InputError, match=said):
        _check(merge=merge)


def test_a_merge_that_does_not_write_what_is_evaluated(tmp_path):
    truth = {"images": [], "annotations": [], "categories": [{"id": 5, "name": "nut"}]}
    file = _file(tmp_path / "t.json", truth)
    with pytest.raises(InputError, match=r"merge\.profiles: .* add coco-results"):
        _check(ground_truth=file, merge={"profiles": ["coco"]})
    _check(ground_truth=file, merge={"profiles": ["coco", "coco-results"]})
    _check(merge={"profiles": ["coco"]})


def test_a_calibration_of_other_classes(tmp_path):
    with pytest.raises(InputError, match="screw"):
        _check(merge={"calibration": _file(tmp_path / "c.json", {"thresholds": {"screw": 0.5}})})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "JSON"),
        (
            {"images": [], "annotations": [], "categories": [{"id": 1, "name": "Nut"}]},
            "none of the run's classes is in it; it has Nut",
        ),
    ],
)
def test_a_ground_truth_that_does_not_fit(tmp_path, content, said):
    with pytest.raises(InputError, match=said):
        _check(ground_truth=_file(tmp_path / "t.json", content))


def test_a_large_ground_truth_is_only_looked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(ahead, "READ_BYTES", 0)
    _check(ground_truth=_file(tmp_path / "t.json", "{"))


def test_a_ground_truth_of_other_images(tmp_path):
    """One image in common is enough; the names come in batches."""
    truth = {
        "images": [{"id": 1, "file_name": "train/a.jpg", "width": 4, "height": 3}],
        "annotations": [],
        "categories": [{"id": 5, "name": "nut"}],
    }
    check_names = _check(ground_truth=_file(tmp_path / "t.json", truth))
    check_names(iter([["a.jpg"], ["b.jpg", "train/a.jpg"]]))
    said = "none of the run's images is in it.*the run has 'a.jpg'.*ground truth 'train/a.jpg'"
    with pytest.raises(InputError, match=said):
        check_names(iter([["a.jpg", "b.jpg"]]))


def test_names_are_not_asked_for_without_a_ground_truth():
    def names():
        raise AssertionError
        yield []

    _check()(names())
