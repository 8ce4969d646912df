"""Drivers that keep proposals or match them again, killed: no proposal and no label differs."""

import random
import time
from pathlib import Path

import pytest

from tests.faults.drivers import Driver, files

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.faults, pytest.mark.timeout(600)]
KEEP = {"keep": True}


def _proposals(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((output / "proposals").iterdir())}


def _kill(driver: Driver, moment: str, seconds: float) -> None:
    """Wait for a moment, and so many seconds more."""
    before = driver.shards()
    reached = {
        "recorded": (driver.output / "run.json").exists,
        "labelling": lambda: driver.shards() > before,
    }[moment]
    assert driver.wait_until(reached), driver.said
    time.sleep(seconds)
    driver.kill()


def test_drivers_killed_while_they_keep_and_match_again(undisturbed, tmp_path):
    """Each of the next starts goes on while processes of the killed one may be at work."""
    dice, kept = random.Random(7), tmp_path / "kept"
    configs = {
        name: undisturbed.config(tmp_path / name, proposals=KEEP)
        for name in ("kept", "killed", "again", "changed")
    }
    Driver(configs["kept"]).end()
    for moment in ("recorded", "labelling"):
        _kill(Driver(configs["killed"]), moment, dice.uniform(0, 0.5))
    Driver(configs["killed"]).end()
    assert files(tmp_path / "killed") == files(kept)
    assert _proposals(tmp_path / "killed") == _proposals(kept)

    changes = {"method": {"nms_iou": 0.8, "max_detections": 1}}
    configs["again"] |= changes
    configs["changed"] |= changes
    words = ("rematch", "--from", str(kept))
    Driver(configs["again"], words=words).end()
    assert files(tmp_path / "again") != files(kept)
    for moment in ("recorded", "labelling"):
        _kill(Driver(configs["changed"], words=words), moment, dice.uniform(0, 0.05))
    Driver(configs["changed"], words=words).end()
    assert files(tmp_path / "changed") == files(tmp_path / "again")
    assert not list((tmp_path / "changed" / "proposals").glob("*"))
