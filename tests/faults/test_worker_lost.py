"""Workers and nodes that die in mid-run: it goes on, to the files of an undisturbed run."""

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from ntt_ray.run.shard import iter_labels, read_shard
from ntt_ray.storage import Storage
from tests.faults.drivers import IMAGES, Driver, note
from tests.support.golden import GOLDEN

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.faults, pytest.mark.timeout(600)]


def test_an_actor_killed(undisturbed, tmp_path):
    driver = Driver(undisturbed.config(tmp_path / "run"))
    assert driver.wait_until(lambda: driver.shards() > 2), driver.said
    (actor,) = (pid for pid, title in driver.processes().items() if "LabelActor" in title)
    os.kill(actor, signal.SIGKILL)
    assert driver.shards() < IMAGES
    undisturbed.check(tmp_path / "run", "labelling actor killed (SIGKILL)", 1, driver.end())


def test_a_node_lost(undisturbed, tmp_path):
    data = undisturbed.config(tmp_path / "run", job={"images_per_unit": 1, "actors": 2})
    with _three_nodes() as cluster:
        driver = Driver(data, RAY_ADDRESS=cluster.address)
        assert driver.wait_until(lambda: driver.shards() > 2), driver.said
        lost = next(node for node in cluster.worker_nodes if _actors_on(node))
        cluster.remove_node(lost, allow_graceful=False)
        assert driver.shards() < IMAGES
        seconds = driver.end()
    undisturbed.check(tmp_path / "run", "worker node lost (of three)", 1, seconds)


@contextmanager
def _three_nodes() -> Iterator[Cluster]:
    """Three nodes on this machine; work runs on the two that are not the driver's."""
    soon = {"health_check_period_ms": 500, "health_check_initial_delay_ms": 0}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "_system_config": soon})
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=2)
        yield cluster
    finally:
        cluster.shutdown()


def _actors_on(node) -> list[str]:
    """Titles of the labelling actors of a node of this machine."""
    raylet = node.all_processes["raylet"][0].process.pid
    children = Path(f"/proc/{raylet}/task/{raylet}/children").read_text().split()
    titles = (Path(f"/proc/{child}/cmdline").read_text() for child in children)
    return [title for title in titles if "LabelActor" in title]


def test_an_image_that_ends_its_worker_every_time(undisturbed, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for name, source in zip(("000", "001", "002"), sorted((GOLDEN / "targets").glob("*.png"))):
        shutil.copy(source, photos / f"{name}.png")
    (photos / "001a.png").write_bytes(b"KILL")
    job = {"images_per_unit": 4, "actors": 1}
    data = undisturbed.config(tmp_path / "run", images=str(photos), job=job)
    here = os.environ.get("PYTHONPATH", "")
    driver = Driver(data, PYTHONPATH=f"{Path(__file__).parent / 'killer'}{os.pathsep}{here}")
    seconds = driver.end(1)  # one of four images failed: more than a hundredth
    assert "1 of 4 images are to be tried again" in driver.said
    rows = list(iter_labels(read_shard(data["output"], 0, Storage())))
    assert [(row.entry.file_name, row.status) for row in rows] == [
        ("000.png", "ok"),
        ("001.png", "ok"),
        ("001a.png", "failed"),
        ("002.png", "ok"),
    ]
    assert rows[2].error == "ended the worker process twice, alone in it"
    assert rows[2].failure == "worker"
    assert not list(Path(data["output"]).glob("labels/*.journal.json"))
    note(
        fault="image that ends its worker every time",
        times=1,
        lost=0,
        resume_s=seconds,
        undisturbed_s=undisturbed.seconds,
    )
