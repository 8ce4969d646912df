import json
import logging
import math

import pytest

from ntt_ray.errors import InputError, RunIncompleteError
from ntt_ray.run.drift_watch import DriftWatch, read_alarms
from ntt_ray.run.job import UnitDone
from ntt_ray.run.part import Part
from ntt_ray.storage import Storage


def _unit(number: int, score: float, **more) -> UnitDone:
    return UnitDone(number, 100, 0, 300, 0.1, 0.0, 0.1, 0.1, empty=5, score_sum=300 * score, **more)


def _score(number: int) -> float:
    return 0.5 + 0.01 * math.sin(number) - (0.2 if number >= 30 else 0.0)


def _watch(folder, counted, stop=False, part=None) -> DriftWatch:
    return DriftWatch(
        str(folder), Storage(), part, 60, stop=stop, on_alarm=lambda: counted.append(1)
    )


def test_an_alarm_is_said_counted_and_kept(tmp_path, caplog):
    counted = []
    watch = _watch(tmp_path, counted)
    with caplog.at_level(logging.WARNING):
        for number in range(40):
            watch.unit(_unit(number, _score(number)))
    assert counted == [1]
    (alarm,) = read_alarms(str(tmp_path), Storage())
    assert "the mean score fell" in alarm["text"]
    assert alarm["text"] in caplog.text
    assert set(alarm["units"]) <= set(range(26, 35))
    for number in range(40):  # another start
        watch = watch if number else _watch(tmp_path, counted)
        watch.unit(_unit(number, _score(number)))
    assert len(read_alarms(str(tmp_path), Storage())) == 2


def test_a_run_ends_by_it_where_that_is_asked_for(tmp_path):
    watch = _watch(tmp_path, [], stop=True)

    def units():
        for number in range(40):
            watch.unit(_unit(number, _score(number)))

    with pytest.raises(RunIncompleteError, match=r"job\.stop_on_drift.*mean score fell"):
        units()
    assert len(read_alarms(str(tmp_path), Storage())) == 1


def test_units_that_are_given_back_or_tried_again_say_nothing(tmp_path):
    watch = _watch(tmp_path, [])
    for number in range(30):
        watch.unit(_unit(number, _score(number)))
    for number in range(30, 40):
        watch.unit(_unit(number, _score(number), again=True))
        watch.unit(_unit(number, _score(number), given_back="a disk is full"))
    assert read_alarms(str(tmp_path), Storage()) == []


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"alarms": 1}', '{"alarms": [{}]}', '{"alarms": [{"text": 1}]}']
)
def test_a_damaged_file_is_named(tmp_path, text):
    (tmp_path / "drift.json").write_text(text)
    with pytest.raises(InputError, match=r"drift\.json: damaged; delete it"):
        read_alarms(str(tmp_path), Storage())


def test_drivers_of_parts_do_not_overwrite_each_other(tmp_path):
    watches = [_watch(tmp_path, [], part=part) for part in (None, Part(2, 2), Part(1, 2))]
    for number in range(40):
        for watch in watches:
            watch.unit(_unit(number, _score(number)))
    names = ["drift-0001-of-0002.json", "drift-0002-of-0002.json", "drift.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert len(read_alarms(str(tmp_path), Storage())) == 3
    (tmp_path / names[0]).write_text("{")
    with pytest.raises(InputError, match=r"drift-0001-of-0002\.json: damaged; delete it"):
        read_alarms(str(tmp_path), Storage())


def test_the_file_is_json_of_figures(tmp_path):
    watch = _watch(tmp_path, [])
    for number in range(40):
        watch.unit(_unit(number, _score(number)))
    found = json.loads((tmp_path / "drift.json").read_text())
    assert found["format"] == 1
    (alarm,) = found["alarms"]
    assert alarm["figure"] == "score"
    assert alarm["now"] < alarm["before"]
