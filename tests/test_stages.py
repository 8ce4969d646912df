"""What is being done: when a line says so."""

import threading

import pytest

from ntt_ray.stages import Stage


@pytest.fixture
def said(caplog):
    """The lines said so far, and an event that the first further line sets."""
    caplog.set_level("INFO", logger="ntt_ray.stages")
    return lambda: [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize(("at_once", "lines"), [(True, ["starting Ray"]), (False, [])])
def test_what_ends_soon(said, at_once, lines):
    with Stage("starting Ray", at_once=at_once):
        pass
    assert said() == lines


def test_what_takes_long_is_said_again_with_how_far_it_is(said):
    asked = threading.Semaphore(0)

    def so_far() -> str:
        asked.release()
        return "3 of 9 shards"

    with Stage("verifying", so_far, at_once=False, every_s=0.01):
        assert all(asked.acquire(timeout=60) for _ in range(3))
    assert len(said()) >= 2
    assert set(said()) == {"still verifying, 0 s: 3 of 9 shards"}


def test_an_error_ends_it(said):
    stage = Stage("reading", every_s=0.01)
    with pytest.raises(ValueError, match="broken"), stage:
        raise ValueError("broken")
    stage._thread.join(60)
    assert not stage._thread.is_alive()


def test_what_others_say_counts(said):
    stage = Stage("labelling", at_once=False, every_s=1000.0)
    with stage:
        before = stage._heard_at
        stage.heard()
        assert stage._heard_at >= before
    assert said() == []
