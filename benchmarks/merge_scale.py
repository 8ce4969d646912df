"""Merging made-up shards to one COCO file through Ray: annotations/s, and memory of each process.

    python -m benchmarks.merge_scale --images 1000000 --folder DIR --check

Writes shards of 10 annotations an image (kept in the folder for the next time), merges them on
this machine's cores, and samples the resident memory of the driver and of
everything Ray started. Resident counts shared memory in every process that maps it; "own" does
not. Bytes of the driver are those that its store writes, and what tasks give back
to it. `--part-bytes 300000` divides a file into as many parts as a store takes.
`--check` reads the whole file again: ids, and a hundredth of the images by
pycocotools against the shards.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import ijson
import psutil
import torch
from pycocotools.coco import COCO

from benchmarks.made_shards import CLASSES, write_shards
from benchmarks.measure import machine, write_json
from ntt_ray.merge import text_files
from ntt_ray.merge.fragments import IMAGES, KEPT, Layout
from ntt_ray.merge.passes import MergeCounts, count_shards, write_profiles
from ntt_ray.merge.rendering import Merge, Source
from ntt_ray.merge.thresholds import Thresholds
from ntt_ray.records import ImageLabels
from ntt_ray.run.cluster.tasks import map_on_ray
from ntt_ray.run.shard import existing_shards, iter_labels, read_shard
from ntt_ray.storage import Storage, StoredPart, Upload

PER_IMAGE, IMAGES_PER_SHARD = 10, 256
BYTES_PER_IMAGE = 6000  # shard and COCO file together, about
SAMPLE_S = 0.5
EVERY = 100  # shards that the check compares: one in so many
KEEP_ALL = Thresholds(0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, nargs="+", default=[100_000])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--prepare", action="store_true", help="write the shards and stop")
    parser.add_argument("--part-bytes", type=int, default=text_files.PART_BYTES)
    parser.add_argument("--json", type=Path, default=None)
    arguments = parser.parse_args()
    text_files.PART_BYTES = arguments.part_bytes
    for images in arguments.images:
        prepare(arguments.folder, images)
    if arguments.prepare:
        return
    runs = [measured(arguments.folder, images) for images in arguments.images]
    if arguments.check:
        for run, images in zip(runs, arguments.images, strict=True):
            run["check"] = checked(_output(arguments.folder, images), run["annotations"])
    result = {"benchmark": "merge_scale", "runs": runs, "machine": machine(torch.device("cpu"))}
    print(json.dumps(runs, indent=1))
    if arguments.json:
        write_json(arguments.json, result)


def _output(folder: Path, images: int) -> str:
    return str(folder / f"run-{images}")


def prepare(folder: Path, images: int) -> None:
    """Write the shards, unless they are there from another time."""
    output, started = _output(folder, images), time.perf_counter()
    shards = -(-images // IMAGES_PER_SHARD)
    if len(existing_shards(output, Storage())) == shards:
        return
    folder.mkdir(parents=True, exist_ok=True)
    needed, free = images * BYTES_PER_IMAGE, shutil.disk_usage(folder).free
    if free < needed:
        raise SystemExit(f"{folder}: {free / 1e9:.1f} GB are free, {needed / 1e9:.1f} GB needed")
    for _ in write_shards(
        output, images, per_image=PER_IMAGE, images_per_shard=IMAGES_PER_SHARD, masks=4000
    ):
        pass
    print(f"wrote {shards} shards in {time.perf_counter() - started:.0f} s")


def measured(folder: Path, images: int) -> dict[str, Any]:
    """Merge once, with a Ray of its own."""
    import ray

    output, store = _output(folder, images), DriversStorage()
    shard_ids = sorted(existing_shards(output, store))
    given = [0]

    def mapper(function: Any, items: Any, *, large: bool = False) -> Any:
        for result in map_on_ray(function, items, large=large):
            given[0] += ForkingPickler.dumps(result).nbytes
            yield result

    started = time.perf_counter()
    with started_ray(), sampled() as peaks:
        begun = time.perf_counter()
        source = Source(output, store, KEEP_ALL)
        indices = count_shards(source, shard_ids, mapper)
        counted, of_counts = time.perf_counter(), given[0]
        info = {"description": "made up"}
        merge = Merge(source, Layout(indices), CLASSES, info, mapper=mapper)
        written = write_profiles(merge, ("coco",))
        ended = time.perf_counter()
    assert not ray.is_initialized()
    row = _row(output, MergeCounts.of(indices), begun - started, ended - begun, peaks)
    (digest,) = written["coco"].files.values()
    return row | {
        "count_s": counted - begun,
        "bytes_as_estimated": merge.layout.size((IMAGES, KEPT)) / digest.size,
        "parts": max(1, len(digest.parts)),
        "driver_bytes": {
            "counts": of_counts,
            "results of writing": given[0] - of_counts,
            "written": DriversStorage.bytes,
        },
    }


class DriversStorage(Storage):
    """Counts what this process writes; tasks count in processes of their own."""

    bytes = 0

    def publish_stream(self, uri: str, chunks: Any) -> None:
        """As `Storage` does."""
        super().publish_stream(uri, map(_counted, chunks))

    def publish_bytes(self, uri: str, data: bytes) -> None:
        """As `Storage` does."""
        super().publish_bytes(uri, _counted(data))

    def store_part(self, upload: Upload, number: int, data: bytes | bytearray) -> StoredPart:
        """As `Storage` does."""
        return super().store_part(upload, number, _counted(data))


def _counted(data: Any) -> Any:
    DriversStorage.bytes += len(data)
    return data


def _row(
    output: str,
    counts: MergeCounts,
    startup_s: float,
    merge_s: float,
    peaks: dict[str, dict[str, float]],
) -> dict[str, Any]:
    return {
        "images": counts.images,
        "annotations": counts.annotations,
        "cpus": os.cpu_count(),
        "file_gb": Path(output, "annotations.json").stat().st_size / 1e9,
        "ray_start_s": startup_s,
        "merge_s": merge_s,
        "annotations_per_s": counts.annotations / merge_s,
        "microseconds_per_annotation": 1e6 * merge_s / counts.annotations,
        "cpu_s": peaks.pop("all")["cpu_s"],
        "load_average": os.getloadavg()[0],
        "peak_gb": peaks,
    }


@contextlib.contextmanager
def started_ray() -> Iterator[None]:
    """Ray as a merge starts it, with so many CPUs."""
    import ray

    from ntt_ray.run.cluster.connect import connect
    from ntt_ray.run.cluster.tasks import STORE_BYTES

    connect(object_store_bytes=STORE_BYTES)
    yield
    ray.shutdown()


@contextlib.contextmanager
def sampled() -> Iterator[dict[str, dict[str, float]]]:
    """Watch this process and all below it; gives the peak of each kind of process in GB.

    At the end also, under "all", the CPU seconds of all of them.
    """
    peaks: dict[str, dict[str, float]] = {}
    begun, used = _cpu_seconds(psutil.Process()), {}
    stop = threading.Event()

    def watch() -> None:
        this = psutil.Process()
        while not stop.wait(SAMPLE_S):
            for process in [this, *this.children(recursive=True)]:
                with contextlib.suppress(psutil.Error):
                    used[process.pid] = _cpu_seconds(process)
                    memory = process.memory_info()
                    peak = peaks.setdefault(_kind(process, this), {"resident": 0.0, "own": 0.0})
                    peak["resident"] = max(peak["resident"], memory.rss / 1e9)
                    peak["own"] = max(peak["own"], (memory.rss - memory.shared) / 1e9)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    yield peaks
    stop.set()
    watcher.join()
    peaks["all"] = {"cpu_s": sum(used.values()) - begun}


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _kind(process: psutil.Process, this: psutil.Process) -> str:
    name = process.name()
    if process == this:
        return "driver"
    return "worker" if name in ("ray::_run", "ray::IDLE") else name


def checked(output: str, annotations: int) -> dict[str, Any]:
    """Read the merged file as a stream, and a part of it by pycocotools against the shards."""
    started, store = time.perf_counter(), Storage()
    shard_ids = sorted(existing_shards(output, store))[::EVERY]
    rows = [row for shard in shard_ids for row in iter_labels(read_shard(output, shard, store))]
    wanted = {labels.entry.image_id for labels in rows}
    path = Path(output, "annotations.json")
    with path.open("rb") as stream:
        images = [image for image in ijson.items(stream, "images.item") if image["id"] in wanted]
    sample: list[dict[str, Any]] = []
    number = 0
    with path.open("rb") as stream:
        for number, item in enumerate(ijson.items(stream, "annotations.item", use_float=True), 1):
            if item["id"] != number:
                raise SystemExit(f"annotation {number} has the id {item['id']}")
            if item["image_id"] in wanted:
                sample.append(item)
    categories = [{"id": c.category_id, "name": c.name} for c in CLASSES]
    compare(rows, {"info": {}, "images": images, "annotations": sample, "categories": categories})
    if number != annotations:
        raise SystemExit(f"{number} annotations in the file, {annotations} counted")
    return {
        "ids_contiguous": number,
        "images_compared": len(wanted),
        "annotations_compared": len(sample),
        "seconds": time.perf_counter() - started,
    }


def compare(rows: list[ImageLabels], coco_json: dict[str, Any]) -> None:
    """Load a part of a COCO file in pycocotools and compare it with its rows of shards."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = coco_json
        coco.createIndex()
    for labels in rows:
        identity, kept = labels.entry.image_id, labels.detections
        if (labels.height is None) == (identity in coco.imgs):
            raise SystemExit(f"image {identity} is {'' if identity in coco.imgs else 'not '}there")
        found = coco.imgToAnns[identity]
        expected = [(d.category_id, d.area, d.rle, list(d.bbox_xywh)) for d in kept]
        if [(a["category_id"], a["area"], a["segmentation"], a["bbox"]) for a in found] != expected:
            raise SystemExit(f"image {identity}: its annotations differ from its shard")
        for annotation, detection in zip(found, kept, strict=True):
            if abs(annotation["score"] - detection.score) > 1e-6:
                raise SystemExit(f"image {identity}: a score differs from its shard")
            if int(coco.annToMask(annotation).sum()) != detection.area:
                raise SystemExit(f"image {identity}: a mask has another area")


if __name__ == "__main__":
    main()
