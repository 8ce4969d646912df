"""Jobs submitted to a Ray cluster from a clone, with S3 in and out: exit status, stop, bytes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from ntt_ray.run.shard import existing_shards
from tests.support.golden import GOLDEN, GOLDEN_MODELS
from tests.support.hostile_proxy import Hostility, hostile_proxy
from tests.support.own_cluster import OwnCluster, own_cluster
from tests.support.paths import ROOT

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.faults, pytest.mark.timeout(600)]
IMAGES = 12
MAX_UPLOAD_BYTES = 10_000_000  # of which 7.3 MB are the weights of the demo
SENT = {".rayignore", ".gitignore", "LICENSE", "configs", "constraints.txt", "jobs", "ntt_ray"}
SENT |= {"pyproject.toml", "__pycache__"}
ON_CPU = {  # what a run without a GPU and without failures leaves; gauges end with their process
    "ray_ntt_ray_images_total",
    "ray_ntt_ray_detections_total",
    "ray_ntt_ray_units_total",
    "ray_ntt_ray_unit_seconds_bucket",
    "ray_ntt_ray_unit_seconds_count",
    "ray_ntt_ray_unit_seconds_sum",
}


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
        "job": {"images_per_unit": 1, "actors": 1},
        "storage_options": s3.options(),
    }
    (clone / "configs" / "job.yaml").write_text(yaml.safe_dump(data))
    return data


def submit(cluster: OwnCluster, clone: Path, *arguments: str, options: tuple[str, ...] = ()):
    """Submit as the README says, from a client that has Ray and nothing else."""
    command = [*options, "--working-dir", ".", "--", "python", *arguments]
    return cluster.ray_job("submit", *command, cwd=clone)


def files(s3, output: str) -> dict[str, bytes]:
    store = s3.storage()
    names = [name for name in store.list_files(output) if name != "run.json"]
    assert not any(name.endswith((".lock", ".journal.json")) for name in names)
    return {name: store.read_bytes(f"{output}/{name}") for name in names}


def shards(s3, output: str) -> int:
    return len(existing_shards(output, s3.storage()))


@pytest.fixture(scope="module")
def undisturbed(cluster, clone, job_config, s3):
    """A job that succeeded: what it said, and the files it left."""
    status, said = submit(cluster, clone, "jobs/label.py", "configs/job.yaml")
    assert status == 0, said
    found = files(s3, job_config["output"])
    assert sum(name.startswith("labels/") for name in found) == IMAGES
    return said, found


def test_a_job_that_succeeds(undisturbed):
    said, _ = undisturbed
    assert "succeeded" in said
    assert f"{IMAGES} of {IMAGES} images" in said  # a line per unit reaches the client


def test_the_upload_is_small_and_holds_no_golden_data(undisturbed, cluster):
    (package,) = cluster.folder.glob(
        "session_latest/runtime_resources/working_dir_files/_ray_pkg_*/"
    )
    sent = [path for path in package.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in sent) < MAX_UPLOAD_BYTES
    assert {path.name for path in package.iterdir()} <= SENT
    assert (package / "configs" / "job.yaml").exists()


def test_metrics_reach_prometheus(undisturbed, cluster):
    assert set(re.findall(r"^(ray_ntt_ray_\w+)\{", cluster.metrics(), re.MULTILINE)) >= ON_CPU


def test_stop_and_submit_again(undisturbed, cluster, clone, job_config, s3):
    output = f"{s3.prefix()}/stopped"
    command = ("jobs/label.py", "configs/job.yaml", "--set", f"output={output}")
    # the second half of the shards is not taken, so that the job cannot end before it is stopped
    held = Hostility(faults=("stall",), rate=1.0, only=r"PUT .*/shard-0000(0[6-9]|1\d)\.parquet")
    with hostile_proxy(s3.endpoint, held) as proxy:
        through = ("--set", f"storage_options.s3.endpoint_url={proxy.endpoint}")
        options = ("--no-wait", "--submission-id", "stopped")
        submit(cluster, clone, *command, *through, options=options)
        deadline = time.monotonic() + 120
        while not shards(s3, output):
            assert time.monotonic() < deadline, cluster.ray_job("logs", "stopped")
            time.sleep(0.05)
        status, said = cluster.ray_job("stop", "stopped")
    assert status == 0, said
    assert "was stopped" in said
    assert 0 < shards(s3, output) < IMAGES
    assert not s3.storage().exists(f"{output}/driver.lock")  # given back in good time

    status, said = submit(cluster, clone, *command)
    assert status == 0, said
    assert files(s3, output) == undisturbed[1]


def test_a_job_with_failed_images_fails_and_says_why(undisturbed, cluster, clone, job_config, s3):
    prefix, store = s3.prefix(), s3.storage()
    store.publish_bytes(f"{prefix}/photos/bad.png", b"not a picture")
    store.publish_bytes(
        f"{prefix}/photos/good.png", next((GOLDEN / "targets").iterdir()).read_bytes()
    )
    override = ("--set", f"images={prefix}/photos", "--set", f"output={prefix}/run")
    status, said = submit(cluster, clone, "jobs/label.py", "configs/job.yaml", *override)
    assert status != 0
    assert "error: 1 of 2 images failed, more than job.max_failed_fraction 0.01 allows" in said
    assert shards(s3, f"{prefix}/run") == 2  # everything else was finished


def test_a_bad_config_fails_before_anything_starts(cluster, clone, job_config):
    wrong = ("--set", "job.actor=2")
    status, said = submit(cluster, clone, "jobs/label.py", "configs/job.yaml", *wrong)
    assert status != 0
    assert "job.actor: unknown key; did you mean actors?" in said
