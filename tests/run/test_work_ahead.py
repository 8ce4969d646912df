"""In which order groups are noted, taken up and given, told by hand-driven threads."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Executor, Future

import pytest

from ntt_ray.errors import StorageError
from ntt_ray.run.work_ahead import WorkAhead


class _Journal:
    """Writes down what is noted, and knows suspects."""

    def __init__(self, events, suspects=()) -> None:
        self.deaths = dict.fromkeys(suspects, 0)
        self._events = events

    def note(self, in_work) -> None:
        self._events.append(("noted", *in_work))
        if 13 in in_work:
            raise StorageError("the store is away")


class _Later(Executor):
    """A thread that does what it has to when it is told; waiting for a result tells it, too."""

    def __init__(self) -> None:
        self._waiting = deque()

    def submit(self, function, /, *arguments, **options):
        future = _Waiting(self)
        self._waiting.append((future, function))
        return future

    def go(self) -> None:
        while self._waiting:
            future, function = self._waiting.popleft()
            try:
                future.set_result(function())
            except StorageError as error:
                future.set_exception(error)


class _Waiting(Future):
    def __init__(self, thread) -> None:
        super().__init__()
        self._thread = thread

    def result(self, timeout=None):
        self._thread.go()
        return super().result(timeout)


def _work(*groups, suspects=()):
    events, thread = [], _Later()

    def take_up(group):
        events.append(("taken up", *group))
        return group

    return WorkAhead(_Journal(events, suspects), groups, take_up, thread), events, thread


def test_nothing_to_do():
    work, events, _ = _work()
    work.look_ahead()
    assert list(work.groups()) == []
    work.close()
    assert events == []


def test_a_group_is_noted_before_it_is_taken_up_and_ahead_of_its_turn():
    work, events, thread = _work([0, 1], [2, 3], [4])
    work.look_ahead()  # before the turn of the unit
    thread.go()
    given = work.groups()
    assert next(given) == [0, 1]
    assert events == [("noted", 0, 1), ("taken up", 0, 1)]
    work.look_ahead()
    thread.go()  # while the first group is labelled
    assert events[2:] == [("noted", 0, 1, 2, 3), ("taken up", 2, 3)]
    assert work.is_ahead
    assert next(given) == [2, 3]
    work.look_ahead(unfinished=[1])
    work.look_ahead()  # it is done already
    assert next(given) == [4]
    assert events[4:] == [("noted", 1, 2, 3, 4), ("taken up", 4)]
    assert not work.is_ahead
    assert list(given) == []


def test_a_group_that_was_not_looked_for_is_noted_when_its_turn_comes():
    work, events, _ = _work([0], [1])
    assert list(work.groups()) == [[0], [1]]
    assert events == [("noted", 0), ("taken up", 0), ("noted", 1), ("taken up", 1)]


def test_a_suspect_is_taken_up_alone_and_nothing_beside_it():
    work, events, _ = _work([0, 1], [2], [3], [4, 5], [6], suspects=(2, 3))
    ahead = []
    for _ in work.groups():
        work.look_ahead()
        ahead.append(work.is_ahead)
    assert ahead == [False, False, False, True, False]
    notes = [positions for what, *positions in events if what == "noted"]
    assert notes == [[0, 1], [2], [3], [4, 5], [4, 5, 6]]


def test_a_first_suspect_waits_for_the_turn_of_its_unit():
    work, events, thread = _work([2], [3, 4], suspects=(2,))
    work.look_ahead()
    thread.go()
    assert events == []
    assert list(work.groups()) == [[2], [3, 4]]


def test_a_group_whose_note_fails_is_not_taken_up():
    work, events, _ = _work([12], [13], [14])
    given = work.groups()
    assert next(given) == [12]
    work.look_ahead()
    with pytest.raises(StorageError, match="the store is away"):
        next(given)
    assert events == [("noted", 12), ("taken up", 12), ("noted", 12, 13)]


def test_no_note_is_published_after_the_end():
    work, events, thread = _work([12], [13])
    next(work.groups())
    work.look_ahead()
    work.close()  # hides why the note failed: it is closed for another reason
    assert events[-1] == ("noted", 12, 13)
    assert not thread._waiting
