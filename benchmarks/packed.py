"""What packed images ask of a store: requests to index them and to read a unit, and seconds.

    python -m benchmarks.packed --images 1024 --units 8 --members 100000 --label 64

The store is the tests' S3 server on this machine; requests to it are counted where s3fs makes them.
Seconds are ratios to loose files in the same run: the server is slow, and as slow for all.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from s3fs.core import S3FileSystem

from ntt_ray.records import ImageEntry
from ntt_ray.run.fetch import fetch_images
from ntt_ray.sources.image_list import list_images
from ntt_ray.sources.schema import entries_of
from ntt_ray.sources.stretches import Stretches
from ntt_ray.storage import Storage
from tests.support.packed import FORMS
from tests.support.s3_store import own_s3

TIMEOUT_S = 300.0


@dataclass(frozen=True)
class Asked:
    """What a form of images asked of the store.

    Attributes:
        listing: requests to list the images, by S3's name for them.
        gets: ``GetObject`` requests of each unit.
        index_s: seconds to list the images.
        read_s: seconds to read all units.
    """

    listing: dict[str, int]
    gets: list[int]
    index_s: float
    read_s: float


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Counts the requests of s3fs in this process, by S3's name for them."""
    counts: Counter[str] = Counter()
    ask = S3FileSystem._call_s3

    async def call(self: Any, method: str, *arguments: Any, **options: Any) -> Any:
        counts[method] += 1
        return await ask(self, method, *arguments, **options)

    with patch.object(S3FileSystem, "_call_s3", call):
        yield counts


def made_images(count: int, size: int) -> dict[str, bytes]:
    """Names and bytes that nothing packs."""
    rng = np.random.default_rng(0)
    return {f"{n:06d}.jpg": rng.bytes(size) for n in range(count)}


def asked(images: str, units: int, store: Storage, expected: list[bytes]) -> Asked:
    """List images and read them, unit by unit; checks every byte."""
    with counted() as counts:
        begun = time.monotonic()
        entries = entries_of(list_images(images, None, store))
        index_s, listing = time.monotonic() - begun, dict(counts)
    size, gets, read_s = -(-len(entries) // units), [], 0.0
    for start in range(0, len(entries), size):
        own = entries[start : start + size]
        with counted() as counts:
            begun = time.monotonic()
            data = _read(own, store)
            read_s += time.monotonic() - begun
        assert data == expected[start : start + size]
        gets.append(counts["get_object"])
    return Asked(listing, gets, index_s, read_s)


def _read(entries: list[ImageEntry], store: Storage) -> list[bytes | None]:
    read = Stretches([entry.uri for entry in entries], store.read_bytes, store.read_cells)
    return [image.data for image in fetch_images(entries, read, TIMEOUT_S)]


def measured(images: dict[str, bytes], units: int) -> dict[str, Asked]:
    """Every form of some images, on a store of its own."""
    found = {}
    with own_s3() as s3, tempfile.TemporaryDirectory() as folder:
        store = s3.storage()
        store.exists(f"{s3.prefix()}/none")  # the first request of a process takes longer
        for form, write in FORMS.items():
            local, prefix = Path(write(images, Path(folder) / form)), s3.prefix()
            files = [local] if local.is_file() else [p for p in local.rglob("*") if p.is_file()]
            for path in files:
                name = path.name if local.is_file() else path.relative_to(local).as_posix()
                store.publish_file(f"{prefix}/{name}", path)
            where = f"{prefix}/{local.name}" if local.is_file() else prefix
            found[form] = asked(where, units, store, list(images.values()))
    return found


def index_memory(members: int) -> tuple[float, float]:
    """Seconds and megabytes that indexing a tar of so many small images takes in a new process."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "many.tar"
        with tarfile.open(path, "w") as tar:
            for number in range(members):
                tar.addfile(tarfile.TarInfo(f"{number // 1000:04d}/{number:09d}.jpg"))
        context = multiprocessing.get_context("spawn")
        with context.Pool(1) as pool:
            return pool.apply(_indexed, (str(path), members))


def _indexed(path: str, members: int) -> tuple[float, float]:
    before, begun = _peak_mb(), time.monotonic()
    assert len(list_images(path, None, Storage())) == members
    return time.monotonic() - begun, _peak_mb() - before


def _peak_mb() -> float:
    """Most memory that this process had; ``ru_maxrss`` would count the one that started it."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if "VmHWM" in line)


def table(found: dict[str, Asked]) -> str:
    """The rows for ``benchmarks/README.md``."""
    loose = found["loose files"]
    lines = [
        "| Form | requests to list | GETs of a unit | seconds to list, to read (loose files: 1) |",
        "|---|---|---|---|",
    ]
    for form, own in found.items():
        listing = ", ".join(f"{count} {name}" for name, count in sorted(own.listing.items()))
        gets = f"{min(own.gets)} to {max(own.gets)}" if len(set(own.gets)) > 1 else own.gets[0]
        ratios = f"{own.index_s / loose.index_s:.2f}, {own.read_s / loose.read_s:.2f}"
        lines.append(f"| {form} | {listing} | {gets} | {ratios} |")
    return "\n".join(lines)


def same_detections(images: int) -> dict[str, int]:
    """So many of the demo's scenes in every form, labelled with its models: detections in each.

    Raises:
        AssertionError: they are not those of loose files.
    """
    from ntt_ray.config import load_config
    from ntt_ray.demo.example import render_example
    from ntt_ray.merge import job as merge_job
    from ntt_ray.run.label import label

    results, counts = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        path, overrides = render_example(root / "demo", images=images)
        pictures = root / "demo" / "scenes" / "targets" / "images"
        scenes = {p.name: p.read_bytes() for p in sorted(pictures.iterdir())}
        for form, write in FORMS.items():
            where = write(scenes, root / form)
            own = [f"images={json.dumps(where)}", f"output={json.dumps(str(root / form / 'run'))}"]
            config = load_config(str(path), [*overrides, "image_root=null", *own])
            label(config, lambda _unit, _done, _total: None)
            merge_job.merge(config)
            results[form] = json.loads((root / form / "run" / "results.json").read_text())
            counts[form] = len(results[form])
            assert results[form] == results["loose files"], form
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--size", type=int, default=100_000, help="bytes of an image")
    parser.add_argument("--units", type=int, default=8)
    parser.add_argument("--members", type=int, default=100_000, help="of the tar that is indexed")
    parser.add_argument("--label", type=int, default=0, help="label so many demo scenes, too")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    found = measured(made_images(arguments.images, arguments.size), arguments.units)
    print(table(found))
    seconds, megabytes = index_memory(arguments.members)
    print(
        f"index of {arguments.members:,} members: {megabytes:.0f} MB above start, {seconds:.1f} s"
    )
    result: dict[str, Any] = {
        "forms": {form: vars(own) for form, own in found.items()},
        "index_mb": megabytes,
    }
    if arguments.label:
        result["detections"] = same_detections(arguments.label)
        print("detections, equal in every form:", result["detections"])
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
