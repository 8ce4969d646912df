import pytest

from ntt_ray.evaluate.summary import summary_of


def test_nothing():
    assert summary_of([]) == {}
    assert summary_of([{}]) == {}


def test_one_run_has_no_deviation():
    assert summary_of([{"AP": 0.5}]) == {"AP": {"mean": 0.5, "deviation": None, "runs": 1}}


def test_mean_and_sample_deviation_figure_by_figure():
    runs = [
        {
            "segm": {"AP": 0.1, "APl": None},
            "per_class": {"nut": {"segm": {"AP": 1.0}}},
            "images": 3,
        },
        {"segm": {"AP": 0.3, "APl": 0.5}, "per_class": {}, "images": 3},
        {"segm": {"AP": 0.2, "APl": 0.7}, "per_class": {"nut": {"segm": {"AP": 0.0}}}, "images": 3},
    ]
    found = summary_of(runs)
    assert found["segm"]["AP"] == {
        "mean": pytest.approx(0.2), "deviation": pytest.approx(0.1), "runs": 3,
    }  # fmt: skip
    assert found["segm"]["APl"]["mean"] == pytest.approx(0.6)
    assert found["segm"]["APl"]["runs"] == 2
    assert found["per_class"]["nut"]["segm"]["AP"]["runs"] == 2
    assert found["images"] == {"mean": 3.0, "deviation": 0.0, "runs": 3}


def test_a_figure_that_no_run_has():
    nothing = {"mean": None, "deviation": None, "runs": 0}
    assert summary_of([{"APs": None}, {"APs": None}]) == {"APs": nothing}


def test_lists_and_texts_are_left_out():
    assert summary_of([{"curves": {"nut": [1.0, 0.5]}, "name": "x", "done": True}]) == {
        "curves": {}
    }
