"""A COCO file read in pieces is what it is when it is parsed as a whole; problems are all named."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntt_ray import coco_input, json_input
from ntt_ray.coco_input import (
    Annotation,
    Category,
    CocoFile,
    Image,
    ListedImage,
    TruthAnnotation,
    TruthCategory,
    TruthImage,
    check_results,
    checked_truth,
)
from ntt_ray.errors import InputError
from ntt_ray.json_input import parse_json
from tests.support.fuzzing import HOSTILE, changed, damaged, fuzz, nested

COCO = {
    "info": {"by": {"tool": [{"a": 1}]}, "text": "[{"},
    "licenses": [{"id": 1, "name": "\\"}],
    "images": [
        {"id": number, "file_name": f'{number}".png', "width": 60, "height": 50, "extra": [{}]}
        for number in (3, 1, 2)
    ],
    "annotations": [
        {
            "id": number,
            "image_id": 1,
            "category_id": 2,
            "bbox": [1, 2.5, 30, 4],
            "segmentation": [[1, 1, 9, 1, 9, 9]],
            "iscrowd": number % 2,
        }
        for number in range(7)
    ],
    "categories": [{"id": 2, "name": '}] \\" {'}],
}
MODELS = (
    ("images", Image),
    ("images", ListedImage),
    ("images", TruthImage),
    ("annotations", Annotation),
    ("annotations", TruthAnnotation),
    ("categories", Category),
    ("categories", TruthCategory),
)
PIECES = [
    b"NaN",
    b"1e999",
    b"9" * 30,
    b"[" * 300,
    b'"',
    b"\\",
    b"{",
    b"}",
    b"]",
    b'"\\ud800"',
    b"\0",
]
PIECES += [b'"images": [{"id": 4}], ', b'"id": 3, ', b"[{}]", b"\xff", b"\n\t ", b"5, "]


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch):
    monkeypatch.setattr(coco_input, "PIECE", 2)


def _seen(file):
    """Everything that a user sees of a file, so that two of them can be compared by their text."""
    lists = [file.items(key, model) for key, model in MODELS]
    shown = [
        found and (found.records, found.problems, [found.raw(n) for n in range(len(found.records))])
        for found in lists
    ]
    return repr((shown, file.get("info"), file.get("licenses"), file.get("none")))


def test_the_example_is_read_in_pieces():
    file = CocoFile.parse(json.dumps(COCO).encode())
    assert isinstance(file._source, json_input.JsonPieces)
    assert _seen(file) == _seen(CocoFile.of(COCO))
    assert file.items("annotations", Annotation).problems == {}
    assert file.get("licenses") == COCO["licenses"]


@fuzz(150)
@given(changed(COCO), st.sampled_from([None, 1]))
def test_in_pieces_and_as_a_whole_are_the_same(coco, indent):
    data = json.dumps(coco, indent=indent).encode()
    assert _seen(CocoFile.parse(data)) == _seen(CocoFile.of(json.loads(data)))


@fuzz(200)
@given(damaged(json.dumps(COCO).encode(), PIECES))
def test_damaged_files_are_refused_or_the_same(data):
    try:
        whole = CocoFile.of(json.loads(data))
    except (ValueError, RecursionError):
        whole = None
    try:
        found = _seen(CocoFile.parse(data))
    except (InputError, ValueError, RecursionError):
        assert whole is None
    else:
        assert whole is None or found == _seen(whole)


@fuzz(100)
@given(HOSTILE)
def test_json_is_parsed_as_by_the_standard_library(value):
    data = json.dumps(value).encode()
    assert repr(parse_json(data)) == repr(json.loads(data))


def test_a_key_that_is_used_twice_means_the_last():
    data = b'{"images": [{"id": 1}, {"id": 2}], "images": [{"id": 3, "id": 4}], "x": [1]}'
    items = CocoFile.parse(data).items("images", Image)
    assert [items.raw(n) for n in range(len(items.records))] == [{"id": 4}]


def test_a_damaged_file_is_refused_whoever_reads_it():
    data = json.dumps(COCO).replace("[[1, 1, 9,", "[[1, 1 9,").encode()
    with pytest.raises(ValueError, match="delimiter"):
        CocoFile.parse(data)


def test_all_problems_of_all_items():
    images = [{"id": True, "file_name": 5}, {"id": 1.0}, 7, {"id": 2**53, "file_name": "a"}]
    items = CocoFile.of({"images": images}).items("images", ListedImage)
    assert items.listed_problems("images") == [
        "images[0]: has no whole-number id",
        "images[0]: has no file_name",
        "images[1]: has no whole-number id",
        "images[1]: has no file_name",
        "images[2]: has no whole-number id",
        "images[3]: has no whole-number id of 9007199254740991 or less",
    ]


@pytest.mark.parametrize("value", [None, 5, [], {}, {"images": {}}, nested(60)])
def test_what_is_no_coco_file(value):
    assert CocoFile.of(value).items("images", Image) is None
    with pytest.raises(InputError, match="not a COCO file"):
        checked_truth(value)


def test_long_lists_of_problems_are_cut_off():
    with pytest.raises(InputError, match=r"annotations\[0\]: .*; and 36 more$"):
        checked_truth({"images": [], "categories": [], "annotations": [{"id": 1}] * 10 + [{}] * 4})


def test_results_are_named_with_all_their_problems():
    results = [{"image_id": 1, "category_id": "2"}, 5]
    with pytest.raises(InputError, match=r"r.json: result 1 has a wrong category_id; .*result 2"):
        check_results(results, "r.json")
