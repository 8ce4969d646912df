"""Disks that fill up: no half file, a clean end or a wait for room; then the same bytes."""

import contextlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.drivers import IMAGES, Driver

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.faults, pytest.mark.timeout(600)]
DISK_BYTES = 200 << 20


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of its own, of 200 MB; needs the right to mount one."""
    # Ray's sockets need a short path
    with tempfile.TemporaryDirectory(prefix="ntt-", dir="/tmp") as folder:
        mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", folder]
        mounted = subprocess.run(mount, capture_output=True, text=True)
        if mounted.returncode:
            pytest.skip(f"no right to mount a small disk: {mounted.stderr.strip()}")
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True)


def test_the_disk_of_the_output_fills_up(undisturbed, small_disk, tmp_path):
    output = small_disk / "run"
    data = undisturbed.config(output)
    driver = Driver(data, tmp_path)
    assert driver.wait_until(driver.shards), driver.said
    ballast = _fill(small_disk)
    driver.end(1)
    assert re.search(r"^error: .*writing .*No space left on device", driver.said, re.MULTILINE)
    assert not (output / "driver.lock").exists()
    for path in (output / "labels").glob("*.parquet"):
        assert path.read_bytes() == undisturbed.files[path.name]
    assert not list(output.rglob("*.tmp"))
    ballast.unlink()
    undisturbed.check(output, "disk of the output full", 1, Driver(data).end())


def test_the_disk_of_the_workers_fills_up(undisturbed, small_disk, tmp_path):
    folder = str(small_disk)
    driver = Driver(undisturbed.config(tmp_path / "run"), RAY_TMPDIR=folder, TMPDIR=folder)
    assert driver.wait_until(driver.shards), driver.said
    ballast = _fill(small_disk)
    assert driver.shards() < IMAGES
    driver.wait_until(lambda: f"the disk of {folder} has only 0 MB left" in driver.said)
    ballast.unlink(missing_ok=True)
    undisturbed.check(tmp_path / "run", "disk of Ray's folder full, then not", 1, driver.end())


def _fill(disk: Path) -> Path:
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as stream, contextlib.suppress(OSError):
        while True:
            stream.write(bytes(1 << 16))
    assert shutil.disk_usage(disk).free == 0
    return ballast
