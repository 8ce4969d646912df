"""Planning very many images: seconds and memory of listing them and of writing their manifest.

    python -m benchmarks.manifest --images 1000000 10000000
    python -m benchmarks.manifest --images 1000000 --kinds listing   # or table, csv, shuffled

``listing`` is a bucket in 365 folders, whose pages come from memory at once and in no order;
``table`` a Parquet table of addresses with sizes, ``csv`` the same as text, ``shuffled`` the table
with its rows in no order. Each is planned in a process of its own as a new run plans it: listed,
checked, divided into units, written, published below a local folder. Then ``resume``: the manifest
is opened again, its digest and units read, and the ids of every unit.
"""

from __future__ import annotations

import argparse
import csv
import json
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.scaling import apart
from ntt_ray.config import Config, build_config
from ntt_ray.run import manifest as manifest_file
from ntt_ray.run import prepare
from ntt_ray.run.layout import MANIFEST_FILE
from ntt_ray.run.local_manifest import local_manifest
from ntt_ray.storage import Storage

KINDS = ("listing", "table", "csv", "shuffled")
FOLDERS, PAGE = 365, 1000
STRIDE = 7919  # a prime: rows in this order are in none
ROWS = 1 << 20
MIB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, nargs="+", default=[1_000_000])
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    parser.add_argument("--image-bytes", type=int, default=300_000)
    parser.add_argument("--json", type=Path, default=None)
    arguments = parser.parse_args()
    runs = []
    for images in arguments.images:
        for kind in arguments.kinds:
            with tempfile.TemporaryDirectory(prefix="manifest-") as name:
                folder = Path(name)
                if kind != "listing":
                    apart(write_table, folder, kind, images, arguments.image_bytes)
                planned = apart(plan, folder, kind, images, arguments.image_bytes)
                runs.append({**planned, "resume": apart(resume, folder, kind)})
    print(table(runs))
    if arguments.json:
        arguments.json.write_text(json.dumps(runs, indent=1) + "\n", encoding="utf-8")


def names_of(numbers: Any) -> list[str]:
    """File names of images by their numbers; 39 letters each."""
    return [f"photos/2026/day-{n % FOLDERS:03d}/img_{n:012d}.jpg" for n in numbers.tolist()]


def write_table(folder: Path, kind: str, images: int, image_bytes: int) -> None:
    """A table of images with their sizes."""
    for start in range(0, images, ROWS):
        numbers = np.arange(start, min(images, start + ROWS))
        if kind == "shuffled":
            numbers = numbers * STRIDE % images
        names = names_of(numbers)
        _append(folder / _table(kind), names, image_bytes, start == 0)
    _close()


_writers: list[pq.ParquetWriter] = []


def _append(path: Path, names: list[str], image_bytes: int, first: bool) -> None:
    if path.suffix == ".csv":
        with path.open("a", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerows([("uri", "size")] if first else [])
            writer.writerows((name, image_bytes) for name in names)
        return
    rows = pa.table({"uri": names, "size": [image_bytes] * len(names)})
    if first:
        _writers.append(pq.ParquetWriter(path, rows.schema))
    _writers[-1].write_table(rows)


def _close() -> None:
    while _writers:
        _writers.pop().close()


def _table(kind: str) -> str:
    return "images.csv" if kind == "csv" else "images.parquet"


def _config(folder: Path, kind: str) -> Config:
    images = "s3://bucket" if kind == "listing" else str(folder / _table(kind))
    return build_config(
        {
            "images": images,
            "image_root": None if kind == "listing" else "s3://bucket",
            "output": str(folder / "run"),
            "bank": str(folder / "bank.safetensors"),
        }
    )


def plan(folder: Path, kind: str, images: int, image_bytes: int) -> dict[str, Any]:
    """Plan a new run and publish its manifest."""

    def pages(*_: Any, **__: Any) -> Iterator[dict[str, int]]:
        for start in range(0, images, PAGE):
            numbers = np.arange(start, min(images, start + PAGE)) * STRIDE % images
            yield dict.fromkeys(names_of(numbers), image_bytes)

    store, before = Storage(), _peak_mib()
    with patch.object(Storage, "list_sizes", pages):
        started, cpu = time.perf_counter(), time.process_time()
        found = prepare.new_manifest(_config(folder, kind), store)
        sizes = manifest_file.unit_sizes(found)
        store.publish_stream(str(folder / "run" / MANIFEST_FILE), found.chunks())
    return {
        "images": images,
        "kind": kind,
        "units": len(sizes),
        "seconds": time.perf_counter() - started,
        "cpu_s": time.process_time() - cpu,
        "imported_mib": before,
        "peak_mib": _peak_mib(),
        "manifest_mb": (folder / "run" / MANIFEST_FILE).stat().st_size / 1e6,
    }


def resume(folder: Path, kind: str) -> dict[str, Any]:
    """Open the manifest as a resume does, and read the ids of every unit."""
    before, started = _peak_mib(), time.perf_counter()
    found = local_manifest(_config(folder, kind).output, Storage())
    units, ids = len(manifest_file.unit_sizes(found)), manifest_file.UnitIds(found)
    images = sum(len(ids(unit)) for unit in range(units))
    return {
        "images": images,
        "seconds": time.perf_counter() - started,
        "imported_mib": before,
        "peak_mib": _peak_mib(),
    }


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def table(runs: list[dict[str, Any]]) -> str:
    """One line for each."""
    lines = [
        "| images | from | units | to plan | CPU | peak | manifest | resume: seconds, peak |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {run['images']:,} | {run['kind']} | {run['units']:,} | {run['seconds']:.1f} s "
        f"| {run['cpu_s']:.1f} s | {run['peak_mib']:.0f} MiB | {run['manifest_mb']:.0f} MB "
        f"| {run['resume']['seconds']:.1f} s, {run['resume']['peak_mib']:.0f} MiB |"
        for run in runs
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
