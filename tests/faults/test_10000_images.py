"""10,000 images with 3 % bad files through S3: rows, reasons, and the driver's memory."""

from __future__ import annotations

import io
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from ntt_ray.config import build_config
from ntt_ray.errors import ImageError, RunIncompleteError
from ntt_ray.images import decode_image
from ntt_ray.merge.job import check_complete
from ntt_ray.merge.passes import MergeCounts
from ntt_ray.run.shard import existing_shards, iter_labels, read_shard
from tests.support.golden import GOLDEN, GOLDEN_MODELS
from tests.support.paths import ROOT

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.faults, pytest.mark.timeout(1200)]
FOLDERS, IMAGES_PER_FOLDER, BAD_PER_FOLDER = 10, 1000, 30
IMAGES, BAD = FOLDERS * IMAGES_PER_FOLDER, FOLDERS * BAD_PER_FOLDER
# 12 were measured: see docs/reliability.md
MAX_GROWTH_MIB = 40


def _png(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


GOOD_FILES = [_png(seed) for seed in range(8)]
BAD_FILES = [
    b"",
    GOOD_FILES[0][: len(GOOD_FILES[0]) // 2],
    b"<html><body>404 Not Found</body></html>",
    GOOD_FILES[0][:16] + (60_000).to_bytes(4, "big") * 2 + GOOD_FILES[0][24:],
]


def _corpus() -> dict[str, bytes]:
    """Every file by its name below the prefix; which ones are bad is drawn."""
    draw = random.Random(5)
    corpus = {}
    for folder in range(FOLDERS):
        bad = draw.sample(range(IMAGES_PER_FOLDER), BAD_PER_FOLDER)
        for number in range(IMAGES_PER_FOLDER):
            kinds = BAD_FILES if number in bad else GOOD_FILES
            corpus[f"{folder}/{number:04d}.png"] = kinds[number % len(kinds)]
    return corpus


def _reason(data: bytes) -> str | None:
    try:
        decode_image(data)
    except ImageError as error:
        return str(error)
    return None


def _run(data: dict, folder: Path) -> dict[str, float]:
    """Label and merge in a process of its own; what it tells."""
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(data))
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.large_run", str(config)],
        cwd=ROOT,
        env={**os.environ, "RAY_ADDRESS": "", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=1000,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_ten_thousand_images_of_which_three_in_a_hundred_are_bad(s3, tmp_path, golden_references):
    store, prefix = s3.storage(), s3.prefix()
    corpus = _corpus()
    started = time.perf_counter()
    with ThreadPoolExecutor(16) as pool:
        uris = [f"{prefix}/{name}" for name in corpus]
        list(pool.map(store.publish_bytes, uris, corpus.values()))
    upload_s = time.perf_counter() - started
    data = {
        "images": f"{prefix}/0",
        "output": f"{s3.prefix()}/small",
        "references": {"annotations": str(golden_references), "image_root": str(GOLDEN / "refs")},
        "models": GOLDEN_MODELS,
        "job": {"images_per_unit": 100, "actors": 1, "max_failed_fraction": 0.03},
        "merge": {"min_score": 0.0},
        "storage_options": s3.options(),
    }
    small = _run(data, tmp_path)
    data |= {"images": prefix, "output": f"{s3.prefix()}/large"}
    large = _run(data, tmp_path)
    told = {"upload_s": upload_s, "small": small, "large": large}
    print(json.dumps(told, indent=1))

    # rows out equal images in, in order, each failure with its reason
    units = sorted(existing_shards(data["output"], store))
    assert units == list(range(IMAGES // 100))
    shards = [read_shard(data["output"], unit, store) for unit in units]
    rows = [row for shard in shards for row in iter_labels(shard)]
    assert [row.entry.file_name for row in rows] == sorted(corpus)
    assert [row.error for row in rows] == [_reason(corpus[name]) for name in sorted(corpus)]
    reasons = Counter(row.error for row in rows if row.status == "failed")
    assert len(reasons) == len(BAD_FILES)
    assert sum(reasons.values()) == BAD
    assert (large["images"], large["failed"]) == (IMAGES, BAD)
    assert (small["images"], small["failed"]) == (IMAGES_PER_FOLDER, BAD_PER_FOLDER)
    listed = json.loads(store.read_bytes(f"{data['output']}/annotations.json"))["images"]
    assert [image["file_name"] for image in listed] == [
        name for name in sorted(corpus) if _reason(corpus[name]) is None
    ]

    # the exit status: exactly the allowed share is allowed, a little less is not
    failed = {("content", str(reason)): count for reason, count in reasons.items()}
    counts = MergeCounts(IMAGES, IMAGES - BAD, 0, BAD, 0, 0, reasons=failed)
    check_complete(build_config(data), counts)
    with pytest.raises(RunIncompleteError, match=f"{BAD} of {IMAGES} images failed"):
        check_complete(build_config(data, ["job.max_failed_fraction=0.0299"]), counts)

    # ten times the images, the same memory
    assert large["peak_mib"] - small["peak_mib"] < MAX_GROWTH_MIB, told
