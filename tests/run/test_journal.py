import json
import random
from concurrent.futures import Executor, Future
from itertools import islice

import pytest

from ntt_ray.run.journal import UnitJournal, delete_finished
from ntt_ray.run.layout import journal_uri, shard_uri
from ntt_ray.run.unit import MAX_LOST
from ntt_ray.run.work_ahead import WorkAhead
from ntt_ray.storage import Storage


class _Died(Exception):
    """Stands for the end of a worker process."""


class _Inline(Executor):
    """Does everything at once, in the thread that asks for it."""

    def submit(self, function, /, *arguments, **options):
        done = Future()
        done.set_result(function(*arguments, **options))
        return done


def _groups(journal, positions, size):
    """Give groups as labelling does: the next is noted while one is labelled."""
    work = WorkAhead(journal, journal.groups(positions, size), list, _Inline())
    for group in work.groups():
        work.look_ahead()
        yield group


def _work(tmp_path, killers, token="run", images=10, step=4) -> list[int] | None:
    """One worker on the unit: None when it died, else the positions it refused."""
    journal = UnitJournal(str(tmp_path), 7, token, Storage())
    journal.open()
    condemned = journal.condemned()
    try:
        for group in _groups(journal, [i for i in range(images) if i not in condemned], step):
            for position in group:
                if position in killers:
                    raise _Died
    except _Died:
        return None
    return sorted(condemned)


def test_no_death_no_failure(tmp_path):
    assert _work(tmp_path, killers=set()) == []


def test_an_image_that_kills_is_found_after_two_deaths_alone(tmp_path):
    for _ in range(3):  # with others, then alone twice
        assert _work(tmp_path, {5}) is None
    assert _work(tmp_path, {5}) == [5]


def test_two_killers_in_one_unit(tmp_path):
    deaths = 0
    while (found := _work(tmp_path, {1, 9})) is None:
        deaths += 1
        assert deaths <= 6
    assert found == [1, 9]
    assert deaths == 6
    journal = UnitJournal(str(tmp_path), 7, "run", Storage())
    journal.open()
    assert journal.unexplained() <= 1  # the note of the work that went well is still there


def test_a_chance_death_condemns_nobody(tmp_path):
    assert _work(tmp_path, {5}) is None
    assert _work(tmp_path, set()) == []


@pytest.mark.parametrize("seed", range(5))
def test_workers_that_are_taken_from_outside_condemn_hardly_anyone(tmp_path, seed):
    """With a death every 40 images 216 of 256 were condemned; now the unit is given back."""
    lifetimes = random.Random(seed)
    journal = UnitJournal(str(tmp_path), 7, "run", Storage())
    while journal.unexplained() < MAX_LOST:
        journal = UnitJournal(str(tmp_path), 7, "run", Storage())
        journal.open()
        images = iter(range(lifetimes.randint(1, 80)))
        todo = [i for i in range(256) if i not in journal.condemned()]
        for group in _groups(journal, todo, 32):
            if len(list(islice(images, len(group)))) < len(group):
                break
    assert len(journal.condemned()) <= 1
    assert journal.lost <= MAX_LOST + 3


def test_a_device_that_is_blamed_has_the_last_word(tmp_path):
    journal = UnitJournal(str(tmp_path), 7, "run", Storage())
    journal.note([1, 2])
    journal.blame_device("GPU 0")
    journal.blame_device("GPU 0")
    journal.note([3])  # by a thread that does not know yet
    note = json.loads(Storage().read_bytes(journal_uri(str(tmp_path), 7)))
    assert (note["in_work"], note["devices"]) == ([], ["GPU 0"])


@pytest.mark.parametrize("times", [2, 10])
def test_notes_of_another_driver_count_for_nothing(tmp_path, times):
    for number in range(times):
        assert _work(tmp_path, {5}, token=f"driver {number}") is None
    assert _work(tmp_path, set(), token="last") == []


def test_suspects_are_taken_up_alone(tmp_path):
    assert _work(tmp_path, {5}) is None
    journal = UnitJournal(str(tmp_path), 7, "run", Storage())
    journal.open()
    assert journal.deaths == {4: 0, 5: 0, 6: 0, 7: 0, 8: 0, 9: 0}  # the group and the one ahead
    groups = journal.groups(range(12), 4)
    assert groups == [[0, 1, 2, 3], [4], [5], [6], [7], [8], [9], [10, 11]]
    notes = []
    for group in _groups(journal, range(12), 4):
        assert group == groups[len(notes)]
        notes.append(json.loads(Storage().read_bytes(journal_uri(str(tmp_path), 7)))["in_work"])
    assert notes == groups  # nothing is in work beside a suspect


@pytest.mark.parametrize("note", [b"{", b"[]", b"7", b'{"run": "run"}', b"\xff", b"null",
                                  b'{"run": "run", "deaths": [], "in_work": 3}'])  # fmt: skip
def test_a_damaged_note_says_nothing(tmp_path, note):
    Storage().publish_bytes(journal_uri(str(tmp_path), 7), note)
    assert _work(tmp_path, set()) == []


def test_notes_beside_a_shard_are_deleted(tmp_path):
    delete_finished(str(tmp_path), range(9), Storage())  # nothing there yet
    for unit in (1, 2):
        Storage().publish_bytes(journal_uri(str(tmp_path), unit), b"{}")
    Storage().publish_bytes(shard_uri(str(tmp_path), 1), b"its process ended here")
    delete_finished(str(tmp_path), range(9), Storage())
    assert not Storage().exists(journal_uri(str(tmp_path), 1))
    assert Storage().exists(journal_uri(str(tmp_path), 2))
    assert Storage().exists(shard_uri(str(tmp_path), 1))
