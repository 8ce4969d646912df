"""After the shards: what may be evaluated, and when the list of shards is taken."""

import json

import pytest

from ntt_ray.errors import InputError, OutputLockedError, RunIncompleteError
from ntt_ray.evaluate import job as evaluate_job
from ntt_ray.merge import job as merge_job
from ntt_ray.merge.passes import MergeCounts
from ntt_ray.report import job as report_job
from ntt_ray.run.layout import MANIFEST_FILE, MERGE_LOCK_FILE, METRICS_FILE, shard_uri
from ntt_ray.run.lock import RunLock
from ntt_ray.run.shard import read_shard, table_to_bytes
from tests.support.verify_run import STORE, Run


@pytest.fixture
def run(tmp_path):
    """A run with ground truth, not merged yet."""
    run = Run(tmp_path)
    rows = [row for unit in range(3) for row in run.rows(unit)]
    images = [
        {"id": r["image_id"], "file_name": r["file_name"], "height": 6, "width": 8} for r in rows
    ]
    truth = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "nut"}]}
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    truth_uri = {"ground_truth": str(tmp_path / "truth.json")}
    run.config = run.config.model_copy(update=truth_uri)
    return run


def test_a_whole_merge_is_evaluated(run):
    assert evaluate_job.evaluate_run(run.merge().config)["images"] == 8


def test_a_partial_merge_is_not_although_the_shards_are_there_now(run):
    (run.output / "labels" / "shard-000001.parquet").unlink()
    run.merge(partial=True).write_shard(1)
    with pytest.raises(RunIncompleteError, match=r"results\.json was merged without 1 shards: 1\."):
        evaluate_job.evaluate_run(run.config)
    assert not (run.output / METRICS_FILE).exists()
    evaluate_job.evaluate_run(run.merge().config)


def test_results_of_an_earlier_merge_are_not(run):
    run.merge()
    merge_job.merge(run.configured(profiles=["coco"]))
    with pytest.raises(InputError, match="not of the last merge"):
        evaluate_job.evaluate_run(run.config)


def test_results_of_another_run_are_not(run):
    run.merge().edit_json("merge.json", lambda data: data.update(labels_hash="0" * 64))
    with pytest.raises(InputError, match="not of the last merge"):
        evaluate_job.evaluate_run(run.config)


def test_a_second_merge_is_refused(run):
    with RunLock(str(run.output), STORE, MERGE_LOCK_FILE), pytest.raises(OutputLockedError):
        run.merge()
    assert not (run.output / "annotations.json").exists()


def test_a_merge_that_lost_its_lock_leaves_no_record(run, monkeypatch):
    def taken_over(*arguments, **options):
        written = write_profiles(*arguments, **options)
        locks[0].lost.set()
        return written

    class Kept(RunLock):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            locks.append(self)

    locks, write_profiles = [], merge_job.write_profiles
    monkeypatch.setattr(merge_job, "write_profiles", taken_over)
    monkeypatch.setattr(merge_job, "RunLock", Kept)
    with pytest.raises(OutputLockedError, match="took over"):
        run.merge()
    assert not (run.output / "merge.json").exists()


def test_shards_are_counted_by_who_holds_the_lock(run, monkeypatch):
    """A shard that came while another merge was at work is in the next one."""
    (run.output / "labels" / "shard-000001.parquet").unlink()

    class Late(RunLock):
        def __enter__(self):
            run.write_shard(1)
            return super().__enter__()

    monkeypatch.setattr(merge_job, "RunLock", Late)
    _, counts = merge_job.merge(run.config, partial=True)
    assert (counts.images, counts.missing_shards) == (8, 0)


def test_damaged_statuses_and_scores_name_the_shard(run):
    damages = {
        r"shard-000000\.parquet: damaged shard \('weird'": ("status", "weird"),
        r"shard-000000\.parquet: damaged shard \(a score is not": ("score", float("nan")),
    }
    for message, (key, value) in damages.items():
        rows = run.rows(0)
        (rows[0] if key == "status" else rows[0]["annotations"][0])[key] = value
        run.write_shard(0, rows)
        with pytest.raises(InputError, match=message):
            run.merge()


def test_the_report_says_what_profiles_lost(run):
    assert report_job.report_run(run.config)["losses"] == {}
    merge_job.merge(run.configured(profiles=["coco", "coco-polygon"]))
    same = {"instances": 9, "changed": 0, "mean_iou": 1.0, "min_iou": 1.0}
    assert report_job.report_run(run.config)["losses"] == {"coco-polygon": same}
    assert "9 compared, all the same" in (run.output / "report.html").read_text()
    run.edit_json("merge.json", lambda data: data.update(labels_hash="0" * 64))
    assert report_job.report_run(run.config)["losses"] == {}


STATUS = {  # images failed of 100, missing shards -> what is said
    "none": (0, 0, None),
    "as many as allowed": (10, 0, None),
    "more": (11, 0, "11 of 100 images failed"),
    "a part of the run": (0, 3, "3 shards are missing"),
}


@pytest.mark.parametrize(("failed", "missing", "message"), STATUS.values(), ids=STATUS.keys())
def test_when_the_exit_status_may_be_0(run, failed, missing, message):
    job = run.config.job.model_copy(update={"max_failed_fraction": 0.1})
    config = run.config.model_copy(update={"job": job})
    reasons = {("content", "truncated"): failed}
    counts = MergeCounts(100, 50, 50 - failed, failed, 1, 1, missing, reasons)
    if message is None:
        merge_job.check_complete(config, counts)
        return
    with pytest.raises(RunIncompleteError, match=message):
        merge_job.check_complete(config, counts)


def test_a_manifest_that_is_gone_is_named_and_no_shard(run):
    (run.output / MANIFEST_FILE).unlink()
    with pytest.raises(InputError, match=r"manifest\.parquet: no such file; `ntt-ray run` writes"):
        run.merge()


def test_failed_images_without_a_reason_are_no_counts():
    """The exit status is decided by the reasons: without them it would be 0."""
    with pytest.raises(ValueError, match="every failed image needs a reason"):
        MergeCounts(100, 50, 45, 5, 1, 1)


def test_notes_are_counted_in_old_shards_and_new(run):
    """Of unit 1 a row carries two; unit 2 is of a version that had no notes."""
    rows = run.rows(1)
    rows[0]["notes"] = ["turned", "narrow"]
    run.write_shard(1, rows)
    old = read_shard(run.config.output, 2, STORE).drop_columns(["notes"])
    metadata = {key.decode(): value.decode() for key, value in old.schema.metadata.items()}
    STORE.publish_bytes(shard_uri(run.config.output, 2), table_to_bytes(old, metadata))
    _, counts = merge_job.merge(run.config)
    assert counts.notes == {"turned": 1, "narrow": 1}
    assert report_job.report_run(run.config)["notes"] == {"turned": 1, "narrow": 1}
