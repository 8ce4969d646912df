"""Runs that keep their proposals, and what is matched again of them, through Ray."""

import json
import shutil
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

import ntt_ray
from ntt_ray.config import build_config
from ntt_ray.errors import ConfigError, InputError, OutputMismatchError, RunIncompleteError
from ntt_ray.merge import job as merge_job
from ntt_ray.run.label import label
from ntt_ray.run.proposal_shard import open_proposals, to_bytes
from ntt_ray.run.rematch import rematch
from ntt_ray.run.rematch_plan import make_rematch_plan
from ntt_ray.storage import Storage
from ntt_ray.verify.problems import Findings
from ntt_ray.verify.verify import verify
from tests.support.commands import run_command
from tests.support.golden import GOLDEN, GOLDEN_MODELS

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]
NAMES = ["shard-000000.parquet", "shard-000001.parquet", "shard-000002.parquet"]
# of the golden case's classes
OTHER = {
    "method": {
        "points_per_side": 16,
        "min_predicted_iou": 0.5,
        "nms_iou": 0.7,
        "max_detections": 40,
        "diffusion": {},
        "prototypes": {"per_class": 2},
        "iou_power": 0.25,
        "largest_component": {},
    }
}


@pytest.fixture(scope="module")
def settings(golden_references, tmp_path_factory):
    """Good images and bad ones, with models in files of their own that may be taken away."""
    folder = tmp_path_factory.mktemp("rematch")
    photos, weights = folder / "photos", folder / "weights"
    shutil.copytree(GOLDEN / "weights", weights)
    photos.mkdir()
    for number in (1, 2, 3):
        shutil.copy(GOLDEN / "targets" / f"targets_0{number}.png", photos / f"{number}.png")
    (photos / "0.jpg").write_text("this is not a photograph")
    Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(photos / "4.png")
    rows = [{"uri": str(photos / name)} for name in ("0.jpg", "1.png", "2.png", "3.png", "4.png")]
    rows.append({"uri": str(photos / "gone.png")})
    table = folder / "images.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    models = json.dumps(GOLDEN_MODELS).replace(str(GOLDEN / "weights"), str(weights))
    return {
        "images": str(table),
        "references": {
            "annotations": str(golden_references),
            "image_root": str(GOLDEN / "refs"),
        },
        "models": json.loads(models),
        "method": {"points_per_side": 16},
        "job": {
            "images_per_unit": 2,
            "actors": 1,
            "patience_s": 0.0,
            "max_failed_fraction": 0.5,
            "max_unreachable_fraction": 0.5,
        },
        "merge": {"min_score": 0.0, "profiles": ["coco", "coco-results"]},
        "proposals": {"keep": True},
        "output": str(folder / "kept"),
    }


@pytest.fixture(scope="module")
def kept(settings, ray_cluster):
    """The output of a run that kept its proposals; it is not to be changed."""
    units = labelled(settings)
    assert sum(unit.detections for unit in units) > 10
    return settings["output"]


@pytest.fixture
def data(settings, kept, tmp_path):
    """The settings of a run of which a copy lies in the test's folder."""
    return {**settings, "output": copied(kept, tmp_path / "kept")}


def into(data, name, **changes):
    """The same settings with another output, and other changes; `classes` of the references."""
    classes = changes.pop("classes", None)
    references = {**data["references"], "classes": classes} if classes else data["references"]
    if "bank" in changes:
        references = None
    output = str(Path(data["output"]).with_name(name))
    return {**data, "references": references, **changes, "output": output}


def copied(source, to, change=None, **record):
    """A copy of an output, with changes of its record."""
    shutil.copytree(source, to)
    if record or change:
        content = json.loads((to / "run.json").read_text()) | record
        if change is not None:
            change(content["identity"])
        (to / "run.json").write_text(json.dumps(content))
    return str(to)


@contextmanager
def without(folder, *names):
    """Take something away from a folder for a while: who loads it fails."""
    for name in names:
        (folder / name).rename(folder / f"no {name}")
    yield
    for name in names:
        (folder / f"no {name}").rename(folder / name)


def labelled(data):
    units = []
    label(build_config(data), lambda unit, done, total: units.append(unit))
    return units


def matched(data, source):
    units = []
    rematch(build_config(data), source, lambda unit, done, total: units.append((unit, done, total)))
    return units


def files(data, folder="labels") -> dict[str, bytes]:
    paths = sorted((Path(data["output"]) / folder).iterdir())
    return {path.name: path.read_bytes() for path in paths}


def whole(data) -> bool:
    config = build_config(data)
    merge_job.merge(config)
    return verify(config, Findings()).whole


def test_matching_again_gives_the_bytes_of_labelling(data, tmp_path):
    source = data["output"]
    assert sorted(files(data, "proposals")) == NAMES
    with open_proposals(source, 0, Storage()) as file:
        assert file.read(["status"])["status"].to_pylist() == ["failed", "ok"]
    names = [item["name"] for item in json.loads(Path(source, "run.json").read_text())["classes"]]

    # a lost shard of labels is made again, and its proposals, with the same bytes
    before = files(data), files(data, "proposals")
    for folder in ("labels", "proposals"):
        Path(source, folder, NAMES[1]).unlink()
    # the image that is not there is tried again, too
    worked_on = sorted((unit.shard_id, unit.again) for unit in labelled(data))
    assert worked_on == [(1, False), (2, True), (2, True)]
    assert (files(data), files(data, "proposals")) == before
    assert whole(data)

    # the same bank: of the same references, which needs no encoder
    again = into(data, "again")
    assert [(done, total) for _, done, total in matched(again, source)] == [(2, 6), (4, 6), (6, 6)]
    assert files(again) == files(data)
    assert matched(again, source)[0][0].shard_id == 2  # it has an image that may heal
    assert whole(again)
    record = json.loads(Path(again["output"], "run.json").read_text())
    assert record["rematched_from"] == source

    # classes dropped, and everything else that may change
    other = into(data, "labelled", classes=names[1:], **OTHER)
    labelled(other)
    assert files(other) != files(data)
    changed = into(data, "changed", classes=names[1:], **OTHER)
    matched(changed, source)
    assert files(changed) == files(other)
    assert (
        Path(changed["output"], "bank.safetensors").read_bytes()
        == Path(other["output"], "bank.safetensors").read_bytes()
    )

    # classes added, from proposals that were kept with fewer; a ready bank, no weights, no images
    with without(Path(data["images"]).parent, "weights", "photos"):
        changes = {"bank": str(Path(source, "bank.safetensors")), **OTHER}
        more, direct = into(data, "more", **changes), into(data, "direct", **changes)
        config = tmp_path / "more.yaml"
        config.write_text(yaml.safe_dump(more))
        assert ntt_ray.rematch(config, other["output"]) == more["output"]
        matched(direct, source)
        assert files(more) == files(direct)
        assert whole(more)


def test_embeddings_come_of_what_is_kept(data, caplog):
    """Labels are the same with them; matching again makes them of proposals kept without."""
    source, kept = data["output"], {"proposals": {"keep": True, "embeddings": True}}
    labelled_so, matched_so = into(data, "labelled", **kept), into(data, "matched", **kept)
    labelled(labelled_so)
    matched(matched_so, source)
    assert files(labelled_so) == files(matched_so) != files(data)
    assert files(labelled_so, "proposals") == files(data, "proposals")
    rows = list(ntt_ray.read_labels(matched_so["output"]))
    assert rows == list(ntt_ray.read_labels(source))
    without = ntt_ray.read_labels(matched_so["output"], embeddings=False)
    assert {row.embedding for row in without} == {None}
    for row in rows:
        vectors = [row.embedding, *(found.embedding for found in row.detections)]
        if row.status == "failed":
            assert vectors == [None]
            continue
        lengths = [np.linalg.norm(vector) for vector in vectors]
        assert lengths == pytest.approx([1.0] * len(vectors), abs=1e-3)
    merged_so = {**matched_so, "merge": {"min_score": 0.0, "profiles": ["coco", "parquet"]}}
    assert whole(merged_so)
    table = pq.read_table(Path(matched_so["output"], "instances"))
    assert table["embedding"].to_pylist() == [
        found.embedding.tolist() for row in rows for found in row.detections
    ]
    without = into(data, "matched")
    with pytest.raises(OutputMismatchError, match=r"proposals\.embeddings: True there"):
        matched(without, source)
    plain = into(data, "unsaid", proposals={})  # takes what the source made
    again = into(data, "again")
    matched(plain, labelled_so["output"])
    assert files(plain) == files(labelled_so)

    for path in Path(source, "proposals").iterdir():  # as the version before wrote them
        table = pq.read_table(path)
        said = {k.decode(): v.decode() for k, v in table.schema.metadata.items()}
        path.write_bytes(to_bytes(table.drop_columns("view_feature"), said))
    matched({**again, **kept}, source)
    assert "the column embedding is null" in caplog.text
    older = list(ntt_ray.read_labels(again["output"]))
    assert older == rows
    assert {row.embedding for row in older} == {None}
    assert all(found.embedding is not None for row in older for found in row.detections)


def test_tiles_keep_their_views(settings, tmp_path):
    tiled = {**settings["method"], "tiles": {"side": 64}}
    images = tmp_path / "images.jsonl"
    images.write_text("".join(Path(settings["images"]).read_text().splitlines(keepends=True)[2:4]))
    data = {**settings, "method": tiled, "images": str(images), "output": str(tmp_path / "kept")}
    encoder = {**data["models"]["encoder"], "positional_debias": 9}
    data["models"] = {**data["models"], "encoder": encoder}
    labelled(data)
    others = {"method": {**tiled, "nms_iou": 0.7, "max_detections": 30}}
    other, changed = into(data, "labelled", **others), into(data, "changed", **others)
    labelled(other)
    matched(changed, data["output"])
    assert files(changed) == files(other) != files(data)


def test_what_cannot_be_matched_is_refused_before_ray_is_started(data, monkeypatch, tmp_path):
    source, method = data["output"], data["method"]
    bank = str(Path(source, "bank.safetensors"))
    monkeypatch.setattr("ray.init", None)
    monkeypatch.setattr("ntt_ray.run.rematch.map_on_ray", None)
    monkeypatch.setattr("ntt_ray.run.models.connect", None)
    encoder, proposer = data["models"]["encoder"], data["models"]["proposer"]
    refused = {
        "lower": ({"method": {**method, "min_predicted_iou": 0.3}}, "below 0.4 were not kept"),
        "points": ({"method": {**method, "points_per_side": 8}}, r"points_per_side: 16 there, 8"),
        "tiles": ({"method": {**method, "tiles": {}}}, r"method\.tiles"),
        "outputs": ({"method": {**method, "all_outputs": True}}, r"method\.all_outputs: None"),
        "refined": ({"method": {**method, "refinement": {}}}, r"method\.refinement: None there"),
        "decode": ({"decode": {"orientation": "stored"}}, r"decode\.orientation"),
        "images": ({"images": str(tmp_path / "other.jsonl")}, "images"),
        "thinning": ({"proposals": {"keep": True, "max_iou": 0.9}}, r"proposals\.max_iou: 0.95"),
        "encoder": (
            {"models": {"proposer": proposer, "encoder": {**encoder, "image_size": 56}}},
            r"models\.encoder\.image_size: 112 there, 56 here",
        ),
        "places": (
            {"models": {"proposer": proposer, "encoder": {**encoder, "positional_debias": 5}}},
            r"models\.encoder\.positional_debias: None there, 5 here",
        ),
        "aspect": (
            {"models": {"proposer": proposer, "encoder": {**encoder, "keep_aspect": True}}},
            r"models\.encoder\.keep_aspect: None there, True here",
        ),
        "checkpoint": (
            {"models": {"proposer": proposer, "encoder": {**encoder, "checkpoint": str(
                GOLDEN / "weights" / "sam2_nano.pt")}}},
            r"models\.encoder\.checkpoint",
        ),
        "device": ({"models": {**data["models"], "device": "cuda"}}, r"models\.device"),
    }  # fmt: skip
    for name, (changes, said) in refused.items():
        with pytest.raises(OutputMismatchError, match=said):
            make_rematch_plan(build_config(into(data, name, **changes)), source)
    for name in ("averaging", "prompts", "correspondence"):
        other = into(data, name, method={**method, name: {}}, proposals={"keep": False})
        with pytest.raises(ConfigError, match=rf"(?s)label anew.*method\.{name}: "):
            make_rematch_plan(build_config(other), source)
    raised = into(data, "raised", bank=bank, method={**method, "min_predicted_iou": 0.6})
    raised["proposals"] = {"keep": False}  # the source says how they were kept
    plan = make_rematch_plan(build_config(raised), source)
    assert (plan.bank is not None, len(plan.sizes)) == (True, 3)
    assert plan.config.proposals.keep
    new = into(data, "new", classes=[plan.classes[0].name])
    assert make_rematch_plan(build_config(new), source).bank is None
    config = tmp_path / "new.yaml"
    config.write_text(yaml.safe_dump(new))
    said = run_command("rematch", str(config), "--from", source, "--dry-run")
    assert said.returncode == 0
    assert "bank: is built first, by the encoder" in said.stderr
    assert f"6 images in 3 units, 0 of them done; 1 classes: {plan.classes[0].name}" in said.stderr
    assert not Path(new["output"]).exists()

    with pytest.raises(InputError, match="name another one"):
        make_rematch_plan(build_config(data), source)
    with pytest.raises(InputError, match=r"new\.yaml: is a config; name the output of a run"):
        make_rematch_plan(build_config(new), str(config))
    with pytest.raises(InputError, match="there is no run here"):
        make_rematch_plan(build_config(into(data, "x")), str(tmp_path))
    with pytest.raises(InputError, match=r"labelled images; choose another output"):
        make_rematch_plan(build_config(data), copied(source, tmp_path / "copy"))
    plain = copied(source, tmp_path / "plain", lambda identity: identity.pop("proposals"))
    with pytest.raises(InputError, match="kept no proposals"):
        make_rematch_plan(build_config(into(data, "x")), plain)
    second = copied(source, tmp_path / "second", rematched_from="/first")
    with pytest.raises(InputError, match="name the output that it was made of, /first"):
        make_rematch_plan(build_config(into(data, "x")), second)
    lost = copied(source, tmp_path / "lost")
    Path(lost, "proposals", NAMES[1]).unlink()
    with pytest.raises(InputError, match=r"1 of 3 units have no kept proposals, the first is 1"):
        make_rematch_plan(build_config(into(data, "x")), lost)
    Path(lost, "manifest.parquet").unlink()
    with pytest.raises(InputError, match="manifest"):
        make_rematch_plan(build_config(into(data, "x")), lost)


def test_damaged_proposals_are_named_and_their_units_given_back(data):
    path = Path(data["output"], "proposals", NAMES[1])
    good = path.read_bytes()
    path.write_bytes(good[:-50])
    again = into(data, "again")
    with pytest.raises(RunIncompleteError, match=r"1 of 3 units.*unit 1: .*damaged proposals"):
        matched(again, data["output"])
    path.write_bytes(Path(data["output"], "proposals", NAMES[0]).read_bytes())
    with pytest.raises(RunIncompleteError, match=r"they are the proposals of unit 0"):
        matched(again, data["output"])
    path.write_bytes(good)
    assert 1 in [unit.shard_id for unit, _, _ in matched(again, data["output"])]
    assert files(again) == files(data)
