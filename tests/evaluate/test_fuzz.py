"""Whatever ground truth or results hold: there are metrics, or there is one clean error."""

import copy

import pytest
from hypothesis import given

from ntt_ray.errors import InputError
from ntt_ray.evaluate.evaluation import evaluate
from ntt_ray.evaluate.matching import GroundTruth
from tests.support.fuzzing import HOSTILE, changed, fuzz, tried
from tests.support.rectangles import CLASSES, NAMES, PERFECT, TRUTH
from tests.support.run_files import make_labels


def _with_polygon(truth):
    truth = copy.deepcopy(truth)
    truth["annotations"][0]["segmentation"] = [[5, 5, 25, 5, 25, 25, 5, 25]]
    truth["annotations"][1]["segmentation"] = {"size": [50, 60], "counts": [100, 50, 2850]}
    return truth


@fuzz(60)
@given(changed(_with_polygon(TRUTH)))
def test_ground_truth(truth):
    tried(lambda: evaluate(truth, PERFECT, NAMES, CLASSES), InputError)
    found = tried(lambda: GroundTruth(truth, CLASSES), InputError)
    if found is not None:
        found.match(make_labels(1, size=(50, 60), name="a.jpg"))


@fuzz(60)
@given(changed(PERFECT))
def test_results(results):
    tried(lambda: evaluate(TRUTH, results, NAMES, CLASSES), InputError)


@fuzz(40)
@given(HOSTILE)
def test_anything(data):
    with pytest.raises(InputError):
        evaluate(data, PERFECT, NAMES, CLASSES)
    if data != []:
        with pytest.raises(InputError):
            evaluate(TRUTH, data, NAMES, CLASSES)


def _annotation(**changes):
    truth = copy.deepcopy(TRUTH)
    truth["annotations"][0] |= changes
    return truth


WRONG = {
    "no box": (_annotation(bbox=None), r"annotations\[0\]: its bbox is not"),
    "id twice": (_annotation(id=2), "annotations: ids are used more than once"),
    "an id that is text": (_annotation(id="1"), r"annotations\[0\]: its id is a text"),
    "no mask": (_annotation(segmentation=None), "annotation 1 has no mask"),
    "a damaged mask": (
        _annotation(segmentation={"size": [50, 60], "counts": "o"}),
        "annotation 1 has an RLE whose counts end in the middle of a number",
    ),
    "an area of text": (_annotation(area="5"), "its area is no number"),
}


@pytest.mark.parametrize(("truth", "message"), WRONG.values(), ids=WRONG.keys())
def test_wrong_ground_truth_is_named(truth, message):
    with pytest.raises(InputError, match=message):
        evaluate(truth, PERFECT, NAMES, CLASSES)


def test_damaged_results_are_named():
    results = copy.deepcopy(PERFECT)
    results[1]["segmentation"]["counts"] = "11"
    with pytest.raises(InputError, match=r"results.json: result 2 has an RLE of 2 pixels"):
        evaluate(TRUTH, results, NAMES, CLASSES)
