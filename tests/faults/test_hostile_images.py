"""Files that are hard on decoders, through a whole run: a row for each, whatever became of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pytest

from ntt_ray.config import build_config
from ntt_ray.errors import ImageError
from ntt_ray.run import models
from ntt_ray.run.decoding import DecoderPool
from ntt_ray.run.label import label
from ntt_ray.run.shard import iter_labels, read_shard
from ntt_ray.settings import DecodeSettings
from ntt_ray.storage import Storage
from tests.support.fake_models import use_fakes
from tests.support.golden import GOLDEN, GOLDEN_MODELS
from tests.support.hostile_images import many_scans, mutated

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.faults,
    pytest.mark.timeout(600),
    pytest.mark.usefixtures("ray_cluster"),
]
MUTATED, PER_UNIT = 200, 67
MEMORY_MB = 1000
SCANS = "100.jpg"


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number, data in enumerate(mutated(MUTATED, seed=4)):
        (folder / f"{number:03}.png").write_bytes(data)
    (folder / SCANS).write_bytes(many_scans(400_000))
    return folder


def test_two_hundred_mutated_files_and_one_of_many_scans(golden_references, photos, tmp_path):
    config = build_config(
        {
            "images": str(photos),
            "output": str(tmp_path / "run"),
            "references": {
                "annotations": str(golden_references),
                "image_root": str(GOLDEN / "refs"),
            },
            "models": GOLDEN_MODELS,
            "decode": {"timeout_s": 2.0, "memory_mb": MEMORY_MB},
            "job": {"images_per_unit": PER_UNIT, "actors": 1, "max_failed_fraction": 1.0},
        }
    )
    with mock.patch.object(models, "_decided"), _watched_decoders() as peaks_kb:
        use_fakes()
        label(config, lambda *_: None)
    assert 0 < max(peaks_kb.values()) <= MEMORY_MB << 10

    units = range((MUTATED + 1 + PER_UNIT - 1) // PER_UNIT)
    rows = [r for u in units for r in iter_labels(read_shard(config.output, u, Storage()))]
    names = sorted(path.name for path in photos.iterdir())
    assert [row.entry.file_name for row in rows] == names
    assert {row.failure for row in rows if row.status == "failed"} == {"content"}
    failed = {row.entry.file_name for row in rows if row.status == "failed"}
    assert failed == {SCANS, *_not_decoded(photos, config.decode)}
    assert len(failed) < len(names)
    (scans,) = (row for row in rows if row.entry.file_name == SCANS)
    assert scans.error == "took longer than decode.timeout_s (2 s of CPU time) to be decoded"


def _not_decoded(photos: Path, settings: DecodeSettings) -> Iterator[str]:
    """Names of the mutated files of which no image comes, asked of a decoder one by one."""
    pool = DecoderPool(1, None, settings)
    try:
        for path in photos.glob("*.png"):
            try:
                pool.submit(path.read_bytes()).result()
            except ImageError:
                yield path.name
    finally:
        pool.close()


@contextmanager
def _watched_decoders() -> Iterator[dict[str, int]]:
    """Collect the largest address space of each decoder on this machine, in kB, by process."""
    peaks: dict[str, int] = {}
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            for folder in Path("/proc").glob("[0-9]*"):
                try:
                    if b"ntt_ray.run.decoder" in (folder / "cmdline").read_bytes():
                        status = (folder / "status").read_text().split("\n")
                        peak = next(line for line in status if line.startswith("VmPeak"))
                        peaks[folder.name] = max(peaks.get(folder.name, 0), int(peak.split()[1]))
                except (OSError, StopIteration):
                    continue

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peaks
    finally:
        done.set()
        thread.join()
