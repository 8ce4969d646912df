"""A driver that dies at any moment: the next start gives the files of an undisturbed run."""

import random
import time
from collections.abc import Callable

import pytest

from tests.faults.drivers import IMAGES, Driver

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.faults, pytest.mark.timeout(600)]

# Where a driver is killed: at a milestone, and a random number of seconds up to this many after it.
MOMENTS = {
    "importing": 2.0,
    "locked": 6.0,  # Ray starts, the checkpoints are digested, the bank is built
    "recorded": 5.0,  # the actors start
    "labelling": 0.5,
    "merging": 0.3,
}
KILLS = ("importing", "locked", "locked", "importing", "locked", "recorded", "recorded")
KILLS += ("labelling", "labelling", "merging")


def test_a_driver_killed_at_ten_random_moments(undisturbed, tmp_path):
    dice = random.Random(5)
    data = undisturbed.config(tmp_path / "run")
    merged = tmp_path / "run" / "annotations.json"
    killed = []
    for name in KILLS:
        driver = Driver(data)
        assert driver.wait_until(_milestone(driver, name)), driver.said
        time.sleep(dice.uniform(0, MOMENTS[name]))
        driver.kill()
        killed.append(driver)  # the next one starts while workers of this one may still work
        assert not merged.exists() or merged.read_bytes() == undisturbed.files[merged.name]
    resume_s = Driver(data).end()
    undisturbed.check(tmp_path / "run", "driver killed (SIGKILL)", len(KILLS), resume_s)
    for driver in killed:
        driver.wait_for_orphans(30, agents=False)
    killed[0].wait_for_orphans(120, agents=True)


def _milestone(driver: Driver, name: str) -> Callable[[], bool]:
    before = driver.shards()
    return {
        "importing": lambda: True,
        "locked": (driver.output / "driver.lock").exists,
        "recorded": (driver.output / "run.json").exists,
        "labelling": lambda: driver.shards() > before,
        "merging": lambda: driver.shards() == IMAGES,
    }[name]
