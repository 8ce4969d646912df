"""How much of the bare labeller's throughput the Ray job reaches, and how long its actors idle.

    python -m benchmarks.job --images 200

Both label the same drawn scenes with the bundled weights: the labeller alone, one process with one
thread for each actor that the job gets, and the job between two such measurements: machines that
are shared are now fast, now slow. Start-up is counted apart.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.measure import machine, write_json
from ntt_ray.bank.memory import MemoryBank
from ntt_ray.config import Config, load_config
from ntt_ray.demo.example import render_example
from ntt_ray.images import decode_image
from ntt_ray.method.labeler import Labeler
from ntt_ray.models.spec import ModelSpec
from ntt_ray.run.job import UnitDone
from ntt_ray.run.label import label
from ntt_ray.run.prepare import build_run_bank


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--images-per-unit", type=int, default=20)
    parser.add_argument("--actors", type=int, default=os.cpu_count())
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--json", type=Path, default=None)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path, overrides = render_example(Path(folder), images=arguments.images)
        overrides += [
            f"job.images_per_unit={arguments.images_per_unit}",
            f"job.actors={arguments.actors}",
            f"models.device={arguments.device}",
        ]
        config = load_config(str(path), overrides)
        bank, _ = build_run_bank(config)
        before = bare_images_per_s(config, bank.data, arguments.actors)
        job, busy, startup_s = job_images_per_s(config, arguments.actors)
        after = bare_images_per_s(config, bank.data, arguments.actors)
        bare = (before + after) / 2
    result = {
        "benchmark": "job",
        "images": arguments.images,
        "images_per_unit": arguments.images_per_unit,
        "actors": arguments.actors,
        "bare_before_images_per_s": before,
        "bare_after_images_per_s": after,
        "bare_images_per_s": bare,
        "job_images_per_s": job,
        "job_share_of_bare": job / bare,
        "idle_share_of_actors": 1 - busy,
        "startup_s": startup_s,
        "machine": machine(torch.device(arguments.device)),
    }
    for key, value in result.items():
        print(f"  {key}: {value:.4g}" if isinstance(value, float) else f"  {key}: {value}")
    if arguments.json:
        write_json(arguments.json, result)


def bare_images_per_s(config: Config, bank: bytes, processes: int) -> float:
    """Images/s of as many labellers side by side, without Ray, files and shards."""
    files = sorted(Path(str(config.image_root)).glob("*.jpg"))
    shares = [files[i::processes] for i in range(processes)]
    context = multiprocessing.get_context("spawn")
    barrier, times = context.Barrier(processes + 1), context.Queue()
    workers = [
        context.Process(target=_bare, args=(config, bank, share, barrier, times))
        for share in shares
    ]
    for worker in workers:
        worker.start()
    barrier.wait()
    started = time.time()
    ended = max(times.get() for _ in workers)
    for worker in workers:
        worker.join()
    return len(files) / (ended - started)


def _bare(config: Config, bank: bytes, files: list[Path], barrier, times) -> None:
    torch.set_num_threads(1)
    spec = ModelSpec(config.models)
    method = config.method
    proposer = spec.load_proposer(method.points_per_side, method.all_outputs, method.refinement)
    labeler = Labeler(spec.load_encoder(), proposer, MemoryBank.from_bytes(bank, "bank"))
    labeler.label([decode_image(files[0].read_bytes())])  # warm
    barrier.wait()
    for file in files:
        labeler.label([decode_image(file.read_bytes())])
    times.put(time.time())


def job_images_per_s(config: Config, actors: int) -> tuple[float, float, float]:
    """Images/s from the first unit's start to the last one's end, busy share, start-up."""
    begun = time.time()
    ends: list[tuple[float, UnitDone]] = []
    label(config, lambda unit, _done, _total: ends.append((time.time(), unit)))
    first = min(unit.begun_at for _, unit in ends)
    last = max(end for end, _ in ends)
    images = sum(unit.images for _, unit in ends)
    busy = sum(unit.label_s for _, unit in ends) / (actors * (last - first))
    return images / (last - first), busy, first - begun


if __name__ == "__main__":
    main()
