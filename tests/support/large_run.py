"""A driver in a process of its own that labels with fake models and tells how it went.

The fakes take about 2 ms an image, so that a run of many images is about storage, Ray and the
driver's memory. All else is the real thing: listing, manifest, units, shards, merge.

    python -m tests.support.large_run CONFIG      prints one line of JSON
"""

from __future__ import annotations

import json
import logging
import resource
import sys
import time
from pathlib import Path

from ntt_ray.config import load_config
from ntt_ray.merge import job as merge_job
from ntt_ray.run.label import label
from tests.support.fake_models import use_fakes


def _memory_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def _peak_mib() -> float:
    # not getrusage: there a process begins with the peak of the one that started it
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def main(path: str) -> None:
    logging.basicConfig(level=logging.INFO)
    use_fakes()
    config = load_config(path)
    started = time.perf_counter()
    memory = [0.0]  # MiB after each unit, so that what grows with the run is seen
    label(config, lambda *_: memory.append(_memory_mib()))
    labelled = time.perf_counter()
    _, counts = merge_job.merge(config)
    told = {
        "images": counts.images,
        "failed": counts.failed,
        "label_s": labelled - started,
        "merge_s": time.perf_counter() - labelled,
        "units": len(memory) - 1,
        "first_unit_mib": memory[1],
        "last_unit_mib": memory[-1],
        "peak_mib": _peak_mib(),
    }
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
