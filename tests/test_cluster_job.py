"""Jobs submitted to a Ray cluster from a clone, with S3 in and out: exit status, stop, bytes."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from conftest import GOLDEN, GOLDEN_MODELS
from own_cluster import OwnCluster, own_cluster

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.faults, pytest.mark.timeout(300)]
ROOT = Path(__file__).parents[1]
IMAGES = 16
MAX_UPLOAD_BYTES = 10_000_000


@pytest.fixture(scope="module")
def cluster():
    with own_cluster() as started:
        yield started


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A copy of the files under version control, as ``git clone`` gives."""
    folder = tmp_path_factory.mktemp("clone")
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    for name in listed.stdout.splitlines():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def job_config(s3, clone):
    """A config in the clone whose every file is in a bucket."""
    prefix, store = s3.prefix(), s3.storage()
    sources = sorted((GOLDEN / "targets").glob("*.png"))
    for number in range(IMAGES):
        data = sources[number % len(sources)].read_bytes()
        store.publish_bytes(f"{prefix}/photos/{number:02d}.png", data)
    for folder in ("weights", "refs"):
        for path in (GOLDEN / folder).iterdir():
            store.publish_bytes(f"{prefix}/{folder}/{path.name}", path.read_bytes())
    store.publish_bytes(f"{prefix}/refs.json", (GOLDEN / "refs.json").read_bytes())
    here, there = str(GOLDEN / "weights"), f"{prefix}/weights"
    data = {
        "images": f"{prefix}/photos",
        "output": f"{prefix}/run",
        "references": {
            "annotations": f"{prefix}/refs.json",
            "image_root": f"{prefix}/refs",
            "shots": 1,
        },
        "models": json.loads(json.dumps(GOLDEN_MODELS).replace(here, there)),
        "method": {"points_per_side": 16},
        "job": {"images_per_unit": 1},
        "storage_options": s3.options(),
    }
    (clone / "configs" / "job.yaml").write_text(yaml.safe_dump(data))
    return data


def submit(cluster: OwnCluster, clone: Path, *arguments: str, wait=True, name=None):
    options = [] if wait else ["--no-wait"]
    options += ["--submission-id", name] if name else []
    command = [*options, "--working-dir", ".", "--", "python", *arguments]
    return cluster.ray_job("submit", *command, cwd=clone)


def files(s3, output: str) -> dict[str, bytes]:
    store = s3.storage()
    names = [*store.list_files(output)]
    names = [
        n for n in names if n.startswith("labels/") or n in ("bank.safetensors", "manifest.parquet")
    ]
    return {name: store.read_bytes(f"{output}/{name}") for name in names}


def test_submit(cluster, clone, job_config, s3):
    started = time.monotonic()
    status, said = submit(cluster, clone, "jobs/label.py", "configs/job.yaml")
    print(said, time.monotonic() - started)
    assert status == 0, said
