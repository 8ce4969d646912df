"""A driver that dies over packed images: the next start gives the files of an undisturbed run."""

import time

import pytest

from tests.faults.drivers import Driver, files
from tests.support.packed import write_hub_folder, write_tar

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.faults, pytest.mark.timeout(600)]
PACKED = {"tar": write_tar, "Parquet": write_hub_folder}


@pytest.mark.parametrize("write", PACKED.values(), ids=PACKED)
def test_a_driver_killed_over_packed_images(undisturbed, tmp_path, write):
    photos = {path.name: path.read_bytes() for path in sorted(undisturbed.photos.iterdir())}
    images = {"images": write(photos, tmp_path / "packed")}
    job = {"job": {"images_per_unit": 5, "actors": 1}}  # units end within files and row groups
    whole = tmp_path / "whole"
    Driver(undisturbed.config(whole, **images, **job)).end()

    data = undisturbed.config(tmp_path / "run", **images, **job)
    driver = Driver(data)
    assert driver.wait_until(lambda: driver.shards() >= 2), driver.said
    time.sleep(0.2)
    driver.kill()
    assert driver.shards() < 5, "nothing was left to do"
    Driver(data).end()
    assert files(tmp_path / "run") == files(whole)
