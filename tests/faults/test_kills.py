"""Processes that die in mid-run: nothing is lost, and the files are those of an undisturbed run."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from conftest import GOLDEN
from ntt_ray.outputs.shards import iter_labels, read_shard
from ntt_ray.storage import Storage

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.faults, pytest.mark.timeout(400)]
IMAGES = 12


def _photos(folder: Path, count: int) -> Path:
    folder.mkdir()
    sources = sorted((GOLDEN / "targets").glob("*.png"))
    for number in range(count):
        shutil.copy(sources[number % len(sources)], folder / f"{number:03d}.png")
    return folder


def _start(data: dict, tmp_path: Path, **environment: str) -> subprocess.Popen:
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(data))
    return subprocess.Popen(
        [sys.executable, "-m", "ntt_ray", "run", str(config)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "RAY_ADDRESS": "", **environment},
        stderr=subprocess.PIPE,
        text=True,
    )


def _files(output: str) -> dict[str, bytes]:
    names = ("annotations.json", "results.json", "bank.safetensors", "manifest.parquet")
    shards = sorted((Path(output) / "labels").iterdir())
    return {p.name: p.read_bytes() for p in [*shards, *(Path(output) / n for n in names)]}


def test_a_driver_killed_again_and_again(golden_config, tmp_path):
    photos = _photos(tmp_path / "photos", IMAGES)
    data = {**golden_config, "images": str(photos), "image_root": None}
    data["job"] = {"images_per_unit": 1, "actors": 1}
    for goal in (1, 4, 8):  # shards that must be there when the driver is killed
        driver = _start(data, tmp_path)
        deadline = time.monotonic() + 120
        while len(list(Path(data["output"]).glob("labels/*.parquet"))) < goal:
            assert driver.poll() is None, driver.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    last = _start(data, tmp_path)
    _, said = last.communicate(timeout=200)
    assert last.returncode == 0, said

    undisturbed = {**data, "output": str(tmp_path / "undisturbed")}
    other = _start(undisturbed, tmp_path)
    _, said = other.communicate(timeout=200)
    assert other.returncode == 0, said
    assert _files(data["output"]) == _files(undisturbed["output"])


def test_an_image_that_ends_its_worker_every_time(golden_config, tmp_path):
    photos = _photos(tmp_path / "photos", 3)
    (photos / "001a.png").write_bytes(b"KILL")
    data = {**golden_config, "images": str(photos), "image_root": None}
    data["job"] = {"images_per_unit": 4, "actors": 1}
    killer = str(Path(__file__).parent / "killer")
    driver = _start(data, tmp_path, PYTHONPATH=killer)
    _, said = driver.communicate(timeout=350)
    assert driver.returncode == 1, said  # one of four images failed: more than a hundredth
    assert "1 of 4 images failed" in said
    rows = list(iter_labels(read_shard(data["output"], 0, Storage())))
    assert [(row.entry.file_name, row.status) for row in rows] == [
        ("000.png", "ok"),
        ("001.png", "ok"),
        ("001a.png", "failed"),
        ("002.png", "ok"),
    ]
    assert rows[2].error == "ended the worker process"
    assert not list(Path(data["output"]).glob("labels/*.journal.json"))
