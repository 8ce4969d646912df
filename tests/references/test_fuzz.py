"""Whatever a COCO reference file says: it is a set of references, or one clean error."""

import json
import tempfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntt_ray.errors import InputError, ReferencesError
from ntt_ray.masks import decode_rle, encode_mask, rle_area, segmentation_to_rle
from ntt_ray.references.dataset import load_references, parse_references
from ntt_ray.storage import Storage
from tests.support.fuzzing import HOSTILE, changed, damaged, fuzz, nested, tried

HEIGHT, WIDTH = 60, 80
POLYGON = [12, 11, 52, 11, 52, 47, 12, 47]
MASK = np.zeros((HEIGHT, WIDTH), dtype=bool)
MASK[11:47, 12:52] = True
RLE = dict(encode_mask(MASK))
RUNS = {"size": [HEIGHT, WIDTH], "counts": [12 * HEIGHT + 11, 36, HEIGHT * WIDTH - 767]}
COCO = {
    "info": {},
    "images": [
        {"id": number, "file_name": f"{number}.png", "width": WIDTH, "height": HEIGHT}
        for number in (1, 2, 3)
    ],
    "categories": [{"id": 3, "name": "bolt"}, {"id": 1, "name": "nut", "supercategory": "x"}],
    "annotations": [
        {
            "id": 10 + number,
            "image_id": 1 + number % 3,
            "category_id": 1 + 2 * (number % 2),
            "bbox": [12, 11, 40, 36],
            "area": 1440.0,
            "iscrowd": 0,
            "segmentation": [[POLYGON], RLE, RUNS][number % 3],
        }
        for number in range(4)
    ],
}
CHOICES = st.fixed_dictionaries(
    {},
    optional={
        "shots": st.sampled_from([None, 1, 2, 50]),
        "classes": st.sampled_from([None, ("bolt",), ("nut", "bolt"), ("",), ()]),
    },
)
SNIPPETS = [
    b"NaN", b"Infinity", b"-Infinity", b"1e999", b"9" * 30, b"9" * 5000, b"[" * 2000, b"null", b'"',
    b"{", b"}", b"]", b",", b"-", b"0.5", b'"\\ud800"', b"true", b"\0", b"\xff", b'"id": 11, ',
]  # fmt: skip


def parsed(coco, **choice):
    """The references of a COCO object, or None where it was refused cleanly."""
    references = tried(
        lambda: parse_references(coco, image_root="/data", **choice), ReferencesError, InputError
    )
    for reference in references.references if references else ():  # what was accepted can be used
        assert decode_rle(reference.rle).shape == reference.size_hw
        assert rle_area(reference.rle) > 0
    return references


def test_the_example_is_valid():
    assert len(parsed(COCO).references) == 4
    assert len(parsed(COCO, shots=1).references) == 2


@fuzz(250)
@given(changed(COCO), CHOICES)
def test_objects(coco, choice):
    parsed(coco, **choice)


@fuzz(60)
@given(HOSTILE)
def test_anything(coco):
    assert parsed(coco) is None


@fuzz(120)
@given(damaged(json.dumps(COCO).encode(), SNIPPETS))
def test_files(data):
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        file.write(data)
        file.flush()
        tried(lambda: load_references(file.name, "/data", Storage()), ReferencesError, InputError)


COUNTS = st.one_of(
    st.text(st.characters(min_codepoint=40, max_codepoint=120), max_size=24),
    st.lists(
        st.integers(-5, HEIGHT * WIDTH) | st.sampled_from([2**31, 2**32, 2**63, 0.5]), max_size=6
    ),
    damaged(RLE["counts"].encode(), [b"P" * 9, b"o" * 7, b"O", b"0"]).map(
        lambda b: b.decode("latin-1")
    ),
    st.binary(max_size=6),
    HOSTILE,
)
POINTS = st.lists(
    st.integers(-(10**4), 10**4)
    | st.floats()
    | st.sampled_from([2**31, 2**63, 10**400, True, "1", None]),
    max_size=12,
)
SEGMENTATIONS = st.one_of(
    st.fixed_dictionaries({"size": st.just([HEIGHT, WIDTH]), "counts": COUNTS}),
    st.fixed_dictionaries({"size": HOSTILE, "counts": COUNTS}),
    st.lists(POINTS, max_size=4),
    changed([POLYGON, [1, 1, 9, 1, 9, 9]]),
    changed(RLE),
    changed(RUNS),
    HOSTILE,
)


@fuzz(400)
@given(SEGMENTATIONS)
def test_segmentations(segmentation):
    rle = tried(lambda: segmentation_to_rle(segmentation, HEIGHT, WIDTH), ValueError)
    if rle is not None:
        assert rle["size"] == [HEIGHT, WIDTH]
        assert decode_rle(rle).sum() == rle_area(rle)


def _annotation(**changes):
    return {"images": COCO["images"], "categories": [{"id": 1, "name": "nut"}]} | {
        "annotations": [{**COCO["annotations"][0], **changes}]
    }


def _image(**changes):
    return {**_annotation(), "images": [{**COCO["images"][0], **changes}]}


REFUSED = {
    "a polygon far outside": (
        _annotation(segmentation=[[0, 0, 2_000_000_000, 0, 9, 9]]),
        "lies far outside",
    ),
    "a polygon of huge numbers": (_annotation(segmentation=[[10**400] * 6]), "not a finite number"),
    "a point too few": (_annotation(segmentation=[[1, 1, 2, 2]]), "three x, y pairs"),
    "polygons nested once more": (_annotation(segmentation=[[POLYGON]]), "three x, y pairs"),
    "runs that end beyond": (
        _annotation(segmentation={"size": [HEIGHT, WIDTH], "counts": "o" * 6 + "0"}),
        "more than 6 characters",
    ),
    "an infinite size": (
        _annotation(segmentation={"size": [float("inf"), WIDTH], "counts": [1]}),
        "of size",
    ),
    "an image of impossible size": (_image(width=2**40, height=2**40), "more pixels than"),
    "an id beyond COCO": (_annotation(id=2**63), "whole-number id"),
    "an image id beyond COCO": (_image(id=2**53), "whole-number id"),
    "a class id that does not fit": (
        {**COCO, "categories": [{"id": 2**31, "name": "nut"}]},
        "whole-number id",
    ),
    "a huge box": (_annotation(bbox=[0, 0, 10**400, 1]), "bbox is not"),
    "a file name with a NUL": (_image(file_name="a\0.png"), "NUL"),
    "a class name that is half a character": (
        {**_annotation(), "categories": [{"id": 1, "name": "\ud800"}]},
        "name",
    ),
}


@pytest.mark.parametrize(("coco", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_refused_with_the_reason(coco, message):
    with pytest.raises(ReferencesError, match=message):
        parse_references(coco, image_root="/data")


FILES = {
    "deep nesting": "[" * 100_000,
    "deep nesting that ends": json.dumps({"images": nested(900)}),
    "a number without end": '{"images": ' + "9" * 5000 + "}",
    "half a character": b'{"images": "\xed\xa0\x80"}',
    "nothing": "",
    "a NUL": "\0",
}


@pytest.mark.parametrize("text", FILES.values(), ids=FILES.keys())
def test_files_refused(tmp_path, text):
    path = tmp_path / "refs.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises((InputError, ReferencesError)):
        load_references(str(path), None, Storage())
