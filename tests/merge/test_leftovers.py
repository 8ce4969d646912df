"""Merging again removes what the merge before wrote and this one does not, and nothing else."""

import pytest

from ntt_ray.merge import job as merge_job
from ntt_ray.merge.passes import WRITERS
from ntt_ray.records import ImageLabels
from ntt_ray.run.layout import MERGED_FILE
from tests.support.verify_run import Run

EVERYTHING = tuple(WRITERS)
OTHERS = (  # of people
    "yolo/labels/img/notes.txt",
    "yolo/labels/img/5.txt",  # of the image that failed: the merge wrote none
    "yolo/images/img/1.jpg",
    "semantic/mine.png",
    "instances/readme.md",
    "annotations-old.json",
    "metrics.json",
)


def _files(run):
    files = [path for path in run.output.rglob("*") if path.is_file()]
    return {path.relative_to(run.output).as_posix() for path in files}


def _merge(run, **settings):
    merge_job.merge(run.configured(**settings), partial=True)
    return _files(run)


def test_every_merged_file_is_known_by_its_name(tmp_path):
    run = Run(tmp_path, profiles=EVERYTHING)
    before = _files(run)
    run.merge()
    written = _files(run) - before - {"merge.json"}
    lists = {"yolo/train.txt", "yolo/val.txt"}
    images = {name for name in written - lists if name.endswith((".txt", ".png"))}
    assert len(images) == 14
    assert all(MERGED_FILE.fullmatch(name) for name in written - images)
    assert not any(MERGED_FILE.fullmatch(name) for name in before | images | {"merge.json"})


@pytest.mark.slow
@pytest.mark.parametrize("left_out", EVERYTHING)
def test_a_profile_that_is_left_out_takes_its_files_along(tmp_path, left_out):
    rest = [profile for profile in EVERYTHING if profile != left_out]
    run, never = Run(tmp_path / "a", profiles=EVERYTHING), Run(tmp_path / "b")
    run.merge()
    for name in OTHERS:
        run.publish(name, b"not a merge's")
    assert _merge(run, profiles=rest) == _merge(never, profiles=rest) | set(OTHERS)


def test_a_file_of_a_profile_never_merged_is_somebody_elses(tmp_path):
    run = Run(tmp_path)
    run.publish("polygons.json", b"not a merge's")
    run.merge().merge()
    assert (run.output / "polygons.json").read_bytes() == b"not a merge's"


def test_images_that_are_no_longer_merged_take_their_files_along(tmp_path):
    profiles = ["yolo-seg", "semantic-png"]
    run = Run(tmp_path, profiles=profiles)
    run.merge()
    for name in OTHERS:
        run.publish(name, b"not a merge's")
    before = _files(run)
    run.units[0][1] = ImageLabels.failed(run.units[0][1].entry, "damaged since")
    run.write_shard(0)  # labelled again
    (run.output / "labels" / "shard-000002.parquet").unlink()
    gone = {f"yolo/labels/img/{n}.txt" for n in (2, 7, 8)}
    gone |= {f"semantic/img/{n}.jpg.png" for n in (2, 7, 8)}
    assert _merge(run, profiles=profiles) == before - gone - {"labels/shard-000002.parquet"}


def test_an_edited_record_removes_no_file_that_is_not_a_merges(tmp_path):
    run = Run(tmp_path).merge()
    names = ("run.json", "labels/shard-000000.parquet", "../outside.json", "bank.safetensors")
    (tmp_path / "outside.json").write_bytes(b"x")
    run.edit_json("merge.json", lambda r: r["files"].update(dict.fromkeys(names)))
    before = _files(run)
    assert _merge(run) == before
    assert (tmp_path / "outside.json").exists()


def test_a_damaged_record_does_not_keep_from_merging(tmp_path, caplog):
    run = Run(tmp_path).merge()
    run.publish("merge.json", b"{")
    run.merge()
    assert "files of the merge before may stay" in caplog.text
    assert run.verify().whole


def test_of_another_run_only_files_go(tmp_path):
    """Which images it had nobody knows; its manifest is gone."""
    run = Run(tmp_path, profiles=["coco", "coco-polygon", "yolo-seg"]).merge()
    run.edit_json("merge.json", lambda record: record.update(labels_hash="0" * 64, units=[[0, 99]]))
    before = _files(run)
    assert _merge(run, profiles=["coco"]) == before - {
        "polygons.json",
        "yolo/data.yaml",
        "yolo/train.txt",
        "yolo/val.txt",
    }
