"""Memory of fetching large images: of one task, and of all workers of a run whose models sleep.

    python -m benchmarks.fetch_memory --image-mb 0.65 6.5
    python -m benchmarks.fetch_memory --image-mb 6.5 --known    # sizes stand in the table

The images are small pictures in large files. One process fetches a unit three times: the most that
it takes, and what it keeps after, beside what a process takes that has fetched nothing. Then a run:
own memory (what a process shares with nobody, Ray's object store left out) of the workers that
fetch, label, write or wait, and what the object store spilled to the disk. Ray is told of `--cpus`
cores.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import re
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from PIL import Image
from ray._private.internal_api import memory_summary

from benchmarks.scaling import apart, models_of, write_inputs
from benchmarks.sleeping import SleepingSpec
from ntt_ray.config import Config, build_config
from ntt_ray.records import ImageEntry
from ntt_ray.run import fetch, models
from ntt_ray.run.cluster.connect import connect, decide
from ntt_ray.run.label import label
from ntt_ray.storage import Storage

CALLS = 3  # of one process
SAMPLE_S = 0.2
STORE_BYTES = 2 << 30
SEGMENT_BYTES = 65_533  # of a JPEG's application data, at most
TITLES = {"fetch_units": "fetch", "LabelActor": "label", "write_units": "write", "IDLE": "idle"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--image-mb", type=float, nargs="+", default=[0.65, 6.5])
    parser.add_argument("--images-per-unit", type=int, default=256)
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--image-s", type=float, default=0.02)
    parser.add_argument("--cpus", type=int, default=16)
    parser.add_argument("--actors", type=int, default=2)
    parser.add_argument("--known", action="store_true", help="sizes stand in the table")
    parser.add_argument("--json", type=Path, default=None)
    arguments = parser.parse_args()
    runs = []
    with tempfile.TemporaryDirectory(prefix="fetch-memory-") as name:
        folder = Path(name)
        apart(write_inputs, folder)
        for size in arguments.image_mb:
            image = folder / f"{size:g}.jpg"
            write_image(image, round(1e6 * size))
            one = apart(one_task, image, arguments.images_per_unit)
            whole = apart(whole_run, image, vars(arguments) | {"json": None})
            runs.append({"image_mb": size, "task": one, "run": whole})
    print(table(runs))
    if arguments.json:
        arguments.json.write_text(json.dumps(runs, indent=1) + "\n", encoding="utf-8")


def write_image(path: Path, size: int) -> None:
    """A JPEG of 64 x 48 pixels in a file of about so many bytes: the rest is application data."""
    Image.new("RGB", (64, 48), (90, 120, 150)).save(path)
    data, filled = path.read_bytes(), bytearray()
    while len(data) + len(filled) < size:
        filled += b"\xff\xef" + (SEGMENT_BYTES + 2).to_bytes(2, "big") + os.urandom(SEGMENT_BYTES)
    path.write_bytes(data[:2] + filled + data[2:])


class _Job:
    """What fetching asks of a job."""

    store, output, manifest_digest = Storage(), "", ""
    image_timeout_s, patience_s = 60.0, 0.0
    unit_bytes = 128 << 20


def one_task(image: Path, images_per_unit: int) -> dict[str, Any]:
    """Fetch a unit again and again in this process; megabytes above those at the start."""
    per_unit = min(images_per_unit, max(1, int(128e6 / image.stat().st_size)))
    entries = [ImageEntry(i + 1, f"{i}.jpg", str(image)) for i in range(per_unit)]
    batch, before, calls = pa.table({"shard_id": [0], "again": [False]}), _own_mb(), []
    with patch.object(fetch, "read_unit", lambda *_: entries):
        for _ in range(CALLS):
            Path("/proc/self/clear_refs").write_text("5")
            found = fetch.fetch_units(batch, _Job())  # type: ignore[arg-type]
            peak = _peak_mb()
            del found
            gc.collect()
            calls.append({"peak_mb": peak - before, "kept_mb": _own_mb() - before})
    return {"unit_mb": per_unit * image.stat().st_size / 1e6, "calls": calls}


def _own_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


def _peak_mb() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6


def whole_run(image: Path, asked: dict[str, Any]) -> dict[str, Any]:
    """A run of one image many times; megabytes of its workers by what they do, and spilled."""
    with tempfile.TemporaryDirectory(prefix="run-", dir=image.parent) as name:
        config = _config(Path(name), image, asked)
        connect(object_store_bytes=STORE_BYTES, cpus=asked["cpus"])
        spec = SleepingSpec(config.models, image_s=asked["image_s"], masks=3)
        decided = patch.object(models, "_decided", lambda c, s: (spec, decide(c.job, "cpu")))
        units: list[int] = []
        started = time.monotonic()
        with _watching() as peaks, decided:
            label(config, lambda unit, *_: units.append(unit.images))
        seconds = time.monotonic() - started
        left = _by_kind()
        spilled = _spilled_mib()
        ray.shutdown()
    return {
        "units": len(units),
        "largest": max(units),
        "images": sum(units),
        "seconds": seconds,
        "peaks": dict(peaks),
        "left": left,
        "spilled_mib": spilled,
    }


def _config(folder: Path, image: Path, asked: dict[str, Any]) -> Config:
    count = asked["images"]
    columns: dict[str, Any] = {
        "uri": [str(image)] * count,
        "file_name": [f"{number:06d}.jpg" for number in range(count)],
    }
    if asked["known"]:
        columns["size"] = [image.stat().st_size] * count
    pq.write_table(pa.table(columns), folder / "images.parquet")
    return build_config(
        {
            "images": str(folder / "images.parquet"),
            "output": str(folder / "out"),
            "bank": str(image.parent / "bank.safetensors"),
            "models": models_of(image.parent),
            "job": {"images_per_unit": asked["images_per_unit"], "actors": asked["actors"]},
        }
    )


@contextmanager
def _watching() -> Iterator[dict[str, float]]:
    """The most megabytes and processes that were seen, by kind of worker, and of all together."""
    peaks, stop = defaultdict[str, float](float), threading.Event()

    def watch() -> None:
        while not stop.wait(SAMPLE_S):
            for key, value in _by_kind().items():
                peaks[key] = max(peaks[key], value)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peaks
    finally:
        stop.set()
        thread.join()


def _by_kind() -> dict[str, float]:
    """Megabytes of the workers of each kind, how many of them there are, and megabytes of all."""
    found = defaultdict[str, float](float)
    for process in psutil.Process().children(recursive=True):
        try:
            title = " ".join(process.cmdline())
            kind = next((TITLES[name] for name in TITLES if name in title), None)
            if kind is None or not title.startswith("ray::"):
                continue
            maps = process.memory_maps(grouped=True)
        except psutil.Error:
            continue
        own = sum(m.private_dirty + m.private_clean for m in maps if "plasma" not in m.path) / 1e6
        found[kind] += own
        found[f"{kind} processes"] += 1
        found["all"] += own
    return {key: round(value) for key, value in found.items()}


def _spilled_mib() -> int:
    text = memory_summary(ray.get_runtime_context().gcs_address, stats_only=True)
    match = re.search(r"Spilled (\d+) MiB", text)
    return int(match[1]) if match else 0


def table(runs: Sequence[dict[str, Any]]) -> str:
    """One line for each size of images."""
    lines = [
        "| images | a task: unit, peak, kept | units, largest | idle after | all, peak "
        "| fetching at once | spilled |",
        "|---|---|---|---|---|---|---|",
    ]
    for run in runs:
        task, whole = run["task"], run["run"]
        calls, peaks, left = task["calls"], whole["peaks"], whole["left"]
        peak = max(call["peak_mb"] for call in calls)
        lines.append(
            f"| {run['image_mb']:g} MB | {task['unit_mb']:.0f} MB, {peak:.0f} MB, "
            f"{calls[-1]['kept_mb']:.0f} MB | {whole['units']}, {whole['largest']} images "
            f"| {left.get('idle', 0):.0f} MB of {left.get('idle processes', 0):.0f} "
            f"| {peaks.get('all', 0):.0f} MB | {peaks.get('fetch processes', 0):.0f} "
            f"| {whole['spilled_mib']} MiB |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    print(sys.version.split()[0], file=sys.stderr)
    main()
