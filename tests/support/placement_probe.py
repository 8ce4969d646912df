"""A driver that runs the labelling chain with stages that only say where they run.

``python placement_probe.py SETTINGS UNITS`` with ``RAY_ADDRESS`` set; SETTINGS is `job` as JSON.
One line of JSON per unit.
"""

from __future__ import annotations

import json
import sys
import time
from functools import partial
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import ray

from ntt_ray.config import JobConfig
from ntt_ray.run import chain as label
from ntt_ray.run.cluster.connect import connect, decide

UNIT_S = 0.3


def here() -> str:
    return str(ray.get_runtime_context().get_node_id())


def stage(name: str, batch: pa.Table, job: Any = None, bank: Any = None) -> pa.Table:
    return batch.append_column(name, [[here()] * len(batch)])


class Actor:
    def __init__(self, *_: Any) -> None:
        self._name = ray.get_runtime_context().get_actor_id()

    def __call__(self, batch: pa.Table) -> pa.Table:
        time.sleep(UNIT_S)
        return stage("labelled_on", batch).append_column("actor", [[self._name] * len(batch)])


def main() -> None:
    connect()
    resources = decide(JobConfig(**json.loads(sys.argv[1])), "auto")
    label.fetch_units = partial(stage, "fetched_on")
    label.write_units = partial(stage, "written_on")
    label.LabelActor, label.UnitDone = Actor, dict
    job = SimpleNamespace(patience_s=0.0, unit_bytes=128 << 20, keeping=None)
    units = dict.fromkeys(range(int(sys.argv[2])), False)
    for unit in label.label_units(job, units, b"bank", resources, 1):
        print(json.dumps(unit), flush=True)


if __name__ == "__main__":
    main()
