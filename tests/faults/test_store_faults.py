"""A store that fails, stalls, cuts and lies: the files are those of an undisturbed run.

Every case is a whole job on the golden images, read from and written to a bucket through a proxy
that damages what passes (tests/support/hostile_proxy.py); fake models label, because the store is
what it is about. See tests/support/s3_store.py for stores of your own.
"""

from __future__ import annotations

import json
import re
from unittest import mock

import pytest

from ntt_ray.config import build_config
from ntt_ray.errors import RunIncompleteError
from ntt_ray.merge import job as merge_job
from ntt_ray.run import models
from ntt_ray.run.label import label
from ntt_ray.run.layout import again_uri
from ntt_ray.run.shard import existing_shards, iter_labels, read_shard
from tests.support.fake_models import use_fakes
from tests.support.golden import GOLDEN, GOLDEN_MODELS
from tests.support.hostile_proxy import Hostility, Proxy, hostile_proxy

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.faults,
    pytest.mark.usefixtures("ray_cluster"),
]
FILES = ("annotations.json", "results.json", "manifest.parquet", "bank.safetensors")
IMAGES = 6
UNITS = 3
HOSTILITIES = {
    "a fifth of all requests fails": Hostility(("error", "busy", "reset", "short"), rate=0.2),
    "the connection is lost in the middle of every first PUT": Hostility(
        ("cut",), rate=1.0, only="^PUT", times=1
    ),
    "the answer to every first PUT is lost": Hostility(("deaf",), rate=1.0, only="^PUT", times=1),
    "every first GET ends early": Hostility(("short",), rate=1.0, only="^GET", times=1),
    "every image stalls once": Hostility(("stall",), rate=1.0, only=r"^GET .*photos/.", times=1),
}


@pytest.fixture(scope="module", autouse=True)
def fakes():
    with mock.patch.object(models, "_decided"):  # puts back what was there
        use_fakes()
        yield


@pytest.fixture(scope="module")
def bucket_config(s3, golden_references):
    """The golden references and models on images in a bucket; the output is the test's to name."""
    prefix, store = s3.prefix(), s3.storage()
    sources = sorted((GOLDEN / "targets").glob("*.png"))
    for number in range(IMAGES):
        data = sources[number % len(sources)].read_bytes()
        store.publish_bytes(f"{prefix}/photos/{number}.png", data)
    return {
        "images": f"{prefix}/photos",
        "output": f"{prefix}/run",
        "references": {"annotations": str(golden_references), "image_root": str(GOLDEN / "refs")},
        "models": GOLDEN_MODELS,
        "job": {"images_per_unit": IMAGES // UNITS, "actors": 1},
        "merge": {"min_score": 0.0, "profiles": ["coco", "coco-results"]},
        "storage_options": s3.options(),
    }


@pytest.fixture(scope="module")
def undisturbed(s3, bucket_config, ray_cluster):
    """The files of a run that nothing disturbed."""
    data = {**bucket_config, "output": f"{s3.prefix()}/undisturbed"}
    run(data)
    return files(s3, data)


def run(data):
    """Label, merge and ask for the exit status, as ``ntt-ray run`` does."""
    config = build_config(data)
    label(config, lambda *_: None)
    _, counts = merge_job.merge(config)
    merge_job.check_complete(config, counts)
    return counts


def files(s3, data) -> dict[str, bytes]:
    """What a run has left, asked of the store itself."""
    store = s3.storage()
    names = [name for name in store.list_files(data["output"]) if name.startswith("labels/")]
    assert names == [f"labels/shard-{unit:06d}.parquet" for unit in range(UNITS)]
    return {name: store.read_bytes(f"{data['output']}/{name}") for name in (*names, *FILES)}


def disturbed(s3, bucket_config, proxy: Proxy, **config):
    """The same run through a proxy, with an output of its own."""
    options = s3.options(endpoint=proxy.endpoint, **config)
    return {**bucket_config, "output": f"{s3.prefix()}/run", "storage_options": options}


@pytest.mark.parametrize("case", HOSTILITIES)
def test_nothing_is_lost(s3, bucket_config, undisturbed, case):
    with hostile_proxy(s3.endpoint, HOSTILITIES[case]) as proxy:
        data = disturbed(s3, bucket_config, proxy, read_timeout=1.0)
        counts = run(data)
        happened = proxy.happened()
    assert (counts.images, counts.failed) == (IMAGES, 0)
    assert files(s3, data) == undisturbed
    print(case, happened)
    hits = [happened.get(fault, 0) for fault in HOSTILITIES[case].faults]
    assert min(hits) >= 1, happened
    assert sum(hits) >= 3, happened


def test_an_image_that_never_comes_is_a_failed_row(s3, bucket_config, undisturbed):
    stalled = Hostility(("stall",), rate=1.0, only=r"^GET .*photos/3\.png")
    with hostile_proxy(s3.endpoint, stalled) as proxy:
        data = disturbed(s3, bucket_config, proxy)
        data["job"] = {**data["job"], "image_timeout_s": 2.0, "patience_s": 3.0}
        with pytest.raises(RunIncompleteError, match=f"1 of {IMAGES} images are to be tried again"):
            run(data)
    rows = [
        row
        for unit in range(UNITS)
        for row in iter_labels(read_shard(data["output"], unit, s3.storage()))
    ]
    assert [row.entry.file_name for row in rows] == [f"{number}.png" for number in range(IMAGES)]
    reasons = {row.entry.file_name: row.error for row in rows if row.status == "failed"}
    assert reasons == {"3.png": "timeout: not read within 2 s"}
    s3.storage().delete(again_uri(data["output"], 1))
    found = files(s3, data)
    assert found["labels/shard-000000.parquet"] == undisturbed["labels/shard-000000.parquet"]
    whole = json.loads(undisturbed["annotations.json"])["images"]
    listed = json.loads(found["annotations.json"])["images"]
    assert listed == [image for image in whole if image["file_name"] != "3.png"]


def test_a_store_that_takes_no_shard_ends_the_run_and_the_next_start_finishes(
    s3, bucket_config, undisturbed
):
    lost = Hostility(("cut",), rate=1.0, only=r"^PUT .*shard-000001\.parquet")
    with hostile_proxy(s3.endpoint, lost) as proxy:
        data = disturbed(s3, bucket_config, proxy)
        data["job"] = {**data["job"], "patience_s": 0.0}
        with pytest.raises(RunIncompleteError) as caught:
            run(data)
    assert re.fullmatch(
        r"1 of 3 units have no shard, the first is 1; start the same command again; "
        r"unit 1: writing s3://[^ ]*/shard-000001\.parquet: .* \(after 8 attempts\)",
        str(caught.value),
    )
    assert existing_shards(data["output"], s3.storage()) == {0, 2}
    again = {**data, "storage_options": s3.options()}
    assert run(again).images == IMAGES
    assert files(s3, data) == undisturbed
