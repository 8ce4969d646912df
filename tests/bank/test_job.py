"""Banks built, extended and joined as the job and the command line do, on the golden images."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from ntt_ray.bank.file import bank_digest
from ntt_ray.bank.job import join_files
from ntt_ray.bank.memory import MemoryBank
from ntt_ray.config import build_config
from ntt_ray.errors import InputError
from ntt_ray.run.label import label
from ntt_ray.run.prepare import build_run_bank, make_plan
from tests.support.commands import run_command

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


def _part(references: Path, target: Path, keep) -> str:
    """A reference file with the annotations for which `keep` of class name and number is true."""
    coco = json.loads(references.read_text())
    names = {c["id"]: c["name"] for c in coco["categories"]}
    seen: dict[str, int] = {}
    kept = []
    for annotation in coco["annotations"]:
        name = names[annotation["category_id"]]
        seen[name] = seen.get(name, 0) + 1
        if keep(name, seen[name]):
            kept.append(annotation)
    used = {a["category_id"] for a in kept}
    coco["annotations"] = kept
    coco["categories"] = [c for c in coco["categories"] if c["id"] in used]
    target.write_text(json.dumps(coco))
    return str(target)


def _build(data, output, **references):
    data = {**data, "output": str(output), "references": {**data["references"], **references}}
    bank, report = build_run_bank(build_config(data))
    return bank, report, str(Path(output) / "bank.safetensors")


def test_extending_and_joining_equal_building_in_one_go(golden_config, golden_references, tmp_path):
    first = _part(golden_references, tmp_path / "1.json", lambda c, n: c != "cone" and n == 1)
    second = _part(golden_references, tmp_path / "2.json", lambda c, n: c == "cone" or n == 2)
    whole, report, whole_file = _build(golden_config, tmp_path / "whole")
    base, _, base_file = _build(golden_config, tmp_path / "a", annotations=first)
    assert base.references.shots.tolist() == [1, 1]
    _, _, more_file = _build(golden_config, tmp_path / "b", annotations=second)
    extended, found, extended_file = _build(
        golden_config, tmp_path / "c", annotations=second, extends=base_file
    )
    assert extended.classes == whole.classes
    banks = [MemoryBank.from_bytes(file.data, "bank") for file in (extended, whole)]
    assert torch.equal(banks[0].features, banks[1].features)
    assert torch.equal(banks[0].prototypes(), banks[1].prototypes())
    assert whole.sources == ()
    assert [s.bank for s in extended.sources] == [
        bank_digest(Path(f).read_bytes()) for f in (base_file, more_file)
    ]
    assert [row["annotation_id"] is None for row in found["references"]].count(True) == 2
    assert found["matrix"] == report["matrix"]

    joined, changes = join_files([base_file, more_file], str(tmp_path / "joined.safetensors"))
    assert changes == []
    assert (tmp_path / "joined.safetensors").read_bytes() == Path(extended_file).read_bytes()
    done = run_command("join-banks", base_file, more_file, "--output", str(tmp_path / "cli"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "cli").read_bytes() == joined.data
    done = run_command("join-banks", base_file, whole_file, base_file, "--output", "/nonexistent")
    assert done.returncode == 2
    assert "hold the same references" in done.stderr

    # the page of a bank that came ready
    ready = {**golden_config, "output": str(tmp_path / "r"), "references": None, "bank": whole_file}
    _, again = build_run_bank(build_config(ready))
    assert again["matrix"] == report["matrix"]
    assert (tmp_path / "r" / "bank.html").exists()
    assert not (tmp_path / "r" / "bank.safetensors").exists()


def test_a_run_with_negatives_and_a_bank_to_extend(golden_config, golden_references, tmp_path):
    first = _part(golden_references, tmp_path / "1.json", lambda c, n: n == 1)
    second = _part(golden_references, tmp_path / "2.json", lambda c, n: n == 2 and c != "cone")
    _, _, base_file = _build(golden_config, tmp_path / "a", annotations=first)
    block = {
        **golden_config["references"],
        "annotations": second,
        "extends": base_file,
        "negatives": {
            "annotations": str(golden_references),
            "image_root": golden_config["references"]["image_root"],
            "classes": ["disc"],
        },
    }
    data = {**golden_config, "references": block}
    units = []
    label(build_config(data), lambda unit, done, total: units.append(unit))
    assert len(units) == 2
    output = Path(golden_config["output"])
    written = (output / "bank.safetensors").read_bytes()
    bank = MemoryBank.from_bytes(written, "bank")
    assert bank.shots.tolist() == [2, 2, 1]
    assert sorted(bank.negatives.shots.tolist()) == [0, 0, 2]
    assert len(bank.sources) == 2
    report = json.loads((output / "bank.json").read_text())
    assert [row["class"] for row in report["negatives"]] == ["disc", "disc"]

    # the same start again finds everything done, with the bank that is there
    (output / "bank.json").unlink()
    label(build_config(data), lambda unit, done, total: units.append(unit))
    assert len(units) == 2
    assert (output / "bank.safetensors").read_bytes() == written
    assert not (output / "bank.json").exists()

    own = {**data, "references": {**block, "extends": str(output / "bank.safetensors")}}
    with pytest.raises(InputError, match="own bank"):
        make_plan(build_config(own))


def test_what_lies_around_references_is_part_of_what_a_bank_is_made_of(golden_config, tmp_path):
    plain, _, _ = _build(golden_config, tmp_path / "a")
    assert plain.negatives is None
    banks = []
    for n in (1, 2):
        bank, report, _ = _build(golden_config, tmp_path / str(n), background={"per_image": n})
        assert np.array_equal(bank.references.features, plain.references.features)
        assert bank.negatives.shots.tolist() == [2 * n] * 3  # two images a class
        assert bank.negatives.features.any(axis=2).all()
        assert len(report["negatives"]) == 6 * n
        banks.append(bank)
    assert len({bank.reference_digest for bank in (plain, *banks)}) == 3


def test_the_command_names_what_stands_out(golden_config, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(golden_config))
    done = run_command("bank", str(path), "--extend", "/nonexistent.safetensors")
    assert done.returncode == 2
    assert "references.extends: /nonexistent.safetensors: no such file" in done.stderr
    done = run_command("bank", str(path))
    assert done.returncode == 0, done.stderr
    assert "untold: " in done.stderr
    assert "fewer than 3 references" in done.stderr
    assert "wrote bank.safetensors, bank.html" in done.stderr
