"""Our figures against pycocotools' own summaries, and against faster-coco-eval."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntt_ray.evaluate.average_precision import Selection, matched, tables
from ntt_ray.evaluate.evaluation import evaluate
from ntt_ray.records import ClassLabel
from tests.support.ellipses import BOX, LARGE, SMALL, official, results_of, truth_of
from tests.support.fuzzing import fuzz


def ours(truth, results, evaluator="pycocotools"):
    names = {image["id"]: image["file_name"] for image in truth["images"]}
    classes = [ClassLabel(c["id"], c["name"]) for c in truth["categories"]]
    return evaluate(truth, results, names, classes, evaluator=evaluator)


def assert_agreement(truth, results, evaluator="pycocotools"):
    metrics = ours(truth, results, evaluator)
    for kind in ("bbox", "segm"):
        for name, value in official(truth, results, kind).items():
            found = metrics[kind][name]
            assert (value == -1) == (found is None), (kind, name)
            if found is not None:
                assert abs(found - value) <= 1e-6, (kind, name, found, value)


boxes = st.tuples(st.integers(0, 50), st.integers(0, 50), st.integers(2, 70), st.integers(2, 70))
SCORES = st.one_of(st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.floats(0, 1, width=32))


@st.composite
def scenes(draw):
    """Objects, and detections that are often one of them, a little off, or in another class."""
    images = draw(st.integers(1, 4))
    ids, classes = st.integers(1, images), st.integers(1, 3)
    objects = draw(st.lists(st.tuples(ids, classes, boxes, st.booleans()), max_size=12))
    found = draw(st.lists(st.tuples(ids, classes, boxes, SCORES), max_size=8))
    for image, category, (x, y, w, h), _ in objects:
        if draw(st.booleans()):
            near = (x + draw(st.integers(0, 3)), y, max(2, w + draw(st.integers(-4, 4))), h)
            found.append((image, category, near, draw(SCORES)))
    return truth_of(objects, images), results_of(found)


@fuzz(60)
@given(scenes())
def test_agrees_with_pycocotools(scene):
    assert_agreement(*scene)


DEGENERATE = {
    "no detections": ([(1, 1, BOX, False)], []),
    "no truth": ([], [(1, 1, BOX, 0.5)]),
    "nothing at all": ([], []),
    "all crowd": ([(1, 1, BOX, True), (1, 2, LARGE, True)], [(1, 1, BOX, 0.9), (1, 2, BOX, 0.8)]),
    "ties": ([(1, 1, BOX, False)], [(1, 1, SMALL, 0.5), (1, 1, BOX, 0.5), (1, 1, LARGE, 0.5)]),
    "one object twice": ([(1, 1, BOX, False)], [(1, 1, BOX, 0.9), (1, 1, BOX, 0.9)]),
    "every size": (
        [(1, 1, SMALL, False), (1, 1, BOX, False), (1, 1, LARGE, False)],
        [(1, 1, SMALL, 0.9), (1, 1, LARGE, 0.5)],
    ),
    "wrong class": ([(1, 1, BOX, False)], [(1, 2, BOX, 0.9)]),
    "more than ten": ([(1, 1, BOX, False)], [(1, 1, SMALL, 0.9)] * 15 + [(1, 1, BOX, 0.1)]),
    "more than a hundred": (
        [(1, 1, BOX, False)],
        [(1, 1, SMALL, 0.9)] * 100 + [(1, 1, BOX, 0.1)],
    ),
}


@pytest.mark.parametrize(("objects", "found"), DEGENERATE.values(), ids=DEGENERATE.keys())
def test_degenerate_inputs_agree(objects, found):
    assert_agreement(truth_of(objects, 1), results_of(found))


@fuzz(40)
@given(scenes())
def test_faster_coco_eval_gives_the_same_figures(scene):
    assert_agreement(*scene, evaluator="faster-coco-eval")
    slow, fast = ours(*scene), ours(*scene, evaluator="faster-coco-eval")
    assert slow.keys() == fast.keys()
    assert slow["per_class"] == _approximately(fast["per_class"])
    assert slow["false_alarms"] == fast["false_alarms"]


@pytest.mark.parametrize(("objects", "found"), DEGENERATE.values(), ids=DEGENERATE.keys())
def test_faster_coco_eval_on_degenerate_inputs(objects, found):
    assert_agreement(truth_of(objects, 1), results_of(found), evaluator="faster-coco-eval")


def _approximately(per_class):
    return {
        name: {kind: pytest.approx(found, abs=1e-6) for kind, found in kinds.items()}
        for name, kinds in per_class.items()
    }


def test_figures_of_some_classes_are_the_mean_of_theirs():
    objects = [(1, 1, BOX, False), (1, 2, SMALL, False), (1, 3, LARGE, False)]
    truth = truth_of(objects, 1)
    found = results_of([(1, 1, BOX, 0.9), (1, 2, LARGE, 0.8), (1, 3, LARGE, 0.7)])
    table = tables(Selection.of(truth, found), "bbox")
    assert table.summary([1])["AP"] == pytest.approx(1.0)
    assert table.summary([2])["AP"] == 0.0
    assert table.summary([1, 2])["AP"] == pytest.approx(0.5)
    assert table.summary([])["AP"] is None
    assert table.curve(1) == [1.0] * 21
    assert table.curve(2) == [0.0] * 21


def test_a_curve_has_six_digits():
    found = results_of([(1, 1, SMALL, 0.9), (1, 1, LARGE, 0.8), (1, 1, BOX, 0.7)])
    table = tables(Selection.of(truth_of([(1, 1, BOX, False)], 1), found), "bbox")
    assert table.curve(1) == [0.333333] * 21


def test_an_annotation_may_have_the_id_0():
    truth = truth_of([(1, 1, BOX, False)], 1)
    truth["annotations"][0]["id"] = 0
    assert ours(truth, results_of([(1, 1, BOX, 0.9)]))["segm"]["AP"] == pytest.approx(1.0)


def test_boxes_only():
    truth = truth_of([(1, 1, BOX, False), (2, 1, BOX, False)], 2)
    for annotation in truth["annotations"]:
        annotation["segmentation"] = []
    metrics = ours(truth, results_of([(1, 1, BOX, 0.9)]))
    assert "segm" not in metrics
    assert metrics["bbox"]["AR100"] == pytest.approx(0.5)
    assert metrics["false_alarms"]["score"] == 0.9
    assert metrics["confusion"]["matrix"][0] == [1, 0, 0, 1]


LVIS_OBJECTS = [(1, 1, BOX, False), (1, 2, LARGE, False)]


def lvis(neg=(), partly=()):
    truth = truth_of(LVIS_OBJECTS, 1, classes=4)
    block = {"neg_category_ids": list(neg), "not_exhaustive_category_ids": list(partly)}
    truth["images"][0] |= block
    for category, frequency in zip(truth["categories"], "rcff", strict=True):
        category["frequency"] = frequency
    return truth


def test_lvis_does_not_judge_classes_that_were_not_looked_for():
    found = results_of([(1, 1, BOX, 0.5), (1, 2, LARGE, 0.5), (1, 3, SMALL, 0.9)])
    assert ours(lvis(), found)["confusion"]["matrix"][-1] == [0, 0, 0, 0, 0]
    alarm = ours(lvis(neg=[3]), found)["confusion"]
    assert alarm["matrix"][-1][2] == 1


def test_lvis_spares_classes_annotated_in_part():
    found = results_of([(1, 1, SMALL, 0.9), (1, 1, BOX, 0.5), (1, 2, LARGE, 0.5)])
    strict, spared = ours(lvis(), found), ours(lvis(partly=[1]), found)
    assert strict["per_class"]["class 1"]["segm"]["AP"] == pytest.approx(0.5, abs=0.01)
    assert spared["per_class"]["class 1"]["segm"]["AP"] == pytest.approx(1.0)
    assert spared["by_frequency"]["segm"] == {
        "rare": pytest.approx(1.0), "common": pytest.approx(1.0), "frequent": None,
    }  # fmt: skip


def test_lvis_takes_an_image_that_does_not_say_what_is_annotated_in_part():
    truth = lvis(partly=[1])
    truth["images"].append({**truth["images"][0], "id": 2, "file_name": "2.png"})
    del truth["images"][1]["not_exhaustive_category_ids"]
    found = results_of([(1, 1, SMALL, 0.9), (1, 1, BOX, 0.5)])
    assert ours(truth, found)["per_class"]["class 1"]["segm"]["AP"] == pytest.approx(1.0)


def test_lvis_of_some_frequencies_only_has_their_groups():
    truth = lvis()
    for category in truth["categories"]:
        category["frequency"] = "r"
    found = ours(truth, results_of([(1, 1, BOX, 0.5)]))["by_frequency"]["bbox"]
    assert found == {"rare": pytest.approx(0.5), "common": None, "frequent": None}


def test_lvis_takes_300_detections():
    found = results_of([(1, 1, SMALL, 0.9)] * 150 + [(1, 1, BOX, 0.1)])
    assert ours(lvis(), found)["bbox"]["AR300"] == pytest.approx(0.5)
    plain = ours(truth_of(LVIS_OBJECTS, 1), found)
    assert plain["bbox"]["AR100"] == 0.0


def test_lvis_counts_300_detections_of_an_image_whatever_their_class():
    late = [(1, 1, BOX, 0.1)]
    for others, recall in ((299, 0.5), (300, 0.0)):
        # class 4 was not looked for: its detections are not judged, but take up places
        found = results_of([(1, 4, SMALL, 0.9)] * others + late)
        assert ours(lvis(), found)["bbox"]["AR300"] == pytest.approx(recall)


def test_detections_in_crowds_and_crowds_themselves_are_not_matched():
    truth = truth_of([(1, 1, LARGE, True), (2, 1, BOX, False)], 2)
    found = matched(Selection(truth, results_of([(1, 1, BOX, 0.9), (2, 1, BOX, 0.8)])), "bbox")
    assert found.scores.tolist() == [0.8]
    assert found.right.tolist() == [True]
    assert found.objects == 1
    assert ours(truth, [])["instances"] == 1


def test_the_score_of_the_best_f1_is_not_inside_of_equal_scores():
    """Of the three with 0.8 the right one comes first: with it alone F1 would be 1."""
    truth = truth_of([(1, 1, BOX, False), (2, 1, BOX, False)], 3)
    found = [(1, 1, BOX, 0.9), (2, 1, BOX, 0.8), (3, 1, BOX, 0.8), (3, 1, LARGE, 0.8)]
    alarms = ours(truth, results_of(found))["false_alarms"]
    assert alarms["best_f1"] == pytest.approx(2 / 3)
    assert alarms["score"] in (0.8, 0.9)
