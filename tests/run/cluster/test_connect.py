"""Which Ray is joined or started (the fake stands for ``ray.init``), and where its logs are."""

import re
import sys
from pathlib import Path

import pytest
import ray

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
