"""How many actors a cluster holds and what they reserve; then real actors on declared GPUs."""

import json
import os
import subprocess
import sys

import pytest
from ray.cluster_utils import Cluster

from ntt_ray.config import JobConfig, build_config
from ntt_ray.errors import ConfigError
from ntt_ray.run.cluster.placement import NODE_CPUS, Layout, Node, fetch_memory, fit
from tests.support.paths import ROOT

GPU = Node(8, 1)
# name: (nodes, settings of `job`, device) -> (device, actors, CPUs of each, GPUs of each)
LAYOUTS = {
    "a laptop": ([Node(2)], {}, "auto", ("cpu", 2, 0.75, 0)),
    "one core": ([Node(1)], {}, "auto", ("cpu", 1, 0.5, 0)),
    "an empty head, two workers": ([Node(0), Node(2), Node(2)], {}, "auto", ("cpu", 4, 0.75, 0)),
    "uneven workers": ([Node(2), Node(32)], {}, "auto", ("cpu", 34, 0.75, 0)),
    "fewer actors than cores": ([Node(8)], {"actors": 2}, "auto", ("cpu", 2, 1.0, 0)),
    "more actors than cores": ([Node(2)], {"actors": 4}, "auto", ("cpu", 4, 0.37, 0)),
    "an actor per GPU": ([Node(4), GPU, GPU], {}, "auto", ("cuda", 2, 4.0, 1)),
    "eight GPUs": ([Node(96, 8)], {}, "auto", ("cuda", 8, 4.0, 1)),
    "two actors share a GPU": ([GPU, GPU], {"gpus_per_actor": 0.5}, "auto", ("cuda", 4, 3.75, 0.5)),
    "a share spans no two GPUs": (
        [Node(64, 2)],
        {"gpus_per_actor": 0.4},
        "auto",
        ("cuda", 4, 4, 0.4),
    ),
    "two GPUs per actor": (
        [Node(32, 3), GPU],
        {"gpus_per_actor": 2.0},
        "auto",
        ("cuda", 1, 4.0, 2),
    ),
    "few cores per GPU": ([Node(4, 4)], {}, "auto", ("cuda", 4, 0.87, 1)),
    "GPU nodes without cores": ([Node(8), Node(0, 1)], {}, "auto", ("cuda", 1, 0.0, 1)),
    "the CPU although there are GPUs": ([GPU], {}, "cpu", ("cpu", 8, 0.93, 0)),
    "a GPU too small": ([Node(8, 1)], {"gpus_per_actor": 2.0}, "auto", ("cpu", 8, 0.93, 0)),
    "one kind of two": (
        [Node(8, 1, "T4"), Node(8, 2, "L4"), Node(8)],
        {"accelerator": "L4"},
        "auto",
        ("cuda", 2, 3.75, 1),
    ),
}


RESERVED = {
    "twice a unit, and modules": (128 << 20, [64e9], 384 << 20),
    "what a small node can hold": (1 << 30, [64e9, 2e9], 500_000_000),
    "nodes that count none": (128 << 20, [0.0, 64e9], 384 << 20),
    "no node that counts any": (128 << 20, [0.0], None),
    "no node yet": (128 << 20, [], None),
}


@pytest.mark.parametrize(("unit", "nodes", "expected"), RESERVED.values(), ids=RESERVED)
def test_what_a_fetch_task_reserves(unit, nodes, expected):
    assert fetch_memory(unit, nodes) == expected


@pytest.mark.parametrize("case", LAYOUTS)
def test_layouts(case):
    nodes, settings, device, expected = LAYOUTS[case]
    got = fit(JobConfig(**settings), device, Layout(tuple(nodes)))
    assert (got.device, got.actors, got.cpus_per_actor, got.gpus_per_actor) == expected


@pytest.mark.parametrize("cores", range(1, 65))
def test_every_node_keeps_room_to_fetch_and_write(cores):
    got = fit(JobConfig(), "cpu", Layout((Node(cores), Node(cores))))
    assert got.actors == 2 * cores
    assert cores - cores * got.cpus_per_actor >= NODE_CPUS
    assert got.cpus_per_actor >= 0.5


def _used(free: int) -> Node:
    return Node(8, 1, free_cpus=8.0, free_gpus=float(free))


SHARED = {  # settings, GPUs, how many of them are free -> least, most, first size for 100 units
    "auto takes what is free": ("auto", 4, 3, (3, 100, 3)),
    "auto begins with one that waits": ("auto", 4, 0, (1, 100, 1)),
    "a number is a number": (4, 4, 1, (4, 4, 4)),
    "a range takes what is free": ({"min": 1, "max": 8}, 4, 2, (1, 8, 2)),
    "a range asks for its least": ({"min": 3}, 4, 2, (3, 100, 3)),
    "a share of what there is": ({"share": 0.5}, 8, 8, (1, 4, 4)),
    "a share of which a part is free": ({"share": 0.5}, 8, 3, (1, 4, 3)),
    "a share and an end": ({"share": 0.5, "max": 2}, 8, 8, (1, 2, 2)),
    "a share below the least": ({"share": 0.1, "min": 2}, 8, 8, (2, 2, 2)),
    "a share of less than one": ({"share": 0.1}, 4, 4, (1, 1, 1)),
    "a third of three": ({"share": 1 / 3}, 3, 3, (1, 1, 1)),
}


@pytest.mark.parametrize("case", SHARED)
def test_pools_beside_the_work_of_others(case, caplog):
    actors, gpus, free, expected = SHARED[case]
    job = build_config({"images": "x", "output": "y", "bank": "z", "job": {"actors": actors}}).job
    nodes = tuple(_used(number < free) for number in range(gpus))
    with caplog.at_level("INFO"):
        pool = fit(job, "auto", Layout(nodes)).pool(100)
    assert (pool["min_size"], pool["max_size"], pool["initial_size"]) == expected
    waits = actors != 4 and free < gpus and expected[2] < min(gpus, expected[1])
    assert ("others have reserved the rest" in caplog.text) == waits


def test_cpus_that_others_have_reserved():
    got = fit(JobConfig(), "cpu", Layout((Node(8, free_cpus=2.5), Node(4, free_cpus=0.0))))
    assert got.pool(100) == {"min_size": 2, "max_size": 100, "initial_size": 2}


POOLS = {  # settings, nodes now -> least, most, first size of the pool for 100 units
    "auto grows with the cluster": ("auto", 3, (3, 100, 3)),
    "auto where more GPUs than units": ("auto", 400, (100, 100, 100)),
    "a number": (2, 3, (2, 2, 2)),
    "a range takes what is there": ({"min": 1, "max": 8}, 3, (1, 8, 3)),
    "a range asks for more": ({"min": 5, "max": 8}, 3, (5, 8, 5)),
    "a range takes no more": ({"min": 1, "max": 2}, 3, (1, 2, 2)),
    "a range without an end": ({"min": 1}, 3, (1, 100, 3)),
}


@pytest.mark.parametrize("case", POOLS)
def test_pools(case):
    actors, gpus, expected = POOLS[case]
    data = {"images": "x", "output": "y", "bank": "z", "job": {"actors": actors}}
    pool = fit(build_config(data).job, "auto", Layout((GPU,) * gpus)).pool(100)
    assert (pool["min_size"], pool["max_size"], pool["initial_size"]) == expected


def test_gpu_nodes_that_an_autoscaler_will_add():
    got = fit(JobConfig(), "auto", Layout((Node(0), Node(4)), addable=(Node(4), Node(8, 4))))
    assert (got.device, got.actors, got.cpus_per_actor) == ("cuda", 1, 1.87)
    assert got.pool(50) == {"min_size": 1, "max_size": 50, "initial_size": 1}


REFUSALS = {
    "no GPU": ({}, "cuda", "models.device: cuda is asked for, but the cluster has 0 GPUs"),
    "no such kind": ({"accelerator": "L4"}, "auto", "job.accelerator: no L4, there is T4"),
    "no cores": ({}, "cpu", "it has no CPUs"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals(case):
    settings, device, message = REFUSALS[case]
    nodes = {"no GPU": [Node(4)], "no such kind": [Node(4, 1, "T4")], "no cores": [Node(0)]}[case]
    with pytest.raises(ConfigError, match=message):
        fit(JobConfig(**settings), device, Layout(tuple(nodes)))


SETTINGS = {
    "job.actors={min: 3, max: 2}": r"job\.actors\.max: 2 is less than min, 3",
    "job.actors={mim: 3}": r"job\.actors\.mim: unknown key; did you mean min\?",
    "job.actors={share: 0}": r"job\.actors\.share: input should be greater than 0",
    "job.actors={share: 50}": r"job\.actors\.share: input should be less than or equal to 1",
    "job.actors=0": r"job\.actors: input should be greater than or equal to 1",
    "job.gpus_per_actor=1.5": r"job\.gpus_per_actor: 1\.5: above 1 only whole GPUs",
}


@pytest.mark.parametrize("override", SETTINGS)
def test_settings_that_make_no_sense(override):
    with pytest.raises(ConfigError, match=SETTINGS[override]):
        build_config({"images": "x", "output": "y", "bank": "z"}, [override])


@pytest.fixture
def gpu_cluster():
    """An empty head, a node of CPUs, a node of declared GPUs; nothing computes on a GPU."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        cluster.add_node(num_cpus=2)
        gpu_node = cluster.add_node(num_cpus=3, num_gpus=2)
        yield cluster, gpu_node.node_id
    finally:
        cluster.shutdown()


def _probe(cluster: Cluster, settings: dict, units: int) -> subprocess.Popen:
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "tests.support.placement_probe",
            json.dumps(settings),
            str(units),
        ],
        env={**os.environ, "RAY_ADDRESS": cluster.address, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_gpu_actors_on_gpu_nodes_only_and_on_those_that_join(gpu_cluster):
    cluster, gpu_node = gpu_cluster
    with _probe(cluster, {"gpus_per_actor": 0.5}, 2000) as probe:
        units = [json.loads(probe.stdout.readline() or probe.stderr.read()) for _ in range(30)]
        assert {unit["labelled_on"] for unit in units} == {gpu_node}
        assert len({unit["actor"] for unit in units}) == 4  # two on each GPU
        assert {unit["fetched_on"] for unit in units} - {gpu_node}
        joined = cluster.add_node(num_cpus=3, num_gpus=2)
        for line in probe.stdout:
            if json.loads(line)["labelled_on"] == joined.node_id:
                break
        else:
            raise AssertionError(probe.stderr.read())
        probe.kill()


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_what_others_give_back_is_taken(gpu_cluster):
    """Of two GPUs one belongs to somebody else; once it is free, four halves label and not two."""
    cluster, _ = gpu_cluster
    other = (
        "import ray, sys\n"
        "ray.init(log_to_driver=False)\n"
        "@ray.remote(num_gpus=1, num_cpus=0)\n"
        "class Held:\n"
        "    def there(self): return True\n"
        "held = Held.remote()\n"
        "print(ray.get(held.there.remote()), flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", other],
        env={**os.environ, "RAY_ADDRESS": cluster.address},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout.readline() == "True\n"
        with _probe(cluster, {"gpus_per_actor": 0.5}, 2000) as probe:
            units = [json.loads(probe.stdout.readline() or probe.stderr.read()) for _ in range(20)]
            assert {unit["actors"] for unit in units} == {2}  # as many as found room at the start
            assert len({unit["actor"] for unit in units}) == 2
            holder.kill()
            actors = set()
            for line in probe.stdout:
                actors.add(json.loads(line)["actor"])
                if len(actors) == 4:
                    break
            else:
                raise AssertionError(probe.stderr.read())
            probe.kill()
