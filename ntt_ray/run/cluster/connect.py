"""Ray itself: starting or joining a cluster, what it has, what its errors hide."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray._private.accelerators import get_accelerator_manager_for_resource

from ntt_ray.config import JobConfig
from ntt_ray.errors import ClusterError, NttRayError
from ntt_ray.run.cluster.placement import Layout, Node, Resources, fit
from ntt_ray.run.cluster.quiet import quiet_core
from ntt_ray.stages import Stage

logger = logging.getLogger(__name__)

SETTLE_S = 3.0  # for which what others have reserved is looked at again
ANSWER_S = 3.0  # how long a cluster is waited for before Ray itself asks it
_SETTINGS = b"\x04"  # the type of a frame, behind its length; RFC 9113, sections 3.4 and 6.5
_HTTP2_BEGINNING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0" + _SETTINGS + b"\0" * 5
WHY_LIMIT = 300  # characters of what Ray says of a start that failed
# A machine with as many actors as cores has no room for idle workers in Ray's eyes: it would end
# them after a second, and start a process anew for every unit that is fetched or written.
# Nobody reads the metrics of a Ray that lives as long as one command.
_LOCAL_SYSTEM = {
    "idle_worker_killing_time_threshold_ms": 120_000,
    "enable_metrics_collection": False,
}
# Ray Data appends how to make it try again, which it shall not
_RAY_ADVICE = re.compile(r"\nFailed to [^\n]* after \d+/\d+ attempts .*", re.DOTALL)


def connect(object_store_bytes: int | None = None, cpus: int | None = None) -> None:
    """Join the cluster that ``RAY_ADDRESS`` names, or start Ray on this machine; quietly.

    Args:
        object_store_bytes: shared memory of a Ray that is started here; None: Ray's own choice.
        cpus: that a Ray started here shall count; None: those of the machine.

    Raises:
        ClusterError: Ray cannot be started here, or the cluster does not answer.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if not ray.is_initialized():
        here = not os.environ.get("RAY_ADDRESS")
        on_sigterm = signal.getsignal(signal.SIGTERM)
        _start(
            # without an address, Ray would join whatever `ray start` has left on this machine
            address="local" if here else None,
            log_to_driver=False,
            logging_level=logging.ERROR,
            include_dashboard=False if here else None,
            object_store_memory=object_store_bytes if here else None,
            num_cpus=cpus if here else None,
            _system_config=_LOCAL_SYSTEM if here else None,
        )
        # Ray's own handler drains the node for up to half a minute before anything else ends
        if callable(on_sigterm) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)
    # the traceback of what a worker raised; the error itself is ours to say
    said = logging.ERROR if logger.isEnabledFor(logging.DEBUG) else logging.CRITICAL
    logging.getLogger("ray.data").setLevel(said)


def _start(**options: Any) -> None:
    """`ray.init`, whose errors of many kinds and lines become one of ours with a way on."""
    here = options["address"] == "local"
    # what Ray's core says is for whoever looks for a bug
    quiet = nullcontext() if logger.isEnabledFor(logging.DEBUG) else quiet_core()
    try:
        with Stage("starting Ray on this machine" if here else "joining the Ray cluster"), quiet:
            ray.init(**options)
    except Exception as error:
        why = " ".join(str(error).split())[:WHY_LIMIT] or type(error).__name__
        raise ClusterError(_cannot_start(why) if here else _cannot_join(why)) from error


def _cannot_start(why: str) -> str:
    folder = f"{os.environ.get('RAY_TMPDIR') or '/tmp'}/ray"  # noqa: S108
    return (
        f"Ray cannot be started on this machine: {why} (its logs: {folder}/session_latest/logs). "
        "Most often the machine is too busy, memory is short, or the disk of that folder is full: "
        "start the same command again, or name another folder with RAY_TMPDIR"
    )


def _cannot_join(why: str) -> str:
    return (
        f"RAY_ADDRESS={os.environ.get('RAY_ADDRESS')}: the Ray cluster cannot be joined: {why}. "
        "Start it, name another one, or unset RAY_ADDRESS to work on this machine"
    )


def check_address() -> None:
    """Find out soon whether anything answers where ``RAY_ADDRESS`` names a host and a port.

    Raises:
        ClusterError: nothing does; Ray itself would try for half a minute and more.
    """
    address = os.environ.get("RAY_ADDRESS", "")
    if address.startswith(("http://", "https://")):
        why = "it is a dashboard's, for `ray job submit`; here it is HOST:PORT, the port often 6379"
        raise ClusterError(_cannot_join(why))
    host, _, port = address.rpartition(":")
    if ray.is_initialized() or not host or not port.isdecimal() or "/" in host:
        return
    try:
        is_head = _speaks_http2(host.strip("[]"), int(port))
    except (OSError, OverflowError) as error:
        raise ClusterError(_cannot_join(str(error) or type(error).__name__)) from None
    if not is_head:
        why = "what answers there is no head of a cluster, whose port is often 6379"
        raise ClusterError(_cannot_join(why))


def _speaks_http2(host: str, port: int) -> bool:
    """Whether the server of a host and port begins as a gRPC server does, as a head has one."""
    with socket.create_connection((host, port), timeout=ANSWER_S) as link:
        if os.environ.get("RAY_USE_TLS", "0") != "0":
            return True  # Ray itself has the certificates for more
        link.sendall(_HTTP2_BEGINNING)
        try:
            return link.recv(9, socket.MSG_WAITALL)[3:4] == _SETTINGS
        except (TimeoutError, ConnectionError):
            return False


def local_layout() -> Layout:
    """What Ray would count on this machine, if it were started here."""
    gpus = get_accelerator_manager_for_resource("GPU")
    assert gpus is not None
    count = gpus.get_current_node_num_accelerators()
    visible = gpus.get_current_process_visible_accelerator_ids()
    if visible is not None:
        count = min(count, len(visible))
    kind = gpus.get_current_node_accelerator_type() if count else None
    return Layout((Node(float(os.cpu_count() or 1), float(count), kind),))


def see_reserved_gpus_only() -> None:
    """In a worker that reserves no GPU: see none.

    Ray lets it see all of its node, and what takes "the GPU, if there is one" would take memory
    from the actor that reserved it. Ray's own switch for this would be a runtime environment, which
    makes every worker of a cluster that is joined start anew, seconds later.
    """
    if not ray.get_gpu_ids():
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def decide(job: JobConfig, device: str) -> Resources:
    """Fit the settings to the cluster that this process has joined, see `placement.fit`.

    On a cluster that is shared, what others have reserved counts as theirs. A run that has just
    been killed gives back what it had within moments, for which this waits.
    """
    found = layout()
    until = time.monotonic() + SETTLE_S
    while any(node.free() != replace(node, free_cpus=None, free_gpus=None) for node in found.nodes):
        if time.monotonic() >= until:
            break
        time.sleep(SETTLE_S / 6)
        found = layout()
    return fit(job, device, found)


def layout() -> Layout:
    """The nodes of the cluster that this process has joined."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    alive = {node["NodeID"]: node["Resources"] for node in nodes if node["Alive"]}
    # a Ray of this machine alone has nobody else's work
    free = {}
    if os.environ.get("RAY_ADDRESS"):
        free = ray._private.state.available_resources_per_node()  # type: ignore[no-untyped-call]
    # what Ray Data itself asks; an autoscaler of the first version does not say
    config = ray._private.state.state.get_cluster_config()
    groups = config.node_group_configs if config else ()
    addable = [
        dict(group.resources)
        for group in groups
        if group.max_count == -1 or group.max_count > group.min_count
    ]
    return Layout(
        tuple(_node(has, free.get(name)) for name, has in alive.items()),
        tuple(map(_node, addable)),
    )


def node_memory() -> list[float]:
    """Bytes of memory that Ray counts on each node where tasks may run."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    working = [node["Resources"] for node in nodes if node["Alive"]]
    return [found.get("memory", 0.0) for found in working if found.get("CPU", 0.0) > 0]


def _node(resources: Mapping[str, float], free: Mapping[str, float] | None = None) -> Node:
    prefix = "accelerator_type:"
    kinds = [name.removeprefix(prefix) for name in resources if name.startswith(prefix)]
    cpus, gpus = (resources.get(name, 0.0) for name in ("CPU", "GPU"))
    node = Node(cpus, gpus, min(kinds) if kinds else None)
    if free is None:
        return node
    # Ray does not name what is used up
    return replace(node, free_cpus=free.get("CPU", 0.0), free_gpus=free.get("GPU", 0.0))


def this_log() -> str:
    """Where the log of this worker is, in words, for an error that a person will read."""
    context = ray.get_runtime_context()
    path = Path(ray._private.worker.global_worker.get_err_file_path())
    name = f"worker-{context.get_worker_id()}*.err"
    address = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    return (
        f"its traceback: {path} on {address}; while the cluster is up: "
        f"ray logs cluster '{name}' --node-ip {address} --address {context.gcs_address}"
    )


def our_error(error: BaseException) -> BaseException:
    """The error of this package inside what Ray raises, or the outermost one."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, NttRayError) and not isinstance(seen, ray.exceptions.RayError):
            if seen.args and isinstance(seen.args[0], str):
                seen.args = (_RAY_ADVICE.sub("", seen.args[0]), *seen.args[1:])
            return seen
        cause = getattr(seen, "cause", None)
        seen = cause if isinstance(cause, BaseException) else seen.__cause__ or seen.__context__
    return error
