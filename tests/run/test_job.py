"""The whole job on the golden images, through Ray."""

import contextlib
import importlib.util
import io
import json
import shutil
from argparse import Namespace
from pathlib import Path

import pytest
import ray
from ray.data import DataContext

from ntt_ray.cli.progress import Reporter
from ntt_ray.config import JobConfig, build_config
from ntt_ray.errors import (
    InputError,
    OutputMismatchError,
    RunIncompleteError,
    WeightsError,
)
from ntt_ray.evaluate import job as evaluate_job
from ntt_ray.merge import job as merge_job
from ntt_ray.run import chain
from ntt_ray.run.label import label
from ntt_ray.run.prepare import build_run_bank
from ntt_ray.run.shard import iter_labels, read_shard
from ntt_ray.storage import Storage
from ntt_ray.verify.problems import Findings
from ntt_ray.verify.verify import verify
from tests.support.golden import GOLDEN
from tests.support.output_files import unknown_files

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


def run_all(data, *overrides):
    """Label and merge; gives the units that were worked on and the merge's counts."""
    config = build_config(data, overrides)
    units = []
    label(config, lambda unit, done, total: units.append((unit, done, total)))
    _, counts = merge_job.merge(config)
    return units, counts


def contents(output) -> dict[str, bytes]:
    """Every file of a run."""
    root = Path(output)
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_the_job_end_to_end(golden_config):
    output = Path(golden_config["output"])
    units, counts = run_all(golden_config)

    # what was done, and what lies there
    assert sorted(unit.shard_id for unit, _, _ in units) == [0, 1]
    assert [(done, total) for _, done, total in units] == [(2, 4), (4, 4)]
    assert (counts.images, counts.failed) == (4, 0)
    before = contents(output)
    assert not unknown_files(before)
    assert set(before) == {
        "annotations.json",
        "bank.html",
        "bank.json",
        "bank.safetensors",
        "labels/shard-000000.parquet",
        "labels/shard-000001.parquet",
        "manifest.parquet",
        "merge.json",
        "results.json",
        "run.json",
    }

    # detection by detection what the paper's code gives, by compare.py and its tolerances
    spec = importlib.util.spec_from_file_location("compare", GOLDEN.parent / "compare.py")
    compare = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(compare)
    found = json.loads((output / "results.json").read_text())
    for result in found:
        result["bbox"][2] -= 1
        result["bbox"][3] -= 1
    gold = json.loads((GOLDEN / "golden" / "results.json").read_text())
    tolerances = Namespace(
        allow_unmatched=0, min_mask_iou=0.99, score_tol=1e-3, box_tol=1.0, box_share=0.02,
        ignore_order=False,
    )  # fmt: skip
    ok, said = compare.compare_results(gold, found, tolerances)
    assert ok, "\n".join(said)

    # the readers of the field
    import ray
    from pycocotools.coco import COCO

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(output / "annotations.json"))
        coco.loadRes(str(output / "results.json"))
    assert len(coco.anns) == len(found) == counts.detections
    table = ray.data.read_parquet(str(output / "labels"))
    assert table.count() == 4
    record = json.loads((output / "run.json").read_text())
    assert record["plan"] == {"images": 4, "units": 2}

    # a second start does nothing, but for what a stopped one had no time for
    (output / "labels" / "shard-000001.journal.json").write_text("{}")
    again, _ = run_all(golden_config)
    assert again == []
    assert contents(output) == before

    # a deleted shard is made again, with the same bytes
    (output / "labels" / "shard-000001.parquet").unlink()
    (output / "labels" / "shard-000000.journal.json").write_text("{}")
    with pytest.raises(RunIncompleteError, match=r"1 of 2 shards are missing: 1\."):
        merge_job.merge(build_config(golden_config))
    partial, counts = merge_job.merge(build_config(golden_config), partial=True)
    assert "partial" in json.loads((output / partial[0]).read_text())["info"]
    with pytest.raises(RunIncompleteError, match="1 shards are missing: the merged files hold"):
        merge_job.check_complete(build_config(golden_config), counts)
    again, _ = run_all(golden_config)
    assert [unit.shard_id for unit, _, _ in again] == [1]
    assert contents(output) == before

    # so are the manifest and the bank, where they are gone or another run's
    (output / "manifest.parquet").unlink()
    (output / "bank.safetensors").write_bytes(b"garbage")
    assert run_all(golden_config)[0] == []
    assert contents(output) == before

    # a calibration sets thresholds by class
    calibration = Path(golden_config["output"]).with_name("calibration.json")
    names = [label["name"] for label in record["classes"]]
    calibration.write_text(json.dumps({"thresholds": {names[0]: 0.0}}))
    overrides = ["merge.min_score=1.0", f"merge.calibration={calibration}"]
    merge_job.merge(build_config(golden_config, overrides))
    merged = json.loads((output / "annotations.json").read_text())
    assert {a["category_id"] for a in merged["annotations"]} == {record["classes"][0]["id"]}
    made_with = json.loads((output / "merge.json").read_text())
    assert made_with["class_scores"] == [[record["classes"][0]["id"], 0.0]]
    run_all(golden_config)
    assert contents(output) == before

    # neither does it depend on the actors
    elsewhere = {**golden_config, "output": str(output) + "-2"}
    run_all(elsewhere, "job.actors=2")
    found = contents(elsewhere["output"])
    # run.json holds the output's path, and merge.json the digest of run.json
    held = {name: found[name] for name in ("run.json", "merge.json")}
    assert found == {**before, **held}
    merges = [json.loads(own["merge.json"]) for own in (before, found)]
    for merge in merges:
        del merge["run_sha256"], merge["record_sha256"]
    assert merges[0] == merges[1]

    # other settings are refused, with the differences; what cannot change labels is not
    with pytest.raises(OutputMismatchError, match=r"method\.nms_iou: 0\.5 there, 0\.6 here"):
        run_all(golden_config, "method.nms_iou=0.6")
    assert contents(output) == before
    run_all(golden_config, "job.cpus_per_actor=2", "job.image_timeout_s=5")
    assert contents(output) == before

    # evaluation
    config = build_config(golden_config, [f"ground_truth={GOLDEN / 'targets.json'}"])
    metrics = evaluate_job.evaluate_run(config)
    assert metrics == json.loads((output / "metrics.json").read_text())
    assert metrics["images"] == 4
    assert 0 <= metrics["segm"]["AP"] <= metrics["segm"]["AP50"] <= 1


def test_options_of_the_method_run_to_the_end(golden_config, caplog):
    options = ("diffusion={}", "prototypes={}", "prompts={}", "averaging={}", "all_outputs=true")
    options += ("refinement={}", "preset=clean", "correspondence={}", "tiles={side: 64}")
    overrides = ["references.background={}", "models.encoder.keep_aspect=true"]
    overrides += [f"method.{option}" for option in options]
    units, counts = run_all(golden_config, *overrides)
    assert (counts.images, counts.failed) == (4, 0)
    assert counts.detections > 0
    for unit, _, _ in units:
        assert unit.views > unit.images  # tiles count
        assert 0 < unit.points_asked <= unit.points == unit.views * 16**2
        with Reporter() as reporter, caplog.at_level("INFO"):
            reporter.unit(unit, 4, 4)
        assert f"of {unit.views} images or tiles, " in caplog.text
    method = json.loads((Path(golden_config["output"]) / "run.json").read_text())["identity"]
    assert method["models"]["encoder"]["keep_aspect"] is True
    assert method["method"]["tiles"] == {"side": 64, "overlap": 0.25}
    assert method["method"]["all_outputs"] is True
    assert method["method"]["refinement"] == {"min_iou": 0.7}
    assert (method["method"]["nms_iou"], "preset" in method["method"]) == (0.7, False)
    with pytest.raises(OutputMismatchError, match=r"method\.tiles: \{'overlap': 0\.25, 'side': 64"):
        run_all(golden_config, *overrides[:-1])


def test_bad_images_become_rows(golden_config, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    shutil.copy(GOLDEN / "targets" / "targets_03.png", photos / "good.png")
    (photos / "text.jpg").write_text("this is not a photograph")
    (photos / "empty.jpg").write_bytes(b"")
    data = {**golden_config, "images": str(photos), "image_root": None}
    _, counts = run_all(data)
    assert (counts.images, counts.failed) == (3, 2)
    with pytest.raises(RunIncompleteError, match="2 of 3 images failed"):
        merge_job.check_complete(build_config(data), counts)
    merge_job.check_complete(build_config(data, ["job.max_failed_fraction=0.7"]), counts)
    rows = [
        labels
        for shard in (0, 1)
        for labels in iter_labels(read_shard(data["output"], shard, Storage()))
    ]
    assert [(r.entry.file_name, r.status, r.error) for r in rows] == [
        ("empty.jpg", "failed", "the file is empty"),
        ("good.png", "ok", None),
        ("text.jpg", "failed", "not an image but a text"),
    ]


def test_large_images_are_divided_and_read_when_their_turn_comes(
    golden_config, tmp_path, monkeypatch
):
    """Where their sizes are known units end there; else what does not fit is read later."""
    photos = sorted((GOLDEN / "targets").glob("*.png"))
    of_each = {path.name: path.stat().st_size for path in photos}
    lines = [f"{p},{turn}-{p.name},{of_each[p.name]}" for turn in range(5) for p in photos]
    rows = {}
    for name, columns, unit_bytes in (("known", 3, 2 * max(of_each.values())), ("unknown", 2, 1)):
        kept = [",".join(line.split(",")[:columns]) for line in ["uri,file_name,size", *lines]]
        (tmp_path / f"{name}.csv").write_text("\n".join(kept))
        monkeypatch.setattr(JobConfig, "unit_bytes", unit_bytes)
        images, output = str(tmp_path / f"{name}.csv"), str(tmp_path / name)
        data = {**golden_config, "images": images, "image_root": None, "output": output}
        config = build_config({**data, "job": {**data["job"], "images_per_unit": 100}})
        units = []
        label(config, lambda unit, *_, units=units: units.append(unit.images))
        assert sum(units) == 20
        assert len(units) == 1 if name == "unknown" else 5 <= len(units) < 20
        shards = [read_shard(output, unit, Storage()) for unit in range(len(units))]
        rows[name] = [labels for shard in shards for labels in iter_labels(shard)]
        if name == "known":
            assert merge_job.merge(config)[1].images == 20
        findings = Findings()
        verify(config, findings)
        assert list(findings.counts) == ([] if name == "known" else ["not merged"])
    assert rows["known"] == rows["unknown"]
    assert {labels.status for labels in rows["known"]} <= {"ok", "empty"}
    assert [labels.entry.image_id for labels in rows["known"]] == list(range(1, 21))


def test_units_that_a_worker_could_not_do_are_named_with_the_error(golden_config):
    Storage().publish_bytes(golden_config["output"] + "/labels", b"not a folder")
    reason = r"unit 0: \w+ing .*\.journal\.json: NotADirectoryError"
    with pytest.raises(RunIncompleteError, match=rf"2 of 2 units have no.*{reason}") as caught:
        run_all(golden_config)
    assert "Traceback" not in str(caught.value)


def test_a_run_that_stands_still_ends(golden_config, monkeypatch):
    monkeypatch.setattr(chain, "STALL_S", 0.02)  # shorter than it takes to start an actor
    monkeypatch.setattr(chain, "SLOWEST_IMAGE_S", {"cpu": 0.0})
    with pytest.raises(RunIncompleteError, match="nothing moved for 0 s"):
        run_all(golden_config, "job.patience_s=0")
    monkeypatch.undo()
    assert run_all(golden_config)[1].images == 4


def test_a_driver_remembers_nothing_of_a_block(monkeypatch):
    operators = []

    class Seen(chain._ForgetBlocks):
        def after_execution_succeeds(self, executor):
            operators.extend(executor._topology)

    context = DataContext.get_current()
    monkeypatch.setattr(context, "custom_execution_callback_classes", [Seen])
    rows = ray.data.from_items(list(range(20)), override_num_blocks=20)
    assert len(rows.map_batches(lambda batch: batch, batch_size=1).take_all()) == 20
    remembered = [len(o._output_blocks_stats) for o in operators if "Map" in o.name]
    assert remembered == [0]


def test_a_ready_bank(golden_config, tmp_path):
    bank, _ = build_run_bank(build_config(golden_config))
    assert bank.references.shots.tolist() == [2, 2, 2]
    path = Path(golden_config["output"]) / "bank.safetensors"
    data = {**golden_config, "output": str(tmp_path / "other"), "references": None}
    run_all({**data, "bank": str(path)})
    own = tmp_path / "other" / "bank.safetensors"
    assert own.read_bytes() == path.read_bytes()
    own.write_bytes(b"of another run")
    run_all({**data, "bank": str(path)})
    assert own.read_bytes() == path.read_bytes()
    with pytest.raises(InputError, match="made by another encoder: image_size is 112"):
        run_all(
            {**data, "bank": str(path)}, "models.encoder.image_size=56", "output=/nonexistent/x"
        )


def test_a_wrong_checkpoint_is_refused_before_anything_is_written(golden_config):
    swapped = f"models.encoder.checkpoint={GOLDEN / 'weights' / 'sam2_nano.pt'}"
    with pytest.raises(WeightsError, match="does not fit the model"):
        run_all(golden_config, swapped)
    assert not list(Path(golden_config["output"]).glob("*"))


def test_shards_without_a_record_are_nobodys(golden_config):
    Storage().publish_bytes(golden_config["output"] + "/labels/shard-000000.parquet", b"x")
    with pytest.raises(InputError, match=r"holds shards but no run\.json"):
        run_all(golden_config)
