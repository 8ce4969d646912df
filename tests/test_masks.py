import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntt_ray import masks


def _mask(rows: list[str]) -> np.ndarray:
    return np.array([[c == "#" for c in row] for row in rows])


CASES = {
    "empty": (_mask(["...", "..."]), 0, [0, 0, 0, 0]),
    "full": (_mask(["###", "###"]), 6, [0, 0, 3, 2]),
    "first pixel": (_mask(["#..", "..."]), 1, [0, 0, 1, 1]),
    "last pixel": (_mask(["...", "..#"]), 1, [2, 1, 1, 1]),
    "one pixel wide": (_mask([".#.", ".#."]), 2, [1, 0, 1, 2]),
    "with a hole": (_mask(["###", "#.#", "###"]), 8, [0, 0, 3, 3]),
    "two parts": (_mask(["#...", "...#"]), 2, [0, 0, 4, 2]),
}


@pytest.mark.parametrize(("mask", "area", "box"), CASES.values(), ids=CASES.keys())
def test_area_box_and_round_trip(mask, area, box):
    rle = masks.encode_mask(mask)
    assert masks.rle_area(rle) == area
    assert masks.rle_bbox_xywh(rle) == box
    assert rle["counts"].isascii()
    np.testing.assert_array_equal(masks.decode_rle(rle), mask)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_round_trip_of_random_masks(height, width, density, seed):
    mask = np.random.default_rng(seed).random((height, width)) < density
    rle = masks.encode_mask(mask)
    np.testing.assert_array_equal(masks.decode_rle(rle), mask)
    # a compressed RLE is valid input too, and its runs add up
    assert masks.segmentation_to_rle(dict(rle), height, width) == rle
    figures = masks.measure_rles([rle["counts"]], [height], [width])
    assert not figures.problems
    assert figures.areas[0] == masks.rle_area(rle)
    assert figures.boxes_xywh[0].tolist() == masks.rle_bbox_xywh(rle)


def test_many_rles_are_measured_like_one_by_one():
    shapes = [(mask.shape, masks.encode_mask(mask)["counts"]) for mask, _, _ in CASES.values()]
    heights, widths = [h for (h, _), _ in shapes], [w for (_, w), _ in shapes]
    texts = [counts for _, counts in shapes]
    texts[2] = "o"  # a damaged one in the middle changes nothing for its neighbours
    figures = masks.measure_rles(texts, heights, widths)
    assert figures.problems == {2: "whose counts end in the middle of a number"}
    for index, (_, area, box) in enumerate(CASES.values()):
        if index != 2:
            assert figures.areas[index] == area
            assert figures.boxes_xywh[index].tolist() == box
    assert masks.measure_rles([], [], []).areas.shape == (0,)


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_a_part_is_encoded_as_the_whole(height, width, density, seed):
    rng = np.random.default_rng(seed)
    y1, x1 = rng.integers(0, height), rng.integers(0, width)
    y2, x2 = rng.integers(y1, height) + 1, rng.integers(x1, width) + 1
    mask = np.zeros((height, width), dtype=bool)
    mask[y1:y2, x1:x2] = rng.random((y2 - y1, x2 - x1)) < density
    found = masks.encode_part(mask[y1:y2, x1:x2], x1, y1, height, width)
    assert found == masks.encode_mask(mask)


def test_many_masks_are_encoded_like_one_by_one():
    many = np.random.default_rng(0).random((5, 17, 9)) < 0.4
    assert masks.encode_masks(many) == [masks.encode_mask(mask) for mask in many]


def test_overlap_shares_are_intersection_by_own_area():
    stack = np.random.default_rng(1).random((4, 20, 30)) < 0.5
    shares = masks.overlap_shares(masks.encode_masks(stack))
    for i in range(4):
        for j in range(4):
            assert shares[i, j] == (stack[i] & stack[j]).sum() / stack[i].sum()
    assert masks.overlap_shares([]).shape == (0, 0)


def test_mask_ious():
    a, b = masks.encode_masks(np.stack([CASES["full"][0], CASES["first pixel"][0]]))
    np.testing.assert_allclose(masks.mask_ious([a, b], [a]), [[1.0], [1 / 6]])
    assert masks.mask_ious([], [a]).shape == (0, 1)


def test_segmentation_forms_agree():
    polygon = [[1.0, 1.0, 5.0, 1.0, 5.0, 4.0, 1.0, 4.0]]
    from_polygon = masks.segmentation_to_rle(polygon, 6, 8)
    assert masks.rle_area(from_polygon) == 12
    runs = [7, 3, 3, 3, 3, 3, 3, 3, 20]  # 7 pixels before the first, then columns of 3
    assert masks.segmentation_to_rle({"size": [6, 8], "counts": runs}, 6, 8) == from_polygon
    assert masks.segmentation_to_rle(dict(from_polygon), 6, 8) == from_polygon


BAD = {
    "nothing": (None, "no mask"),
    "empty list": ([], "no mask"),
    "two points": ([[0, 0, 1, 1]], "three x, y pairs"),
    "odd count": ([[0, 0, 1, 1, 2, 2, 3]], "three x, y pairs"),
    "nan": ([[0, 0, 1, 1, float("nan"), 2]], "finite"),
    "words": ([[0, 0, 1, 1, "2", 2]], "finite"),
    "other size": ({"size": [4, 4], "counts": [16]}, "of size"),
    "runs too short": ({"size": [6, 8], "counts": [5]}, "5 pixels"),
    "negative run": ({"size": [6, 8], "counts": [50, -2]}, "0 or more"),
    "string too short": ({"size": [6, 8], "counts": "11"}, "pixels"),
    "string cut off": ({"size": [6, 8], "counts": "o"}, "middle of a number"),
    "string with odd character": ({"size": [6, 8], "counts": "\x7f"}, "invalid character"),
    "string with a number too long": ({"size": [6, 8], "counts": "PPPPPPP0"}, "more than 6"),
    "string with a negative run": ({"size": [6, 8], "counts": "`1O"}, "negative run"),
    "empty string": ({"size": [6, 8], "counts": ""}, "without counts"),
    "no counts": ({"size": [6, 8]}, "neither"),
}


@pytest.mark.parametrize(("segmentation", "text"), BAD.values(), ids=BAD.keys())
def test_bad_segmentations_are_refused(segmentation, text):
    with pytest.raises(ValueError, match=text):
        masks.segmentation_to_rle(segmentation, 6, 8)


def _zigzag(points: int, side: int) -> list[float]:
    """A polygon that goes from one side of its image to the other with every point."""
    return [v for i in range(points) for v in (side * (i % 2), i % side)]


ABSURD = """
import json, resource, sys
from ntt_ray import masks
resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))
try:
    masks.{function}(json.load(sys.stdin), 20_000, 20_000)
except ValueError as error:
    print(error)
"""


def _in_a_process(function: str, segmentation: str) -> subprocess.CompletedProcess[str]:
    code = ABSURD.format(function=function)
    command = [sys.executable, "-c", code]
    return subprocess.run(command, input=segmentation, capture_output=True, text=True)


@pytest.mark.slow
def test_polygons_that_would_end_the_process_are_refused():
    text = json.dumps([_zigzag(50_000, 20_000)])
    assert len(text) < 600_000
    done = _in_a_process("segmentation_to_rle", text)
    assert done.returncode == 0, done.stderr
    assert "has polygons of 50,000 points whose outline is 1,000,050,000 pixels" in done.stdout
    assert _in_a_process("rasterise", text).returncode != 0


def test_long_outlines_are_refused_and_those_of_people_are_not(monkeypatch):
    monkeypatch.setattr(masks, "MAX_OUTLINE", 1000)
    square = [[1, 1, 201, 1, 201, 201, 1, 201]]  # 800 pixels, and one for each point
    assert masks.rle_area(masks.segmentation_to_rle(square, 300, 300)) == 200 * 200
    with pytest.raises(ValueError, match=r"outline is 1,608 pixels long, more than 1,000; simpl"):
        masks.segmentation_to_rle(square * 2, 300, 300)


def test_a_shore_of_a_hundred_thousand_points_is_a_mask():
    angle = np.linspace(0, 2 * np.pi, 100_000, endpoint=False)
    radius = 8000 + 500 * np.sin(40 * angle) + np.random.default_rng(0).uniform(-20, 20, 100_000)
    shore = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1) + 9000
    area = masks.rle_area(masks.segmentation_to_rle([shore.ravel().tolist()], 18_000, 18_000))
    assert area == pytest.approx(np.pi * 8000**2, rel=0.01)


def test_many_polygons_are_one_mask_in_few_passes(monkeypatch):
    """Each is gone through once on each of four levels, and not with all before it."""
    merge, merged = masks.coco_mask.merge, []

    def counted(rles):
        merged.append([len(rle["counts"]) for rle in rles])
        return merge(rles)

    monkeypatch.setattr(masks.coco_mask, "merge", counted)
    corners, places = np.array([0, 0, 9, 0, 0, 9]), range(0, 2000, 20)
    polygons = [(corners + [x, y] * 3).tolist() for x in places for y in places]
    whole = masks.rle_area(masks.rasterise(polygons, 2000, 2000))
    once = sum(map(sum, merged[: len(polygons) // 16]))
    assert sum(map(sum, merged)) < 4 * once
    assert max(map(len, merged)) == 16
    assert whole == 10_000 * masks.rle_area(masks.rasterise(polygons[:1], 2000, 2000))


def test_decoding_in_boxes():
    stack = np.zeros((4, 7, 9), dtype=bool)
    stack[0, 2:5, 3:8] = True
    stack[0, 3, 4] = False
    stack[1] = True
    stack[2, 6, 8] = stack[2, 0, 0] = True
    stack[3, :, 2] = stack[3, 3, 5] = True
    counts = [rle["counts"] for rle in masks.encode_masks(stack)]
    drawn = np.zeros_like(stack)
    for mask, (pixels, x, y) in zip(
        drawn, masks.decode_in_boxes(counts, [7] * 4, [9] * 4), strict=True
    ):
        assert pixels.any(axis=0)[[0, -1]].all()
        assert pixels.any(axis=1)[[0, -1]].all()
        mask[y : y + pixels.shape[0], x : x + pixels.shape[1]] = pixels
    np.testing.assert_array_equal(drawn, stack)
    with pytest.raises(ValueError, match="without a pixel"):
        list(masks.decode_in_boxes([masks.encode_mask(np.zeros((7, 9), bool))["counts"]], [7], [9]))
    with pytest.raises(ValueError, match="of 63 pixels, not 9 x 9"):
        list(masks.decode_in_boxes(counts, [9] * 4, [9] * 4))
