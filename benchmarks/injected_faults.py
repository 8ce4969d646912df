"""A thousand injected faults, mixed and seeded: is an image lost, or final that should not be?

    python -m benchmarks.injected_faults [--faults 1000] [--seed 1]

Small runs with stand-ins for the models read from and write to a bucket behind a proxy that damages
what passes: odd runs meet failing connections on every kind of request, even ones refusals, missing
files and stalls on images. Workers are killed, hang, and have their GPU break in between. A run
that ends incomplete is started again, as its message says, through the same proxy. Each is compared
byte for byte with a run that nothing disturbed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import shutil
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import ray

from ntt_ray.config import build_config
from ntt_ray.errors import NttRayError
from ntt_ray.merge import job as merge_job
from ntt_ray.run.label import label
from ntt_ray.run.shard import iter_labels, read_shard
from ntt_ray.storage import Storage
from tests.support.fake_models import use_fakes
from tests.support.golden import GOLDEN, GOLDEN_MODELS
from tests.support.hostile_proxy import Hostility, hostile_proxy
from tests.support.s3_store import S3Store, own_s3

IMAGES, PER_UNIT = 32, 4
STARTS = 12  # of one run, after which it counts as lost
TROUBLES = ("die", "hang", "sick")
MERGED = ("annotations.json", "results.json")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--faults", type=int, default=1000)
    arguments.add_argument("--seed", type=int, default=1)
    chosen = arguments.parse_args()
    ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False)
    total: Counter[str] = Counter()
    with own_s3() as s3, tempfile.TemporaryDirectory() as scratch:
        data = _config(s3, Path(scratch))
        use_fakes()
        undisturbed = {**data, "output": f"{s3.prefix()}/undisturbed"}
        _run(undisturbed)
        before, number = _files(undisturbed), 0
        while (
            sum(total[fault] for fault in total.keys() - {"runs", "starts", "lost", "seconds"})
            < chosen.faults
        ):
            number += 1
            told = _disturbed(s3, data, Path(scratch), before, chosen.seed * 10_000 + number)
            total.update(told)
            print(json.dumps(told), flush=True)
    print(json.dumps({"total": dict(total)}))


def _config(s3: S3Store, scratch: Path) -> dict[str, Any]:
    store, photos = s3.storage(), f"{s3.prefix()}/photos"
    sources = sorted((GOLDEN / "targets").glob("*.png"))
    for image in range(IMAGES):
        data = sources[image % len(sources)].read_bytes()
        store.publish_bytes(f"{photos}/{image:02}.png", data)
    references = scratch / "references.json"
    coco = json.loads((GOLDEN / "refs.json").read_text())
    kept = coco["annotations"][:6]
    names = {annotation["category_id"] for annotation in kept}
    coco |= {
        "annotations": kept,
        "categories": [c for c in coco["categories"] if c["id"] in names],
    }
    references.write_text(json.dumps(coco))
    return {
        "images": photos,
        "references": {"annotations": str(references), "image_root": str(GOLDEN / "refs")},
        "models": GOLDEN_MODELS,
        "job": {
            "images_per_unit": PER_UNIT,
            "actors": 1,
            "patience_s": 20.0,
            "image_timeout_s": 3.0,
            "hang_s": 3.0,
        },
        "merge": {"min_score": 0.0, "profiles": ["coco", "coco-results"]},
        "storage_options": s3.options(),
    }


def _run(data: dict[str, Any]) -> None:
    config = build_config(data)
    label(config, lambda *_: None)
    _, counts = merge_job.merge(config)
    merge_job.check_complete(config, counts)


def _disturbed(
    s3: S3Store, data: dict[str, Any], scratch: Path, before: dict[str, bytes], seed: int
) -> dict[str, int]:
    """One run to its end; what was injected, how often it was started, and what was lost."""
    draws = random.Random(seed)
    network = Hostility(("error", "busy", "reset", "short", "cut", "deaf"), rate=0.35, seed=seed)
    weather = Hostility(
        ("denied", "gone", "stall", "moved"), rate=0.6, only="photos/.", times=2, seed=seed
    )
    troubles = scratch / f"troubles-{seed}"
    troubles.mkdir()
    planted = [draws.choice(TROUBLES) for _ in range(draws.randint(0, 2))]
    for number, name in enumerate(planted):
        (troubles / f"{name}-{number}").touch()
    use_fakes(troubles=troubles)
    own = {**data, "output": f"{s3.prefix()}/run"}
    told: Counter[str] = Counter(runs=1)
    with hostile_proxy(s3.endpoint, network if seed % 2 else weather) as proxy:
        hostile = {**own, "storage_options": s3.options(endpoint=proxy.endpoint, read_timeout=1.0)}
        started = time.monotonic()
        for _ in range(STARTS):
            told["starts"] += 1
            with contextlib.suppress(NttRayError):
                _run(hostile)
                break
        told["seconds"] = round(time.monotonic() - started)
        told.update({k: n for k, n in proxy.happened().items() if k != "requests"})
    told.update(planted[: len(planted) - len(list(troubles.iterdir()))])
    shutil.rmtree(troubles)
    found = _files(own)
    told["lost"] = sum(found.get(name) != content for name, content in before.items())
    return dict(told)


def _files(data: dict[str, Any]) -> dict[str, bytes]:
    """Shards and merged files of a run, asked of the store itself; a failed row is an error."""
    store, output = Storage(data["storage_options"]), data["output"]
    units = range(IMAGES // PER_UNIT)
    names = [*(f"labels/shard-{unit:06d}.parquet" for unit in units), *MERGED]
    found = {n: store.read_bytes(f"{output}/{n}") for n in names if store.exists(f"{output}/{n}")}
    rows = [row for unit in units for row in iter_labels(read_shard(output, unit, store))]
    assert [row.entry.file_name for row in rows] == [f"{i:02}.png" for i in range(IMAGES)]
    assert not [row for row in rows if row.status == "failed"]
    return found


if __name__ == "__main__":
    main()
