"""Drift: false alarms are seldom, changes are seen soon, and both tests are what they say."""

import math

import numpy as np
import pytest

from benchmarks.drift import CHANGES, false_alarms, first_alarm, found_in_time, units
from ntt_ray.run import drift as drift_module
from ntt_ray.run.drift import Drift, UnitFigures, unit_order


def test_false_alarms_are_seldom():
    assert false_alarms(seed=0, runs=40, count=400) <= 1 / 40


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_named_within_five_units(change):
    assert found_in_time(1, 10, 200, "mild", change) >= 0.9


def _unit(number: int, score: float = 0.5, empty: int = 5, detections: int = 300) -> UnitFigures:
    return UnitFigures(number, 100, empty, detections, detections * score)


def _wavering(number: int) -> float:
    return 0.5 + 0.01 * math.sin(number)


def test_an_alarm_says_what_changed_and_where():
    found, drift = [], Drift(100)
    for number in range(40):
        found += drift.unit(_unit(number, _wavering(number) - (0.2 if number >= 30 else 0)))
    (alarm,) = found  # one change, one alarm
    assert alarm.figure == "score"
    assert alarm.units[-1] < 35
    assert alarm.units_before == alarm.units[-1] - 4
    assert alarm.before == pytest.approx(0.5, abs=0.01)
    words = str(alarm)
    assert words.startswith("the mean score fell from 0.5 in ")
    assert words.endswith(f"({', '.join(map(str, alarm.units))})")


def test_the_first_empty_image_after_many_units_without_is_no_change():
    drift = Drift(100)
    for number in range(50):
        assert drift.unit(_unit(number, _wavering(number), empty=0)) == []
    assert drift.unit(_unit(50, _wavering(50), empty=1)) == []


def test_ranks_see_what_the_mean_does_not():
    """Outliers before make the spread wide, but all five lie beyond nearly all before."""
    rng, drift, found = np.random.default_rng(3), Drift(100), []
    for number in range(90):
        shift = 0.3 if number % 20 == 7 else -0.3 if number % 20 == 13 else 0.0
        found += drift.unit(_unit(number, 0.5 + shift + rng.normal(0, 0.005)))
    assert found == []
    for number in range(90, 95):
        found += drift.unit(_unit(number, 0.44 + rng.normal(0, 0.005)))
    assert [alarm.test for alarm in found] == ["ranks"]


def test_chances_of_ranks():
    """Of 10 values and 5 more, all 5 are the largest in one of C(15, 5) orders."""
    assert drift_module._chance(1, 10) == 1 / 3003
    assert drift_module._chance(2, 10) == 6 / 3003


def test_nothing_is_said_of_few_units_small_ones_or_failed_ones():
    drift = Drift(100)
    for number in range(14):
        assert drift.unit(_unit(number, 0.5 if number < 9 else 0.1)) == []
    assert drift.smallest_shift() == {}
    drift = Drift(100)
    for number in range(30):
        assert drift.unit(_unit(number, _wavering(number))) == []
    before = drift.smallest_shift()
    assert set(before) == {"detections", "empty", "score"}
    assert drift.unit(UnitFigures(30, 49, 49, 0, 0.0)) == []  # the last unit, half as large
    assert drift.unit(UnitFigures(31, 0, 0, 0, 0.0)) == []  # all of it failed
    assert drift.smallest_shift() == before


def test_the_smallest_shift_is_the_border():
    drift = Drift(50)
    for number in range(40):
        drift.unit(_unit(number, _wavering(number)))
    figure = drift._figures["score"]
    shift = drift.smallest_shift()["score"]
    before, last = figure._mean, [value for _, value in figure._last]
    assert shift > abs(sum(last) / 5 - before)
    figure._rank = 0  # only the means
    for position, (number, _) in enumerate(list(figure._last)):
        figure._last[position] = (number, before + shift * 0.99)
    assert figure._test() is None
    for position, (number, _) in enumerate(list(figure._last)):
        figure._last[position] = (number, before + shift * 1.01)
    assert figure._test() == "means"


def test_the_order_is_the_same_for_the_same_seed_and_has_every_unit():
    order = unit_order(range(100), "manifest")
    assert order == unit_order(reversed(range(100)), "manifest")
    assert sorted(order) == list(range(100))
    assert order != sorted(order)
    assert order != unit_order(range(100), "another")


def test_folders_are_drift_in_order_and_none_in_ours():
    """Half of the images lie in a folder of darker ones, whose names come last."""
    run = units(np.random.default_rng(5), 200, "mild", CHANGES["scores - 0.05"], 100)
    assert first_alarm(run) is not None
    assert first_alarm([run[unit] for unit in unit_order(range(200), "m")]) is None
