"""Small means of measuring: memory peaks, arithmetic, the machine; results as JSON."""

from __future__ import annotations

import json
import platform
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

SAMPLE_S = 0.005
PACKAGES = ("ntt-ray", "torch", "torchvision", "timm", "rf-sam-2", "ray", "pycocotools")


class Peak:
    """Most memory above what was there at the start, in bytes."""

    bytes: int = 0


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Peak]:
    """Watch the memory of this process (or the GPU's) while a block runs."""
    peak = Peak()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield peak
        peak.bytes = torch.cuda.max_memory_allocated(device) - before
        return
    before, stop = resident_bytes(), threading.Event()

    def watch() -> None:
        while not stop.wait(SAMPLE_S):
            peak.bytes = max(peak.bytes, resident_bytes() - before)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    yield peak
    stop.set()
    watcher.join()


def resident_bytes() -> int:
    """Resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def timed(function: Callable[[], Any], device: torch.device) -> tuple[float, Any]:
    """Seconds of wall clock, the device's work included, and what came out."""
    _synchronize(device)
    started = time.perf_counter()
    result = function()
    _synchronize(device)
    return time.perf_counter() - started, result


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def gemm_flops(device: torch.device, dtype: torch.dtype = torch.float32) -> float:
    """FLOP/s of large matrix products here and now: the arithmetic ceiling."""
    n = 8192 if device.type == "cuda" else 2048
    a, b = torch.randn(2, n, n, device=device, dtype=dtype)
    seconds = min(timed(lambda: a @ b, device)[0] for _ in range(4))
    return 2 * n**3 / seconds


def machine(device: torch.device) -> dict[str, Any]:
    """What it was measured on."""
    name = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            name = line.split(":", 1)[1].strip()
            break
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "cpu": name,
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "python": platform.python_version(),
        "versions": versions,
        "date": time.strftime("%Y-%m-%d"),
    }


def write_json(path: Path, result: dict[str, Any]) -> None:
    """Write a result for the table in ``benchmarks/README.md``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {path}")
