import shutil
import time
from types import SimpleNamespace

import pytest

from ntt_ray.run import stall_watch as stall
from ntt_ray.run.stall_watch import StallWatch


@pytest.fixture
def disk(monkeypatch):
    """A disk whose room the test decides."""
    disk = SimpleNamespace(free=1 << 40)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: disk)
    return disk


def test_nothing_is_said_while_units_are_finished(disk):
    watch, now = StallWatch("/ray"), time.monotonic()
    assert watch.warnings(now) == []
    assert watch.warnings(now + stall.REPEAT_S - 1) == []


def test_a_run_that_stands_still_is_said_to_now_and_then(disk):
    watch, now = StallWatch("/ray"), time.monotonic()
    later = now + stall.REPEAT_S + 15
    (warning,) = watch.warnings(later)
    assert warning.startswith("no unit was finished for 10 min")
    assert watch.warnings(later + 5) == []
    assert len(watch.warnings(later + stall.REPEAT_S + 1)) == 1


def test_a_unit_ends_the_silence(disk, monkeypatch):
    watch, now = StallWatch("/ray"), time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 1000)
    watch.unit_done()
    assert watch.warnings(now + 1001) == []


def test_a_full_disk_is_named_in_a_thread(disk, monkeypatch, caplog):
    monkeypatch.setattr(stall, "CHECK_S", 0.01)
    disk.free = 3 << 20
    with StallWatch("/ray"):
        end = time.monotonic() + 10
        while not caplog.messages:
            assert time.monotonic() < end
            time.sleep(0.01)
    assert caplog.messages == [
        "the disk of /ray has only 3 MB left; Ray's workers cannot start when it is full. "
        "Make room there: the run then goes on by itself"
    ]


def test_a_disk_that_was_low_and_is_full_is_named_at_once(disk):
    watch, now = StallWatch("/ray"), time.monotonic()
    disk.free = 25 << 20
    (low,) = watch.warnings(now)
    assert "only 25 MB left" in low
    disk.free = 20 << 20
    assert watch.warnings(now + 5) == []
    disk.free = 0
    (full,) = watch.warnings(now + 10)
    assert "only 0 MB left" in full
    assert watch.warnings(now + 15) == []
