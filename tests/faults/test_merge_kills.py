"""A merge that is killed again and again: the next one gives the same bytes, nothing is left."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from benchmarks.made_shards import CLASSES, write_shards
from ntt_ray.records import ImageEntry
from ntt_ray.run import record
from ntt_ray.run.layout import MANIFEST_FILE
from ntt_ray.run.manifest_writer import manifest_bytes
from ntt_ray.storage import Storage
from tests.support.run_files import manifest_table
from tests.support.verify_run import identity

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.faults, pytest.mark.timeout(400)]
IMAGES, IMAGES_PER_SHARD = 2500, 50
KILLS = 4
MERGE = {"images_per_file": 900, "profiles": ["coco", "coco-results"]}
# merges through Ray however few the images are, in many small fragments and parts
DRIVER = """
import sys
from ntt_ray.config import load_config
from ntt_ray.merge import fragments, text_files
from ntt_ray.merge import job as merge_job
fragments.FRAGMENT_BYTES, text_files.PART_BYTES, merge_job.IMAGES_HERE = 30_000, 60_000, 0
merge_job.merge(load_config(sys.argv[1]), on_progress=lambda *told: print(*told, flush=True))
"""


def _run(folder: Path) -> Path:
    """A labelled run, as far as merging looks; gives its config."""
    output = folder / "run"
    entries = [ImageEntry(n, f"{n}.jpg", "/x") for n in range(1, IMAGES + 1)]
    manifest = manifest_bytes(manifest_table(entries), IMAGES_PER_SHARD)
    made_of = identity(manifest, b"no bank: merging reads none", IMAGES_PER_SHARD)
    Storage().publish_bytes(str(output / MANIFEST_FILE), manifest)
    shape = {"images_per_shard": IMAGES_PER_SHARD, "masks": 100}
    ids = list(write_shards(str(output), IMAGES, provenance=made_of.provenance(), **shape))
    recorded = record.make_record(
        identity=made_of,
        config={},
        classes=CLASSES,
        units=len(ids),
        images=IMAGES,
    )
    record.write_record(str(output), recorded, Storage())
    path = folder / "config.yaml"
    data = {"images": "x", "output": str(output), "bank": "x", "merge": MERGE}
    path.write_text(yaml.safe_dump(data))
    return path


def _start(config: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(config)],
        env={**os.environ, "RAY_ADDRESS": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _files(config: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in (config.parent / "run").iterdir() if p.is_file()}


def test_a_merge_killed_again_and_again(tmp_path):
    config = _run(tmp_path)
    chance = random.Random(7)
    undisturbed = _start(config)
    said, errors = undisturbed.communicate(timeout=200)
    assert undisturbed.returncode == 0, errors
    expected, lines = _files(config), said.splitlines()
    names = ("annotations-00001-of-00003.json", "results-00003-of-00003.json", "run.json")
    assert set(names) <= set(expected)
    assert not any(name.endswith((".tmp", ".lock")) for name in expected)
    for name in expected:
        if name not in ("run.json", MANIFEST_FILE):
            (tmp_path / "run" / name).unlink()

    for _ in range(KILLS):
        driver = _start(config)
        for _ in range(chance.randrange(1, len(lines))):
            assert driver.stdout.readline(), driver.stderr.read()
        time.sleep(chance.uniform(0, 0.02))
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    last = _start(config)
    _, errors = last.communicate(timeout=200)
    assert last.returncode == 0, errors
    assert _files(config) == expected
    assert [p.name for p in (tmp_path / "run").iterdir() if p.is_dir()] == ["labels"]
