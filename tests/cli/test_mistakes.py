"""The page of mistakes says what the commands say, and none of them needs Ray to say it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml

from ntt_ray.bank.file import bank_digest
from ntt_ray.bank.inputs import BankInputs
from ntt_ray.config import build_config
from ntt_ray.models.published import PUBLISHED
from ntt_ray.records import ClassLabel
from ntt_ray.run import manifest as manifest_file
from ntt_ray.run.identity import Found, identity_of
from ntt_ray.run.lock import RunLock
from ntt_ray.run.prepare import check_images, check_sources
from ntt_ray.run.record import make_record, write_record
from ntt_ray.storage import Storage
from tests.support.banks import golden_bank
from tests.support.commands import run_command
from tests.support.paths import ROOT

PAGE = ROOT / "docs" / "mistakes.md"
ROW = re.compile(
    r"^\| (?P<mistake>[^|]+) \| (?P<said>`[^`]+`) \| (?P<status>\d) \| [0-4]\.\d \|$", re.MULTILINE
)
NOWHERE = "http://127.0.0.1:9"  # nothing listens there


@dataclass
class Place:
    """Where a mistake is made: a config as plain data, its folder, and the command to start."""

    config: dict[str, Any]
    folder: Path
    monkeypatch: pytest.MonkeyPatch
    words: tuple[str, ...] = ("run",)

    def set(self, path: str, value: Any) -> None:
        *blocks, key = path.split(".")
        block = self.config
        for name in blocks:
            block[name] = dict(block.get(name) or {})
            block = block[name]
        block[key] = value

    def references(self, change: Callable[[dict[str, Any]], None]) -> None:
        found = json.loads(Path(self.config["references"]["annotations"]).read_text())
        change(found)
        path = self.folder / "refs.json"
        path.write_text(json.dumps(found))
        self.set("references.annotations", str(path))


def _text(place: Place, text: str) -> None:
    (place.folder / "broken.yaml").write_text(text)
    place.words = ("run", str(place.folder / "broken.yaml"))


def _photos(place: Place) -> None:
    folder = place.folder / "photos"
    folder.mkdir()
    place.set("images", str(folder))
    place.set("image_root", None)


def _table(place: Place) -> None:
    (place.folder / "photos.csv").write_text("path,label\na.jpg,1\n")
    place.set("images", str(place.folder / "photos.csv"))
    place.set("image_root", None)


def _begun(place: Place) -> None:
    """A run that was begun with these settings, before they are changed."""
    _record_run(place, "b")
    place.set("method.points_per_side", 8)


def _record_run(place: Place, bank: str) -> None:
    """Begin a run with these settings, and with a bank of this digest."""
    config, store = build_config(place.config), Storage()
    images = check_images(config, store)
    digests = {"encoder": "e", "proposer": "p"}
    identity = identity_of(config, images.manifest, Found(bank, digests, "fp32", "cpu"))
    store.publish_stream(f"{config.output}/manifest.parquet", images.manifest.chunks())
    classes = [ClassLabel(1, "plate")]
    sizes = manifest_file.unit_sizes(images.manifest)
    record = make_record(
        identity=identity,
        config=config.resolved(),
        classes=classes,
        units=len(sizes),
        images=sum(sizes),
        images_sha256=None,
    )
    write_record(config.output, record, store)


def _other_references(place: Place) -> None:
    """A run that was begun with all classes, before one is left out."""
    sources = check_sources(build_config(place.config), Storage())
    assert isinstance(sources, BankInputs)
    bank = golden_bank(sources.classes(), sources.digest)
    Storage().publish_bytes(f"{place.config['output']}/bank.safetensors", bank.data)
    _record_run(place, bank_digest(bank.data))
    place.set("references.classes", ["plate", "disc"])


def _other_encoder(place: Place) -> None:
    bank = golden_bank([ClassLabel(1, "plate")], image_size=518)
    (place.folder / "ready.safetensors").write_bytes(bank.data)
    place.set("references", None)
    place.set("bank", str(place.folder / "ready.safetensors"))


def _boxes(found: dict[str, Any]) -> None:
    for annotation in found["annotations"]:
        annotation.pop("segmentation")


def _unused(found: dict[str, Any]) -> None:
    found["categories"].append({"id": 77, "name": "forgotten"})


def _published(place: Place) -> None:
    place.config["models"] = {"encoder": {"name": "dinov2_vits14"}}
    elsewhere = replace(PUBLISHED["dinov2_vits14"], url=f"{NOWHERE}/dinov2_vits14_pretrain.pth")
    place.monkeypatch.setitem(PUBLISHED, "dinov2_vits14", elsewhere)
    place.monkeypatch.setenv("NTT_RAY_CACHE", str(place.folder / "cache"))


def _other_truth(place: Place) -> None:
    def rename(found: dict[str, Any]) -> None:
        for image in found["images"]:
            image["file_name"] = f"train/{image['file_name']}"

    references = dict(place.config["references"])
    place.references(rename)
    place.set("ground_truth", place.config["references"]["annotations"])
    place.config["references"] = references


def _occupied(place: Place) -> None:
    Path(place.config["output"]).write_text("a file")


def _locked(place: Place) -> None:
    lock = RunLock(place.config["output"], Storage())
    lock.__enter__()
    place.monkeypatch.setattr(Place, "lock", lock, raising=False)  # ended by its own thread


def _address(place: Place, address: str = "127.0.0.1:9") -> None:
    place.monkeypatch.setenv("RAY_ADDRESS", address)


def _convert(place: Place) -> None:
    (place.folder / "odd").mkdir()
    (place.folder / "odd" / "notes.txt").write_text("?")
    out = str(place.folder / "refs.json")
    place.words = ("references", "convert", str(place.folder / "odd"), "--output", out)


MISTAKES: dict[str, Callable[[Place], None]] = {
    "a config that is not there": lambda p: setattr(p, "words", ("run", "my.yml")),
    "a tab in YAML": lambda p: _text(p, "images: photos\n\toutput: out\n"),
    "a misspelt key": lambda p: p.set("imagse", "photos"),
    "a misspelt key of `--set`": lambda p: setattr(p, "words", ("run", "", "--set", "job.actor=2")),
    "a word where a number belongs": lambda p: p.set("job.images_per_unit", "many"),
    "a misspelt folder of images": lambda p: p.set("images", str(p.folder / "fotos")),
    "a folder without images": lambda p: _photos(p),
    "a table without its column": _table,
    "an `image_root` that is elsewhere": lambda p: p.set("image_root", str(p.folder)),
    "changed settings on an old output": _begun,
    "other references on an old output": _other_references,
    "an output that is a file": _occupied,
    "a second driver on the same output": _locked,
    "references that are not there": lambda p: p.set("references.annotations", "/refs.json"),
    "images of references that are elsewhere": lambda p: p.set(
        "references.image_root", str(p.folder)
    ),
    "references with boxes only": lambda p: p.references(_boxes),
    "a class without a reference": lambda p: p.references(_unused),
    "a ready bank of another encoder": _other_encoder,
    "a misspelt model": lambda p: p.set("models", {"encoder": {"name": "dinov2_vitl"}}),
    "a checkpoint that is not there": lambda p: p.set("models.encoder.checkpoint", "/w.pth"),
    "a checkpoint out of reach": _published,
    "a GPU where there is none": lambda p: p.set("models.device", "cuda"),
    "a kind of GPU that is not there": lambda p: p.set("job.accelerator", "H100"),
    "a Ray cluster that does not answer": _address,
    "the address of Ray's dashboard": lambda p: _address(p, "http://127.0.0.1:8265"),
    "a misspelt class to merge": lambda p: p.set("merge.classes", ["plat"]),
    "a calibration that is not there": lambda p: p.set("merge.calibration", "/calibration.json"),
    "a ground truth that is not there": lambda p: p.set("ground_truth", "/truth.json"),
    "a ground truth of other images": _other_truth,
    "merging before labelling": lambda p: setattr(p, "words", ("merge",)),
    "references of a tool that is not known": _convert,
}


def _rows() -> dict[str, tuple[str, int]]:
    found = ROW.finditer(PAGE.read_text())
    return {m["mistake"]: (m["said"].strip("`"), int(m["status"])) for m in found}


def test_the_page_has_these_mistakes_and_no_others():
    assert list(_rows()) == list(MISTAKES)


@pytest.fixture
def place(golden_config, tmp_path, monkeypatch):
    def no_ray(*arguments, **options):
        raise AssertionError("Ray was started")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", no_ray)
    shutil.copy(golden_config["references"]["annotations"], tmp_path / "given.json")
    place = Place(golden_config, tmp_path, monkeypatch)
    yield place
    if lock := getattr(place, "lock", None):
        lock.__exit__(None, None, None)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_refused_as_the_page_says(mistake, place):
    said, status = _rows()[mistake]
    MISTAKES[mistake](place)
    path = place.folder / "my.yaml"
    path.write_text(yaml.safe_dump(place.config))
    command, *rest = place.words
    words = [str(path), *rest[1:]] if not rest or not rest[0] else rest
    done = run_command(command, *words)
    expected = ".*".join(re.escape(part) for part in said.split("…"))
    told = done.stderr.replace("`", "'")  # a table's cell holds no marks of code inside of others
    assert re.search(expected, told, re.DOTALL), told
    assert done.returncode == status
    assert "Traceback" not in done.stderr
