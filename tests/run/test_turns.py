"""Units that come at the same time, in threads that wait for each other."""

from __future__ import annotations

import threading

import pytest

from ntt_ray.run.turns import Turns

WAIT_S = 60.0  # a thread that is waited for longer will never come
SOON_S = 0.2  # what should not happen is waited for that long


class _Unit:
    """A unit in a thread of its own, in work until it is told to end."""

    def __init__(self, turns: Turns, *, alone: bool) -> None:
        self.is_in, self._end = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, args=(turns, alone), daemon=True)
        self._thread.start()

    def _run(self, turns: Turns, alone: bool) -> None:
        with turns.in_work(alone=alone):
            self.is_in.set()
            self._end.wait(WAIT_S)

    def end(self) -> None:
        assert self.is_in.wait(WAIT_S)
        self._end.set()
        self._thread.join(WAIT_S)


def test_units_are_in_work_together():
    turns = Turns()
    units = [_Unit(turns, alone=False) for _ in range(2)]
    for unit in units:
        unit.end()


@pytest.mark.parametrize(("first", "second"), [(True, False), (False, True), (True, True)])
def test_a_unit_that_must_be_alone_is(first, second):
    turns = Turns()
    one = _Unit(turns, alone=first)
    assert one.is_in.wait(WAIT_S)
    other = _Unit(turns, alone=second)
    assert not other.is_in.wait(SOON_S)
    one.end()
    other.end()
    _Unit(turns, alone=False).end()


def test_nobody_overtakes_a_unit_that_waits_to_be_alone():
    turns = Turns()
    one = _Unit(turns, alone=False)
    assert one.is_in.wait(WAIT_S)
    waiting = _Unit(turns, alone=True)
    while not turns._entrance.locked():  # until it waits
        pass
    late = _Unit(turns, alone=False)
    assert not late.is_in.wait(SOON_S)
    one.end()
    waiting.end()
    late.end()


def test_a_unit_that_fails_leaves():
    turns = Turns()
    with pytest.raises(ValueError, match="failed"), turns.in_work(alone=True):
        raise ValueError("failed")
    _Unit(turns, alone=True).end()
