"""What is said of progress: in a log, and on a terminal."""

import io

import pytest
from rich.console import Console

from ntt_ray.cli import progress
from ntt_ray.run.job import UnitDone


def _unit(number: int, failed: int = 0) -> UnitDone:
    return UnitDone(number, 8, failed, 40, 0.1, float(4 * number), 4.0, 0.1)


@pytest.fixture(params=[False, True], ids=["log", "terminal"])
def terminal(request, monkeypatch):
    """Whether the console is a terminal of 80 columns, and what is written onto it."""
    console = Console(file=io.StringIO(), force_terminal=request.param, width=80)
    monkeypatch.setattr(progress, "console", console)
    return request.param, console.file


def test_units_have_lines_in_a_log_and_a_bar_on_a_terminal(terminal, caplog):
    is_terminal, written = terminal
    with progress.Reporter() as reporter, caplog.at_level("INFO"):
        reporter.unit(_unit(0), 8, 32)
        reporter.unit(_unit(1, failed=2), 16, 32)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == (1 if is_terminal else 2)  # what failed is said on both
    assert lines[-1].startswith("unit 1: 8 images, 2 failed, 40 detections; fetch 0.1 s")
    assert lines[-1].endswith("16 of 32 images, 2.00 images/s, 0:00:08 left")
    assert ("16/32" in written.getvalue()) == is_terminal
    assert "0:00:08 left" in (written.getvalue() if is_terminal else caplog.text)
    assert all(len(line) <= 80 for line in written.getvalue().split("\r") if "\x1b" not in line)


def test_a_count_is_a_bar_or_lines(terminal):
    is_terminal, written = terminal
    with progress.counter("verifying", "shards") as count:
        count(3, 9)
    assert ("3/9" in written.getvalue()) == is_terminal
