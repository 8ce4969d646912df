import copy

import numpy as np
import pytest

from ntt_ray.errors import InputError
from ntt_ray.evaluate.evaluation import evaluate
from ntt_ray.masks import encode_mask
from ntt_ray.records import ClassLabel
from tests.support.rectangles import CLASSES, NAMES, PERFECT, TRUTH, result_of, truth_of


def test_perfect_results_with_other_ids():
    metrics = evaluate(TRUTH, PERFECT, NAMES, CLASSES)
    for kind in ("bbox", "segm"):
        assert metrics[kind]["AP"] == pytest.approx(1.0)
        assert metrics[kind]["AR100"] == pytest.approx(1.0)
        assert metrics[kind]["APl"] is None  # there is no large object
        assert metrics["per_class"]["bolt"][kind]["AP50"] == pytest.approx(1.0)
    assert metrics["images"] == 3
    assert metrics["instances"] == 2  # "other" is not one of the run's classes
    assert metrics["false_alarms"]["share"] == 0.0
    assert metrics["false_alarms"]["score"] == 0.8
    assert metrics["false_alarms"]["images_without_objects"] == 1


def test_swapped_classes_are_worth_nothing():
    swapped = [{**r, "category_id": 3 - r["category_id"]} for r in PERFECT]
    assert evaluate(TRUTH, swapped, NAMES, CLASSES)["segm"]["AP"] == 0.0


def test_a_false_alarm_counts_only_above_the_best_score():
    low = result_of(12, 1, (1, 1, 9, 9), 0.1)
    assert evaluate(TRUTH, [*PERFECT, low], NAMES, CLASSES)["false_alarms"]["share"] == 0.0
    high = {**low, "score": 0.85}
    alarms = evaluate(TRUTH, [*PERFECT, high], NAMES, CLASSES)["false_alarms"]
    assert alarms["share"] == 1.0
    assert alarms["images_with_false_alarm"] == 1
    assert alarms["best_f1"] == pytest.approx(0.8)
    assert (alarms["precision"], alarms["recall"]) == (pytest.approx(2 / 3), 1.0)


def test_a_false_alarm_with_just_the_best_score_counts():
    metrics = evaluate(TRUTH, [*PERFECT, result_of(12, 2, (1, 1, 9, 9), 0.8)], NAMES, CLASSES)
    assert metrics["false_alarms"]["score"] == 0.8
    assert metrics["false_alarms"]["share"] == 1.0
    own = metrics["per_class"]["bolt"]["false_alarms"]
    assert own == {"images": 2, "with_false_alarm": 1, "share": 0.5}


def test_what_is_missed_lowers_the_recall_alone():
    alarms = evaluate(TRUTH, PERFECT[:1], NAMES, CLASSES)["false_alarms"]
    assert (alarms["precision"], alarms["recall"]) == (1.0, 0.5)
    assert alarms["best_f1"] == pytest.approx(2 / 3)


def test_false_alarms_of_a_class_are_in_images_without_it():
    """Nut is in the first image, bolt in the second; the third has neither."""
    metrics = evaluate(TRUTH, [*PERFECT, result_of(11, 1, (1, 1, 9, 9), 0.85)], NAMES, CLASSES)
    assert metrics["false_alarms"]["score"] == 0.8
    own = {name: figures["false_alarms"] for name, figures in metrics["per_class"].items()}
    assert own["nut"] == {"images": 2, "with_false_alarm": 1, "share": 0.5}
    assert own["bolt"] == {"images": 2, "with_false_alarm": 0, "share": 0.0}
    assert metrics["false_alarms"]["class_share"] == 0.25
    assert metrics["false_alarms"]["share"] == 0.0  # of the image without any object


def test_a_wrong_place_in_an_image_with_the_class_is_no_false_alarm():
    found = [*PERFECT, result_of(10, 1, (40, 40, 9, 9), 0.85)]
    own = evaluate(TRUTH, found, NAMES, CLASSES)["per_class"]["nut"]["false_alarms"]
    assert own["with_false_alarm"] == 0


def test_a_crowd_region_holds_its_class():
    truth = copy.deepcopy(TRUTH)
    truth["annotations"].append({**truth["annotations"][0], "id": 9, "image_id": 3, "iscrowd": 1})
    found = [*PERFECT, result_of(12, 1, (40, 40, 9, 9), 0.85)]
    own = evaluate(truth, found, NAMES, CLASSES)["per_class"]["nut"]["false_alarms"]
    assert own == {"images": 1, "with_false_alarm": 0, "share": 0.0}


def test_a_class_in_every_image_has_no_share():
    boxes = [(5, 5, 20, 20), (30, 10, 20, 30), (10, 10, 20, 20)]
    truth = truth_of([(image, 5, box) for image, box in enumerate(boxes, start=1)])
    found = [result_of(9 + image, 1, box, 0.9) for image, box in enumerate(boxes, start=1)]
    metrics = evaluate(truth, found, NAMES, [CLASSES[0]])
    own = metrics["per_class"]["nut"]["false_alarms"]
    assert own == {"images": 0, "with_false_alarm": 0, "share": None}
    assert metrics["false_alarms"]["share"] is None
    assert metrics["false_alarms"]["class_share"] is None


def test_lvis_has_false_alarms_only_where_a_class_was_looked_for():
    truth = copy.deepcopy(TRUTH)
    for image, absent in zip(truth["images"], ([], [5], []), strict=True):
        image |= {"neg_category_ids": absent, "not_exhaustive_category_ids": []}
    found = [*PERFECT, result_of(11, 1, (1, 1, 9, 9), 0.85), result_of(12, 1, (1, 1, 9, 9), 0.85)]
    own = evaluate(truth, found, NAMES, CLASSES)["per_class"]["nut"]["false_alarms"]
    assert own == {"images": 1, "with_false_alarm": 1, "share": 1.0}


def test_no_detection_at_all():
    metrics = evaluate(TRUTH, [], NAMES, CLASSES)
    assert metrics["segm"]["AP"] == 0.0
    assert metrics["false_alarms"]["score"] is None
    assert metrics["false_alarms"]["class_share"] is None
    assert "false_alarms" not in metrics["per_class"]["nut"]


def test_boxes_are_judged_as_boxes_and_masks_as_masks():
    frame = np.zeros((50, 60), dtype=bool)
    frame[5:25, 5:25] = True
    frame[7:23, 7:23] = False
    result = {**PERFECT[0], "segmentation": encode_mask(frame)}
    metrics = evaluate(TRUTH, [result], NAMES, CLASSES)
    assert metrics["per_class"]["nut"]["bbox"]["AP"] == pytest.approx(1.0)
    assert metrics["per_class"]["nut"]["segm"]["AP"] == 0.0


def test_images_outside_the_ground_truth_are_counted():
    metrics = evaluate(TRUTH, PERFECT, {**NAMES, 13: "d.jpg"}, CLASSES)
    assert metrics["images_not_in_ground_truth"] == 1
    assert metrics["segm"]["AP"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("truth", "names", "classes", "text"),
    [
        ([], NAMES, CLASSES, "not a COCO file"),
        (TRUTH, {1: "z.jpg"}, CLASSES, "none of the run's images"),
        (TRUTH, NAMES, [ClassLabel(1, "zebra")], "none of the run's classes"),
    ],
    ids=["form", "images", "classes"],
)
def test_nothing_in_common(truth, names, classes, text):
    with pytest.raises(InputError, match=text):
        evaluate(truth, PERFECT, names, classes)


def test_objects_without_an_area_have_that_of_their_mask():
    truth = copy.deepcopy(TRUTH)
    for annotation in truth["annotations"]:
        annotation.pop("area", None)
        annotation["bbox"] = [0.0, 0.0, 100.0, 100.0]  # large; its mask is not
    metrics = evaluate(truth, PERFECT, NAMES, CLASSES)
    assert metrics["segm"]["APl"] is None
    assert metrics["segm"]["AP"] == pytest.approx(1.0)


def test_objects_without_an_area_or_a_mask_have_that_of_their_box():
    truth = truth_of([(1, 5, (5, 5, 50, 20)), (2, 5, (5, 5, 20, 45))])  # 1000 and 900 pixels
    for annotation in truth["annotations"]:
        del annotation["area"], annotation["segmentation"]
    boxes = evaluate(truth, PERFECT, NAMES, CLASSES)["bbox"]
    assert boxes["APs"] is not None  # below 32 x 32
    assert (boxes["APm"], boxes["APl"]) == (None, None)


@pytest.mark.parametrize(("block", "key"), [("images", "file_name"), ("categories", "name")])
def test_names_that_are_used_twice_are_refused(block, key):
    """One of both would be taken, and the objects of the other would count as missed or wrong."""
    truth = copy.deepcopy(TRUTH)
    name = truth[block][0][key]
    truth[block].append({**truth[block][0], "id": 999})
    with pytest.raises(InputError, match=rf"{block}: the name '{name}' is used 2 times"):
        evaluate(truth, PERFECT, NAMES, CLASSES)
