"""How far one driver reaches: actors side by side, and many units; models that only sleep.

    python -m benchmarks.scaling --actors 1 2 4 8        # 50 ms an image: images/s, share of linear
    python -m benchmarks.scaling --units 10000 100000    # instant: units/s, memory of the driver
    python -m benchmarks.scaling --units 10000 --together 8    # handed out as 1,000 actors ask it

Listing, manifest, plan, Ray chain, journal, shards and lock are the real ones. Sleeping costs no
CPU, so Ray is told of more cores than there are. Each run is a process of its own, which is the
driver, and whose memory is told as it grows.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow as pa
import pyarrow.parquet as pq
import ray
from PIL import Image

from benchmarks.sleeping import SleepingSpec
from ntt_ray.config import Config, build_config
from ntt_ray.run import chain, models
from ntt_ray.run.cluster.connect import connect, decide
from ntt_ray.run.job import UnitDone
from ntt_ray.run.label import label
from ntt_ray.run.prepare import make_plan

IMAGE = "image.png"
IMAGE_S = 0.05
IMAGES_PER_UNIT = 20  # a second
UNITS_PER_ACTOR = 25
CPUS_PER_ACTOR = 2  # declared: the actor's own, and room to fetch and write
MASKS = 3
MARKS = 10  # moments at which the memory of a long run is told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--actors", type=int, nargs="+", default=[])
    parser.add_argument("--units", type=int, nargs="+", default=[])
    parser.add_argument("--together", type=int, default=1)
    parser.add_argument("--json", type=Path, default=None)
    arguments = parser.parse_args()
    if not (arguments.actors or arguments.units):
        parser.error("--actors, --units, or both")
    with tempfile.TemporaryDirectory(prefix="scaling-") as name:
        folder = Path(name)
        apart(write_inputs, folder)
        actors = [apart(scale_actors, folder, number) for number in arguments.actors]
        together = arguments.together
        units = [apart(run_units, folder, number, together) for number in arguments.units]
        machine_here = apart(_machine)
    if actors:
        print(actors_table(actors))
    if units:
        print(units_table(units))
    if arguments.json:
        result = {"benchmark": "scaling", "actors": actors, "units": units}
        text = json.dumps({**result, "machine": machine_here}, indent=1)
        arguments.json.write_text(text + "\n", encoding="utf-8")


def apart(action: Callable[..., Any], *arguments: Any) -> Any:
    """Do it in a process of its own."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        found = pool.submit(action, *arguments).result()
    if found is not None:
        print(json.dumps(found), file=sys.stderr)
    return found


def _machine() -> dict[str, Any]:
    import torch

    from benchmarks.measure import machine

    return machine(torch.device("cpu"))


def write_inputs(folder: Path) -> None:
    import torch

    from ntt_ray.bank.memory import MemoryBank
    from ntt_ray.records import ClassLabel

    image = folder / IMAGE
    Image.new("RGB", (64, 48), (90, 120, 150)).save(image)
    labels, means = [ClassLabel(1, "thing")], [[(torch.ones(4), 1.0)]]
    model = models_of(folder)["encoder"]
    encoder = {**model, "checkpoint": hashlib.sha256(image.read_bytes()).hexdigest()}
    bank = MemoryBank.from_means(labels, means, encoder=encoder, reference_digest="none")
    (folder / "bank.safetensors").write_bytes(bank.to_bytes())


def models_of(folder: Path) -> dict[str, Any]:
    """What the run believes to use; any file does as a checkpoint."""
    checkpoint = str(folder / IMAGE)
    return {
        "encoder": {"name": "dinov2_demo", "checkpoint": checkpoint, "image_size": 56},
        "proposer": {"name": "sam2_demo", "checkpoint": checkpoint, "image_size": 64},
        "device": "cpu",
    }


def scale_actors(folder: Path, actors: int) -> dict[str, Any]:
    """Images/s of so many actors, while all of them work.

    What comes before (actors start one after the other) and after (the last units) is left out:
    it does not grow with the run.
    """
    units = actors * UNITS_PER_ACTOR
    done: list[UnitDone] = []
    config = _config(folder / f"actors-{actors}", actors, units, IMAGES_PER_UNIT)
    _label(config, actors, IMAGE_S, done.append)
    spans = [(unit.begun_at, unit.begun_at + unit.label_s) for unit in done]
    begun, ended = all_at_work(spans, actors)
    inside = [max(0.0, min(end, ended) - max(start, begun)) for start, end in spans]
    shares = [part / (end - start) for part, (start, end) in zip(inside, spans, strict=True)]
    seconds = ended - begun
    return {
        "actors": actors,
        "units": units,
        "measured_s": seconds,
        "images_per_s": IMAGES_PER_UNIT * sum(shares) / seconds,
        "busy": sum(inside) / (actors * seconds),
        "label_ms": 1000 * sum(unit.label_s for unit in done) / (units * IMAGES_PER_UNIT),
        "load_average": os.getloadavg()[0],
    }


def all_at_work(spans: Sequence[tuple[float, float]], actors: int) -> tuple[float, float]:
    """The first and the last moment at which so many spans of time overlap."""
    steps_at = [(start, 1) for start, _ in spans] + [(end, -1) for _, end in spans]
    level, moments = 0, []
    for moment, step in sorted(steps_at):
        if actors in (level, level + step):
            moments.append(moment)
        level += step
    return min(moments), max(moments)


def run_units(folder: Path, units: int, together: int) -> dict[str, Any]:
    """Units/s and the driver's memory, where a unit is one image and labelling takes no time."""
    chain.units_together = lambda *_: together
    imported, times = _resident_mib(), []
    marks: list[tuple[int, float, float]] = []  # units, MiB, CPU seconds

    def on_unit(_: UnitDone) -> None:
        times.append(time.monotonic())
        if len(times) % max(1, units // MARKS) == 0 or len(times) == 1:
            marks.append((len(times), _resident_mib(), time.process_time()))
            print(f"{len(times)} units, {marks[-1][1]:.0f} MiB", file=sys.stderr)

    config = _config(folder / f"units-{units}", 1, units, 1)
    begun = time.monotonic()
    plan = make_plan(config)
    planned = time.monotonic()
    _label(config, 1, 0.0, on_unit)
    first, last = marks[0], marks[-1]
    return {
        "units": plan.units,
        "together": together,
        "plan_s": planned - begun,
        "start_s": times[0] - planned,
        "units_per_s": (units - 1) / (times[-1] - times[0]),
        "driver_cpu_ms": 1000 * (last[2] - first[2]) / (units - 1),
        "imported_mib": imported,
        "torch_in_driver": "torch" in sys.modules,
        "first_unit_mib": first[1],
        "kib_per_unit": 1024 * (last[1] - marks[1][1]) / (last[0] - marks[1][0]),
        "peak_mib": _peak_mib(),
        "marks": marks,
        "load_average": os.getloadavg()[0],
    }


def _config(folder: Path, actors: int, units: int, images_per_unit: int) -> Config:
    """A run of so many units; its images are one and the same file."""
    folder.mkdir()
    names = [f"{number:09d}.png" for number in range(units * images_per_unit)]
    uris = [str(folder.parent / IMAGE)] * len(names)
    pq.write_table(pa.table({"uri": uris, "file_name": names}), folder / "images.parquet")
    return build_config(
        {
            "images": str(folder / "images.parquet"),
            "output": str(folder / "run"),
            "bank": str(folder.parent / "bank.safetensors"),
            "models": models_of(folder.parent),
            "job": {"images_per_unit": images_per_unit, "actors": actors},
        }
    )


def _label(
    config: Config, actors: int, image_s: float, on_unit: Callable[[UnitDone], None]
) -> None:
    """Label with models that take so many seconds for an image."""
    connect(cpus=CPUS_PER_ACTOR * actors)
    spec = SleepingSpec(config.models, image_s=image_s, masks=MASKS if image_s else 0)
    # the one thing that is not a run's own: what the actors load
    with patch.object(models, "_decided", lambda config, store: (spec, decide(config.job, "cpu"))):
        label(config, lambda unit, *_: on_unit(unit))
    ray.shutdown()


def _resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


def _peak_mib() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def actors_table(runs: Sequence[dict[str, Any]]) -> str:
    """Images/s, and their share of what as many times one actor would do."""
    one = runs[0]["images_per_s"] / runs[0]["actors"]
    lines = [
        "| actors | images/s | share of linear | actors idle | ms an image |",
        "|---|---|---|---|---|",
    ]
    for run in runs:
        share = run["images_per_s"] / (one * run["actors"])
        lines.append(
            f"| {run['actors']} | {run['images_per_s']:.1f} | {share:.3f} | "
            f"{100 * (1 - run['busy']):.1f} % | {run['label_ms']:.1f} |"
        )
    return "\n".join(lines)


def units_table(runs: Sequence[dict[str, Any]]) -> str:
    """Units/s and what they take of the driver."""
    lines = [
        "| units | at once | to plan | first | units/s | driver: CPU a unit | memory then | peak |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {run['units']:,} | {run['together']} | {run['plan_s']:.1f} s "
        f"| {run['start_s']:.1f} s | "
        f"{run['units_per_s']:.1f} | "
        f"{run['driver_cpu_ms']:.1f} ms | {run['first_unit_mib']:.0f} MiB | "
        f"{run['peak_mib']:.0f} MiB |"
        for run in runs
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
