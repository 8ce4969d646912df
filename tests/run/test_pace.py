"""The pace of made-up units whose times are known: in the lock, for `status`, and in the log."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from ntt_ray.cli.progress import Reporter
from ntt_ray.run import label
from ntt_ray.run.cluster.placement import Resources
from ntt_ray.run.job import Pace, UnitDone
from ntt_ray.storage import Storage

IMAGES = 16  # of each unit


def _units(
    seconds: Sequence[float],
    until_s: float,
    *,
    starts: Sequence[float] | None = None,
    waits_s: float = 0.0,
    actors: int | None = None,
) -> list[UnitDone]:
    """Units in the order in which they end, as long as that is in time.

    Each actor takes `seconds` of its own for each of its units, from its start on.
    """
    done = []
    for number, label_s in enumerate(seconds):
        begun_at = starts[number] if starts else 0.0
        while begun_at + label_s <= until_s:
            unit = UnitDone(0, IMAGES, 0, 0, 0.1, 1e9 + begun_at, label_s, 0.1)
            done.append(replace(unit, actor=f"a{number}", actors=actors or len(seconds)))
            begun_at += label_s + waits_s
    return sorted(done, key=lambda unit: unit.begun_at + unit.label_s)


def _paces(units: Iterable[UnitDone]) -> list[float]:
    pace = Pace()
    return [pace.unit(unit) for unit in units]


def _once_all_were_heard(units: Sequence[UnitDone]) -> list[float]:
    """The paces from when each actor has ended a unit."""
    heard = [len({unit.actor for unit in units[: n + 1]}) for n in range(len(units))]
    return _paces(units)[heard.index(heard[-1]) :]


@pytest.mark.parametrize(
    ("seconds", "starts"),
    [
        pytest.param([4.0], None, id="one"),
        pytest.param([4.0] * 8, None, id="eight at once"),
        pytest.param([4.0] * 8, [0.5 * n for n in range(8)], id="eight in turn"),
        pytest.param([4.0] * 8, [10.0 * n for n in range(8)], id="eight that load one by one"),
        pytest.param([3.6 + 0.1 * n for n in range(8)], None, id="eight that differ"),
    ],
)
def test_what_the_actors_make_together(seconds: list[float], starts: list[float] | None) -> None:
    """Within 15 % once each actor has ended a unit."""
    expected = sum(IMAGES / label_s for label_s in seconds)
    found = _once_all_were_heard(_units(seconds, 150.0, starts=starts))
    assert len(found) >= 12
    assert found == pytest.approx([expected] * len(found), rel=0.15)


def test_the_first_of_eight_units() -> None:
    """Seven more are about to end: eight times its own pace, not once."""
    assert _paces(_units([4.0] * 8, 4.0)) == pytest.approx([8 * IMAGES / 4.0] * 8)
    assert _paces(_units([4.0], 4.0)) == pytest.approx([IMAGES / 4.0])


def test_waiting_for_images_counts() -> None:
    """Half of the time passes without labelling, by one actor or by eight."""
    for actors in (1, 8):
        found = _paces(_units([4.0] * actors, 400.0, waits_s=4.0))[-1]
        assert found == pytest.approx(actors * IMAGES / 8.0, rel=0.05)


def test_actors_that_never_came() -> None:
    """Room for eight, and one at work: its own pace within a few units."""
    found = _paces(_units([4.0], 80.0, actors=8))
    assert found[9] == pytest.approx(IMAGES / 4.0, rel=0.15)
    assert found[-1] == pytest.approx(IMAGES / 4.0, rel=0.06)


def test_actors_that_an_autoscaler_added() -> None:
    found = _once_all_were_heard(_units([4.0] * 8, 50.0, actors=1))
    assert all(pace == pytest.approx(8 * IMAGES / 4.0, rel=0.15) for pace in found)


def test_actors_that_were_replaced() -> None:
    """All eight die half-way, and others come in their place, 10 s later: still eight."""
    units = _units([4.0] * 8, 100.0)
    later = [replace(u, actor=f"{u.actor} again", begun_at=u.begun_at + 110.0) for u in units]
    found = _paces(units + later)
    assert found == pytest.approx([8 * IMAGES / 4.0] * len(found), rel=0.15)


def test_no_time_at_all() -> None:
    assert _paces([UnitDone(0, 0, 0, 0, 0.0, 1e9, 0.0, 0.0)]) == [0.0]


@pytest.mark.parametrize("actors", [1, 8])
def test_status_and_log_say_the_same(
    actors: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What the driver puts into its lock, and the line of each unit."""
    units = _units([4.0] * actors, 8.0)
    monkeypatch.setattr(label, "label_units", lambda *_: iter(units))
    silent = SimpleNamespace(progress=lambda *_: None, unit=lambda *_: None, drift=lambda: None)
    monkeypatch.setattr(label, "DriverMetrics", lambda _: silent)
    heard: list[float] = []
    lock: Any = SimpleNamespace(check=lambda: None, progress={})
    job: Any = SimpleNamespace(output="out", store=Storage())
    models = SimpleNamespace(resources=Resources("cpu", actors, 1.0, 0.0))
    sizes = [IMAGES] * len(units)
    prepared: Any = SimpleNamespace(images=SimpleNamespace(sizes=sizes), bank=b"", models=models)
    with Reporter() as reporter, caplog.at_level("INFO"):

        def on_unit(unit: UnitDone, done: int, total: int) -> None:
            reporter.unit(unit, done, total)
            heard.append(lock.progress["images_per_s"])
            assert reporter.images_per_s == lock.progress["images_per_s"]

        work = dict.fromkeys(range(len(units)), False)
        label._label_units(
            *(prepared, list(work), lock, on_unit, job, work), part=None, stop_on_drift=False
        )
    expected = actors * IMAGES / 4.0
    assert heard == pytest.approx([expected] * len(units), rel=0.15)
    assert f"{IMAGES} of {len(units) * IMAGES} images, {expected:.2f} images/s" in caplog.text
