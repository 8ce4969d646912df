"""All readers of shards pass over nullable columns that this version does not know."""

import json

import pyarrow.parquet as pq
import pytest

from ntt_ray.evaluate.job import evaluate_run
from ntt_ray.report.job import report_run
from ntt_ray.run.layout import MERGE_FILE, shard_uri
from ntt_ray.run.shard import table_to_bytes
from ntt_ray.run.status import read_status
from tests.support.shard_columns import with_unknown_columns
from tests.support.verify_run import STORE, Run

PROFILES = ("coco", "coco-results", "coco-polygon", "yolo-seg", "labelstudio", "parquet")


@pytest.fixture
def run(tmp_path) -> Run:
    """Merged before its shards were replaced by newer ones."""
    run = Run(tmp_path, profiles=PROFILES).merge()
    for unit in range(len(run.units)):
        uri = shard_uri(str(run.output), unit)
        with STORE.open_read(uri) as stream:
            table = pq.read_table(stream)
        data = table_to_bytes(with_unknown_columns(table), run.identity.provenance())
        STORE.publish_bytes(uri, data)
    return run


def test_they_are_merged_to_the_same_bytes_and_verified(run):
    # the merge record has digests of the shards
    names = [p for p in run.output.rglob("*") if p.is_file() and p.name != MERGE_FILE]
    before = {path: path.read_bytes() for path in names}
    run.merge()
    assert {path: path.read_bytes() for path in names} == before
    assert run.verify(profiles=PROFILES).whole, run.problems(profiles=PROFILES)


def test_they_are_reported_evaluated_and_counted(run):
    status = read_status(str(run.output), STORE)
    assert (status.units_done, status.images_done, status.failed) == (3, 8, 1)
    report = report_run(run.config)
    assert report["images"]["total"] == 8
    truth = run.output.with_name("truth.json")
    truth.write_bytes((run.output / "annotations.json").read_bytes())
    config = run.config.model_copy(update={"ground_truth": str(truth)})
    assert evaluate_run(config)["instances"] == len(json.loads(truth.read_text())["annotations"])
