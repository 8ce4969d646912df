"""A Ray cluster of its own for tests of submitted jobs: head, dashboard, job server, free ports.

It is started as people start one, by ``ray start --head``, with a folder of its own below /tmp, and
ended by the ids of its own processes: other clusters on the machine are left alone.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.support.paths import ROOT

BIN = Path(sys.executable).parent
TOKEN = secrets.token_hex(16)  # what people give to clients of a cluster
PORTS = (  # of all of them, or a second Ray on the machine has no job agent
    "port",
    "dashboard-port",
    "ray-client-server-port",
    "metrics-export-port",
    "dashboard-agent-listen-port",
    "dashboard-agent-grpc-port",
    "runtime-env-agent-port",
)
START_S = 60


@dataclass(frozen=True)
class OwnCluster:
    """A running cluster.

    Attributes:
        jobs: address of the job server, ``http://host:port``.
        metrics_url: where Prometheus would ask for the node's metrics.
        folder: of the cluster's own files.
    """

    jobs: str
    metrics_url: str
    folder: Path

    def metrics(self) -> str:
        """What Prometheus would read now."""
        with urllib.request.urlopen(self.metrics_url, timeout=20) as answer:
            return str(answer.read().decode())

    def ray_job(self, verb: str, *arguments: str, cwd: Path = ROOT) -> tuple[int, str]:
        """Run ``ray job ...`` as a client would; gives its exit status and what it said."""
        deadline = time.monotonic() + START_S
        while True:
            done = subprocess.run(
                [str(BIN / "ray"), "job", verb, "--address", self.jobs, *arguments],
                cwd=cwd,
                env=plain_environment(),
                capture_output=True,
                text=True,
                timeout=280,
            )
            said = done.stdout + done.stderr
            # the job agent of a head on a busy machine starts after its job server
            if "No available agent" not in said or time.monotonic() > deadline:
                return done.returncode, said
            time.sleep(1)


def plain_environment(**more: str) -> dict[str, str]:
    """The environment without what would lead a child to another Ray, or to this checkout."""
    left_out = ("RAY_ADDRESS", "PYTHONPATH")
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    ray = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    ray["RAY_metrics_report_interval_ms"] = "500"
    # the nodes' image has our packages in its python
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    return {**kept, "PATH": path, "OMP_NUM_THREADS": "1", **ray, **more}


@contextlib.contextmanager
def own_cluster(cpus: int = 2) -> Iterator[OwnCluster]:
    """Start a cluster of one node, and end it with all its processes."""
    folder = tempfile.mkdtemp(prefix="ntt-", dir="/tmp")  # sockets need a short path
    ports = dict(zip(PORTS, _free_ports(len(PORTS))))
    command = [
        str(BIN / "ray"),
        "start",
        "--head",
        "--block",
        f"--temp-dir={folder}",
        f"--num-cpus={cpus}",
    ]
    command += ["--object-store-memory=200000000", "--dashboard-host=127.0.0.1"]
    command += [f"--{name}={port}" for name, port in ports.items()]
    with (Path(folder) / "start.log").open("wb") as log:
        head = subprocess.Popen(
            command,
            env=plain_environment(),
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        jobs = f"http://127.0.0.1:{ports['dashboard-port']}"
        _wait_for(f"{jobs}/api/version", head, Path(folder) / "start.log")
        metrics = f"http://127.0.0.1:{ports['metrics-export-port']}/metrics"
        yield OwnCluster(jobs, metrics, Path(folder))
    finally:
        _end(head, folder)
        shutil.rmtree(folder, ignore_errors=True)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _wait_for(url: str, head: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        assert head.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except urllib.error.HTTPError:
            return  # it is there, and asks for the token
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise AssertionError(f"no job server after {START_S} s: {log.read_text()}")


def _end(head: subprocess.Popen[bytes], folder: str) -> None:
    """End the head's processes: its descendants, and those that name its folder."""
    mine = [psutil.Process(head.pid), *psutil.Process(head.pid).children(recursive=True)]
    for process in psutil.process_iter(["cmdline"]):
        if any(folder in word for word in process.info["cmdline"] or ()):
            mine.append(process)
    for process in mine:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(mine, timeout=20)
    head.wait(timeout=20)
