import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntt_ray.errors import InputError
from ntt_ray.evaluate.average_precision import Selection
from ntt_ray.evaluate.evaluation import evaluate_classes
from ntt_ray.evaluate.semantic import semantic_metrics
from ntt_ray.masks import encode_mask, rle_area
from ntt_ray.merge.thresholds import Thresholds
from ntt_ray.records import ClassLabel
from tests.support.fuzzing import fuzz
from tests.support.rectangles import CLASSES, PERFECT, TRUTH
from tests.support.rectangles import NAMES as RUN_NAMES

NAMES = {5: "nut", 9: "bolt"}
IMAGE = {"id": 1, "file_name": "a.png", "width": 4, "height": 2}


def mask(text):
    return encode_mask(np.array([[c == "#" for c in row] for row in text.split()]))


def figures(objects, found, min_score=0.5, crowds=()):
    truth = [
        {"image_id": 1, "category_id": c, "segmentation": mask(m), "iscrowd": crowd}
        for items, crowd in ((objects, 0), (crowds, 1))
        for c, m in items
    ]
    detections = [
        {"image_id": 1, "category_id": c, "segmentation": mask(m), "score": s} for c, m, s in found
    ]
    selection = Selection({"images": [IMAGE], "annotations": truth}, detections)
    return semantic_metrics(selection, NAMES, min_score)


def test_nothing_anywhere():
    found = figures([], [])
    assert found == {"mIoU": None, "FBIoU": 1.0, "classes": {"nut": None, "bolt": None}}


def test_no_detection():
    found = figures([(5, "##.. ....")], [])
    assert found["mIoU"] == 0.0
    assert found["FBIoU"] == pytest.approx((0 + 6 / 8) / 2)


def test_two_classes():
    found = figures(
        [(5, "##.. ##.."), (9, "...# ...#")],
        [(5, "#... #...", 0.9), (9, "..## ..##", 0.8), (5, "#### ####", 0.1)],
    )
    assert found["classes"] == {"nut": 0.5, "bolt": 0.5}
    assert found["mIoU"] == 0.5
    assert found["FBIoU"] == pytest.approx((4 / 8 + 0) / 2)


def test_the_best_score_is_on_top_and_small_objects_are_seen():
    found = figures(
        [(9, "#... ...."), (5, "#### ####")], [(9, "#... ....", 0.9), (5, "#### ####", 0.8)]
    )
    assert found["mIoU"] == 1.0


def test_a_class_taken_for_another_is_wrong_in_both_but_foreground():
    found = figures([(5, "##.. ##..")], [(9, "##.. ##..", 0.9)])
    assert found["mIoU"] == 0.0
    assert found["FBIoU"] == 1.0


def test_crowd_regions_are_neither_right_nor_wrong():
    objects, crowds = [(5, "##.. ....")], [(5, ".### ....")]
    for detected in ("##.. ....", "###. ....", "#### ...."):
        found = figures(objects, [(5, detected, 0.9)], crowds=crowds)
        assert found["mIoU"] == 1.0, detected
        assert found["FBIoU"] == 1.0
    missed = figures(objects, [(5, "#... ....", 0.9)], crowds=crowds)
    assert missed["mIoU"] == 0.5  # an object on a crowd region is to be found
    assert figures([], [(5, "#... ....", 0.9)], crowds=[(9, "#... ....")])["mIoU"] is None


def test_a_mask_of_another_size():
    with pytest.raises(InputError, match=r"a.png has 4 x 2 pixels, a mask found in it 2 x 1"):
        figures([], [(5, "##", 0.9)])


def test_boxes_have_no_class_map():
    truth = {
        "images": [IMAGE],
        "categories": [{"id": 5, "name": "nut"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 5, "bbox": [0, 0, 2, 2]}],
    }
    with pytest.raises(InputError, match="boxes only"):
        evaluate_classes(truth, [], {1: "a.png"}, [ClassLabel(5, "nut")], Thresholds(0.5))


@st.composite
def masks(draw):
    bits = draw(st.lists(st.booleans(), min_size=8, max_size=8))
    return " ".join("".join("#" if b else "." for b in bits[i : i + 4]) for i in (0, 4))


@fuzz(60)
@given(
    st.lists(st.tuples(st.sampled_from([5, 9]), masks()), max_size=3),
    st.lists(st.tuples(st.sampled_from([5, 9]), masks(), st.floats(0.5, 1)), max_size=3),
)
def test_equals_a_plain_count(objects, found):
    def painted(items):
        labels = np.zeros((2, 4), dtype=int)
        for category, text in items:
            labels[np.array([[c == "#" for c in row] for row in text.split()])] = category
        return labels

    a = painted(sorted(objects, key=lambda o: -rle_area(mask(o[1]))))
    # of equal scores the first is on top
    drawn = sorted(enumerate(found), key=lambda item: (item[1][2], -item[0]))
    b = painted([(c, m) for _, (c, m, _) in drawn])
    for category, name in NAMES.items():
        union = ((a == category) | (b == category)).sum()
        expected = ((a == category) & (b == category)).sum() / union if union else None
        assert figures(objects, found)["classes"][name] == (
            None if expected is None else pytest.approx(expected)
        )


@pytest.mark.parametrize(("threshold", "kept"), [(0.5, 1.0), (0.75, 1.0), (0.78, 0.0)])
def test_what_has_just_the_threshold_of_a_merge_is_in_its_class_maps(threshold, kept):
    found = [{**result, "score": 0.75} for result in PERFECT]
    own = Thresholds(0.5, {1: threshold})
    classes = evaluate_classes(TRUTH, found, RUN_NAMES, CLASSES, own)["classes"]
    assert classes == {"nut": kept, "bolt": 1.0}


def test_of_equal_scores_the_first_is_on_top_as_in_class_maps():
    objects = [(9, "#... ...."), (5, "#### ####")]
    found = figures(objects, [(9, "#... ....", 0.9), (5, "#### ####", 0.9)])
    assert found["mIoU"] == 1.0
