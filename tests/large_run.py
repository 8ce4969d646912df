"""A driver in a process of its own that labels with fake models and tells how it went.

The fakes take about 2 ms an image, so that a run of many images is about storage, Ray and the
driver's memory. All else is the real thing: listing, manifest, units, shards, merge.

    python tests/large_run.py CONFIG      prints one line of JSON
"""

from __future__ import annotations

import json
import logging
import resource
import sys
import time
from pathlib import Path

import torch

from fakes import FakeEncoder, FakeProposer, make_proposals
from ntt_ray.config import load_config
from ntt_ray.pipeline import outcome
from ntt_ray.pipeline import run as steps
from ntt_ray.pipeline.models import ModelSpec
from ntt_ray.pipeline.resources import decide


class FakeSpec(ModelSpec):
    """Loads the fakes in whatever process labels."""

    def load_encoder(self) -> FakeEncoder:
        return FakeEncoder()

    def load_proposer(self, points_per_side: int) -> FakeProposer:
        masks = torch.zeros(2, 32, 32, dtype=torch.bool)
        masks[0, 4:20, 4:20] = masks[1, 12:28, 16:30] = True
        return FakeProposer(make_proposals(masks, [0.9, 0.8]))

    def checked_digests(self) -> dict[str, str]:
        return {"encoder": "fake", "proposer": "fake"}


def _fake_models(config, store):
    return FakeSpec(config.models, store=store), decide(config.job, "cpu")


def _memory_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def main(path: str) -> None:
    logging.basicConfig(level=logging.INFO)
    steps._models = _fake_models
    config = load_config(path)
    started = time.perf_counter()
    memory = [0.0]  # MiB after each unit, so that what grows with the run is seen
    steps.label(config, lambda *_: memory.append(_memory_mib()))
    labelled = time.perf_counter()
    _, counts = outcome.merge(config)
    told = {
        "images": counts.images,
        "failed": counts.failed,
        "label_s": labelled - started,
        "merge_s": time.perf_counter() - labelled,
        "units": len(memory) - 1,
        "first_unit_mib": memory[1],
        "last_unit_mib": memory[-1],
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
