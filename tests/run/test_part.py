"""A run divided among drivers: whose units are whose, and who may work beside whom."""

import json
import threading
import time

import pytest

from ntt_ray.errors import ConfigError, OutputLockedError
from ntt_ray.run import part as parts
from ntt_ray.run.layout import LOCK_FILE, part_lock
from ntt_ray.run.lock import STALE_S, read_holder
from ntt_ray.run.part import DriverLock, Part, parts_at_work
from ntt_ray.storage import Storage

STORE = Storage()


@pytest.fixture
def output(tmp_path):
    return str(tmp_path)


def _leave_a_dead_lock(output, name):
    dead = {"token": "x", "host": "elsewhere", "pid": 1, "heartbeat": time.time() - 2 * STALE_S}
    STORE.publish_bytes(f"{output}/{name}", json.dumps(dead).encode())


@pytest.mark.parametrize("count", [1, 2, 3, 7, 20])
def test_the_parts_of_a_run_share_its_units(count):
    order = [4, 2, 0, 5, 1, 3, 9, 8, 7, 6]
    shares = [Part(number, count).units(order) for number in range(1, count + 1)]
    assert sorted(unit for share in shares for unit in share) == sorted(order)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("text", ["", "2", "0/2", "3/2", "1/0", "a/b", "-1/2", "1/99999", "1/2/3"])
def test_what_names_no_part(text):
    with pytest.raises(ConfigError, match=r"--part: I/N with I from 1 to N"):
        Part.of(text)


def test_what_names_a_part():
    assert Part.of("2/4") == Part(2, 4)
    assert str(Part(2, 4)) == "2/4"


def test_parts_work_side_by_side_once_they_have_prepared_one_after_the_other(output, monkeypatch):
    monkeypatch.setattr(parts, "TURN_S", 0.01)
    prepared = threading.Event()

    def second():
        with DriverLock(output, STORE, Part(2, 2)) as driver:
            prepared.set()
            driver.at_work()

    with DriverLock(output, STORE, Part(1, 2)) as driver:
        other = threading.Thread(target=second)
        other.start()
        assert not prepared.wait(0.3)  # the first prepares
        assert read_holder(output, STORE).part == "1/2"
        driver.at_work()
        assert prepared.wait(10)
        assert Part(1, 2) in parts_at_work(output, STORE)
        other.join(10)
    assert not STORE.list_folder(output)


REFUSED = {  # what is at work, and what may not begin
    "all beside a part": (Part(1, 2), None),
    "a part beside all": (None, Part(1, 2)),
    "the same part": (Part(1, 2), Part(1, 2)),
    "a part of another division": (Part(1, 2), Part(2, 3)),
}


@pytest.mark.parametrize("case", REFUSED)
def test_who_may_not_begin(output, case):
    first, second = REFUSED[case]
    with DriverLock(output, STORE, first) as driver:
        driver.at_work()
        with pytest.raises(OutputLockedError, match="another driver is working"):
            DriverLock(output, STORE, second).__enter__()
        names = STORE.list_folder(output)
        assert names == [LOCK_FILE if first is None else part_lock(first.number, first.count)]


def test_a_dead_part_is_taken_over_by_itself_and_by_all(output):
    _leave_a_dead_lock(output, part_lock(1, 2))
    with DriverLock(output, STORE, Part(2, 2)) as driver:
        driver.at_work()
        assert [holder.alive for holder in parts_at_work(output, STORE).values()] == [False, True]
    with DriverLock(output, STORE, Part(1, 2)) as driver:
        driver.at_work()
        assert [holder.alive for holder in parts_at_work(output, STORE).values()] == [True]
    _leave_a_dead_lock(output, part_lock(1, 2))
    with DriverLock(output, STORE, None) as driver:
        driver.at_work()
        assert STORE.list_folder(output) == [LOCK_FILE]


def test_a_lock_is_given_back_where_preparing_fails(output):
    with pytest.raises(ZeroDivisionError), DriverLock(output, STORE, Part(1, 2)):
        raise ZeroDivisionError
    assert not STORE.list_folder(output)
