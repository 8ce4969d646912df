"""Which Ray is joined or started (the fake stands for ``ray.init``), and where its logs are."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import ray

from ntt_ray.errors import ClusterError
from ntt_ray.run.cluster.connect import connect, this_log

CASES = {
    "a cluster that is named is joined": ("auto", None),
    # `ray start` leaves one behind, which takes none of our settings
    "without a name, not one that happens to be there": (None, "local"),
}


@pytest.mark.parametrize(("named", "address"), CASES.values(), ids=CASES.keys())
def test_which_ray(monkeypatch, named, address):
    asked = []
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **options: asked.append(options))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if named:
        monkeypatch.setenv("RAY_ADDRESS", named)
    connect()
    assert asked[0]["address"] == address
    assert (asked[0]["_system_config"] is None) == bool(named)
    assert "runtime_env" not in asked[0]  # every worker would have to start anew


REFUSED = {
    "no room": (None, OSError("No space left\non device"), "name another folder with RAY_TMPDIR"),
    "no words": (None, RuntimeError(), "Ray cannot be started on this machine: RuntimeError"),
    "no such cluster": ("10.9.9.9:6379", ConnectionError("no answer"), "unset RAY_ADDRESS"),
}


@pytest.mark.parametrize(("named", "error", "said"), REFUSED.values(), ids=REFUSED.keys())
def test_a_ray_that_does_not_start_ends_in_one_line(monkeypatch, named, error, said):
    def fail(**_):
        raise error

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", fail)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if named:
        monkeypatch.setenv("RAY_ADDRESS", named)
    with pytest.raises(ClusterError) as caught:
        connect()
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (named or "on this machine") in str(caught.value)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_worker_says_where_its_log_is():
    @ray.remote(num_cpus=0.1)
    def fail() -> str:
        print("what went wrong", file=sys.stderr, flush=True)
        return this_log()

    said = ray.get(fail.remote())
    path = re.match(r"its traceback: (/\S+) on ", said)[1]
    assert "what went wrong" in Path(path).read_text()
    # as it must be typed: the shell shall not expand the asterisk
    pattern = re.search(r"ray logs cluster '(\S+)' --node-ip \S+ --address \S+:\d+$", said)[1]
    assert list(Path(path).parent.glob(pattern)) == [Path(path)]


ON_TWO_GPUS = """
import os, ray
from ntt_ray.run.cluster import connect, tasks
start = ray.init
# Ray believes what it is told: the machine needs no GPU
ray.init = lambda **options: start(**options, num_gpus=2)
connect.connect(cpus=2)
see = lambda: os.environ["CUDA_VISIBLE_DEVICES"]
print([tasks.run_task(see, options=options) for options in ({}, {"num_gpus": 0.5}, {})])
class Actor:
    def __init__(self, argument):
        pass
    def come(self):
        return True
# of which the core of Ray says something in red
ray.get(ray.remote(max_restarts=1)(Actor).remote(ray.put(b"bank")).come.remote())
"""


@pytest.mark.ray
@pytest.mark.slow
def test_a_task_sees_the_gpus_that_it_reserves_and_no_other():
    """In a process of its own, with a Ray that counts two GPUs; which says nothing that alarms."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "0,1"}
    environment.pop("RAY_ADDRESS", None)
    command = [sys.executable, "-c", ON_TWO_GPUS]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == "['', '0', '']", done.stderr
    assert "constructor arguments" not in done.stderr
    assert "RAY_BACKEND_LOG_LEVEL" not in os.environ
