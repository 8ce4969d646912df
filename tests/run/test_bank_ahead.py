"""Banks that do not fit, and references that were changed, are refused without models and Ray."""

import json
import time
from pathlib import Path

import pytest
import ray

from ntt_ray.bank.file import bank_digest
from ntt_ray.bank.inputs import existing_bank
from ntt_ray.bank.memory import MemoryBank
from ntt_ray.config import build_config
from ntt_ray.errors import InputError, OutputMismatchError
from ntt_ray.models.published import PUBLISHED
from ntt_ray.records import ClassLabel
from ntt_ray.run.bank_ahead import READ_BYTES, known_digest
from ntt_ray.run.identity import Found, identity_of
from ntt_ray.run.prepare import build_run_bank, check_images, check_sources, make_plan, prepare_run
from ntt_ray.run.record import make_record, write_record
from ntt_ray.storage import Storage
from tests.support.banks import golden_bank, with_patches

STORE = Storage()


@pytest.fixture(autouse=True)
def _no_ray(monkeypatch):
    def refuse(**options):
        raise AssertionError("Ray was started")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refuse)


@pytest.fixture
def begun(golden_config):
    """The data of a run that was begun, with the bank of its references, and no shard."""
    config = build_config(golden_config)
    sources, images = check_sources(config, STORE), check_images(config, STORE)
    bank = golden_bank(sources.classes(), sources.digest)
    output = Path(config.output)
    STORE.publish_bytes(str(output / "bank.safetensors"), bank.data)
    STORE.publish_stream(str(output / "manifest.parquet"), images.manifest.chunks())
    digests = {"encoder": "e", "proposer": "p"}
    found = Found(bank_digest(bank.data), digests, "fp32", "cpu")
    record = make_record(
        identity=identity_of(config, images.manifest, found),
        config={},
        classes=bank.classes,
        units=len(images.sizes),
        images=sum(images.sizes),
    )
    write_record(config.output, record, STORE)
    return golden_config


def _prepared(config):
    prepare_run(config, STORE, check_sources(config, STORE))


STARTS = {"a dry run": make_plan, "a run": _prepared, "a bank": build_run_bank}


@pytest.mark.parametrize("start", STARTS)
def test_other_references_than_the_run_began_with(begun, start):
    block = {**begun["references"], "classes": ["plate", "disc"]}
    with pytest.raises(OutputMismatchError, match="choose another output, or restore") as refused:
        STARTS[start](build_config({**begun, "references": block}))
    assert [text.split(":")[0] for text in refused.value.problems] == ["references"]


def test_the_same_references_are_no_other_ones(begun, tmp_path):
    moved = tmp_path / "moved.json"
    moved.write_bytes(Path(begun["references"]["annotations"]).read_bytes())
    block = {**begun["references"], "annotations": str(moved)}
    assert make_plan(build_config({**begun, "references": block})).images == 4


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"half")])
def test_a_lost_bank_says_nothing_of_references(begun, damage):
    damage(Path(begun["output"]) / "bank.safetensors")
    block = {**begun["references"], "classes": ["plate", "disc"]}
    assert make_plan(build_config({**begun, "references": block})).images == 4


UNFIT = {
    "another model": ({"name": "dinov2_vitb14"}, "name is 'dinov2_vitb14' in the bank"),
    "another size of images": ({"image_size": 518}, "image_size is 518 in the bank and 112"),
    "places taken out": ({"positional_debias": 5}, "positional_debias is 5 in the bank and None"),
    "in proportion": ({"keep_aspect": True}, "keep_aspect is True in the bank and None in this"),
    "other weights": ({"checkpoint": "abc"}, "checkpoint is 'abc' in the bank"),
}


@pytest.mark.parametrize("start", ["a dry run", "a run"])
@pytest.mark.parametrize("case", UNFIT)
def test_a_ready_bank_of_another_encoder(golden_config, tmp_path, case, start):
    encoder, said = UNFIT[case]
    config = build_config(golden_config)
    bank = golden_bank(check_sources(config, STORE).classes(), **encoder)
    (tmp_path / "ready").write_bytes(bank.data)
    data = {**golden_config, "references": None, "bank": str(tmp_path / "ready")}
    with pytest.raises(InputError, match="Build the bank again with this encoder") as refused:
        STARTS[start](build_config(data))
    assert str(refused.value).startswith(f"{tmp_path}/ready: ")
    assert said in str(refused.value)


@pytest.mark.parametrize("start", ["a dry run", "a run"])
def test_a_ready_bank_of_another_positional_debias(golden_config, tmp_path, start):
    bank = golden_bank(check_sources(build_config(golden_config), STORE).classes())
    (tmp_path / "ready").write_bytes(bank.data)
    data = {**golden_config, "references": None, "bank": str(tmp_path / "ready")}
    with pytest.raises(InputError, match="positional_debias is None in the bank and 20 in this"):
        STARTS[start](build_config(data, ["models.encoder.positional_debias=20"]))


def test_a_bank_to_extend_of_another_encoder(golden_config, tmp_path):
    bank = golden_bank(check_sources(build_config(golden_config), STORE).classes(), image_size=518)
    (tmp_path / "base").write_bytes(bank.data)
    block = {**golden_config["references"], "extends": str(tmp_path / "base")}
    with pytest.raises(InputError, match=r"references\.extends: was made by another encoder"):
        make_plan(build_config({**golden_config, "references": block}))


CHECKED = {"method": {"correspondence": {}}}


@pytest.mark.parametrize("start", STARTS)
def test_a_ready_bank_without_patches(golden_config, tmp_path, start):
    bank = golden_bank(check_sources(build_config(golden_config), STORE).classes())
    (tmp_path / "ready").write_bytes(bank.data)
    data = {**golden_config, **CHECKED, "references": None, "bank": str(tmp_path / "ready")}
    with pytest.raises(InputError, match="Build the bank again from its references") as refused:
        STARTS[start](build_config(data))
    assert str(refused.value).startswith(f"{tmp_path}/ready: has no patch features")
    whole = with_patches(MemoryBank.from_bytes(bank.data, "ready"))
    (tmp_path / "ready").write_bytes(whole.to_bytes())
    assert len(make_plan(build_config(data)).classes) == 3
    assert len(make_plan(build_config({**data, "method": {}})).classes) == 3


def test_a_bank_to_extend_without_patches(golden_config, tmp_path):
    bank = golden_bank(check_sources(build_config(golden_config), STORE).classes())
    (tmp_path / "base").write_bytes(bank.data)
    block = {**golden_config["references"], "extends": str(tmp_path / "base")}
    with pytest.raises(InputError, match=r"references\.extends: has no patch features"):
        make_plan(build_config({**golden_config, **CHECKED, "references": block}))


def test_a_bank_of_the_same_references_without_patches_is_another_one(begun):
    def found(data):
        config = build_config(data)
        encoder = dict(golden_bank([ClassLabel(1, "any")]).encoder)
        return existing_bank(config, STORE, check_sources(config, STORE), encoder)

    method = {**begun.get("method", {}), **CHECKED["method"]}
    assert found(begun) is not None
    assert found({**begun, "method": method}) is None


@pytest.mark.parametrize("start", STARTS)
def test_a_run_that_began_without_patches(begun, start):
    method = {**begun.get("method", {}), **CHECKED["method"]}
    with pytest.raises(OutputMismatchError, match=r"method\.correspondence"):
        STARTS[start](build_config({**begun, "method": method}))


def test_a_ready_bank_that_fits(golden_config, tmp_path):
    bank = golden_bank(check_sources(build_config(golden_config), STORE).classes())
    (tmp_path / "ready").write_bytes(bank.data)
    data = {**golden_config, "references": None, "bank": str(tmp_path / "ready")}
    assert len(make_plan(build_config(data)).classes) == 3


def test_digests_that_are_known_without_fetching_anything(golden_config, tmp_path):
    def digest(**encoder):
        models = {**golden_config["models"], "encoder": {"name": "dinov2_vits14", **encoder}}
        return known_digest(build_config({**golden_config, "models": models}).models.encoder)

    assert digest() == PUBLISHED["dinov2_vits14"].sha256
    assert digest(name="dinov2_vitg14") is None
    assert len(digest(name="dinov2_demo")) == 64
    assert digest(checkpoint="s3://bucket/vits14.pth") is None
    with (tmp_path / "large.pth").open("wb") as file:
        file.truncate(READ_BYTES + 1)
    assert digest(checkpoint=str(tmp_path / "large.pth")) is None


def test_a_dry_run_says_that_another_driver_is_at_work(begun, caplog):
    holder = {"token": "x", "host": "elsewhere", "pid": 7, "heartbeat": time.time()}
    lock = Path(begun["output"]) / "driver.lock"
    lock.write_text(json.dumps(holder))
    make_plan(build_config(begun))
    assert "process 7 on elsewhere" in caplog.text
    caplog.clear()
    lock.write_text(json.dumps({**holder, "heartbeat": 0}))
    make_plan(build_config(begun))
    assert "elsewhere" not in caplog.text
