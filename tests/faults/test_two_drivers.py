"""Two drivers on one output: one of them works, the other says why not, nothing is spoilt."""

import signal
import time

import pytest

from tests.faults.drivers import Driver, files, note

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.faults, pytest.mark.timeout(600)]


def test_two_drivers_and_one_that_is_told_to_stop(undisturbed, tmp_path):
    data = undisturbed.config(tmp_path / "run")
    lock = tmp_path / "run" / "driver.lock"
    pair = [Driver(data), Driver(data)]  # at the same moment
    loser = _first_to_end(pair)
    loser.end(1)
    assert "another driver" in loser.said
    winner = pair[1 - pair.index(loser)]

    third = Driver(data)  # while Ray starts for the winner
    third.end(1)
    assert "another driver is working on this output (process" in third.said
    assert winner.wait_until(winner.shards), winner.said

    # what `ray job stop` does; after three seconds it would kill
    asked = time.monotonic()
    winner.signal(signal.SIGTERM)
    winner.wait_until(lambda: not lock.exists())
    released_s = time.monotonic() - asked
    winner.end(143)
    assert not lock.exists()
    assert not (tmp_path / "run" / "annotations.json").exists()
    assert released_s < 3
    undisturbed.check(tmp_path / "run", "SIGTERM (`ray job stop`)", 1, Driver(data).end())
    note(fault="second driver on the output", times=2, lost=0, resume_s=None)


def test_two_drivers_of_two_parts_one_of_which_is_killed(undisturbed, tmp_path):
    """Together they leave what one driver does, and none of all may begin meanwhile."""
    data = undisturbed.config(tmp_path / "run")
    output = tmp_path / "run"
    parts = [Driver(data, words=("label", "--part", f"{n}/2")) for n in (1, 2)]
    assert parts[0].wait_until(lambda: (output / "driver-0001-of-0002.lock").exists())
    assert parts[1].wait_until(lambda: (output / "driver-0002-of-0002.lock").exists())
    whole = Driver(data)
    whole.end(1)
    assert "another driver is working on part " in whole.said
    parts[0].kill()
    parts[0].wait_for_orphans(60, agents=False)
    again = Driver(data, words=("label", "--part", "1/2"))
    for driver in (parts[1], again):
        driver.end()
    assert not list(output.glob("*.lock"))
    Driver(data).end()  # merges: everything is labelled
    assert files(output) == undisturbed.files


def _first_to_end(pair: list[Driver]) -> Driver:
    end = time.monotonic() + 120
    while all(driver.running() for driver in pair):
        assert time.monotonic() < end
        time.sleep(0.02)
    return next(driver for driver in pair if not driver.running())
