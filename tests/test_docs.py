"""The documents stay true: the tree names every file, its commands exist, nothing private leaks."""

import json
import re
import shlex
import subprocess
import sys
import tarfile
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from ntt_ray.config import build_config
from tests.support import layout_page
from tests.support.golden import GOLDEN
from tests.support.paths import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def _tracked() -> list[str]:
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip("not a git checkout")
    return done.stdout.splitlines()


def test_the_tree_says_what_every_module_says_of_itself():
    assert layout_page.written_tree() == layout_page.tree(), (
        "write docs/layout.md anew: python -m tests.support.layout_page"
    )


def test_first_sentences():
    assert layout_page.first_sentence("What it is: a list. More of it.\n\nAnd more.") == (
        "What it is: a list"
    )
    assert (
        layout_page.first_sentence("One sentence\nover two lines.") == "One sentence over two lines"
    )


@pytest.mark.slow
def test_every_command_is_in_the_readme():
    done = subprocess.run(
        [sys.executable, "-m", "ntt_ray", "--help"], capture_output=True, text=True, check=True
    )
    commands = re.findall(r"^[│ ]+([a-z-]+) {2,}[A-Z]", done.stdout, flags=re.MULTILINE)
    assert {"run", "bank", "label", "merge", "evaluate", "report", "demo"} <= set(commands)
    for command in commands:
        assert re.search(rf"ntt-ray {command}\b", README), f"ntt-ray {command} is not in the README"


def test_make_targets_in_the_readme_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in set(
        re.findall(r"make (setup|demo|test|readers|check|docs|dist|oldest|pythons)", README)
    ):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)


def test_links_lead_somewhere():
    for link in re.findall(r"\]\((?!https?://)([^)#]+)", README):
        assert (ROOT / link).exists(), link


def test_the_demo_config_is_the_packaged_one():
    packaged = (ROOT / "ntt_ray" / "demo" / "demo.yaml").read_bytes()
    assert (ROOT / "configs" / "demo.yaml").read_bytes() == packaged


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.name)
def test_configs_are_valid(path):
    build_config(yaml.safe_load(path.read_text()))


def test_the_example_config_shows_every_key():
    shown = yaml.safe_load((ROOT / "configs" / "photos.yaml").read_text())
    from ntt_ray.config import Config

    for key, field in Config.model_fields.items():
        assert key in shown, key
        if key in ("columns", "decode", "method", "job", "merge"):
            default = field.default_factory()
            assert set(shown[key]) == set(type(default).model_fields), key
            assert shown[key] == default.model_dump(mode="json"), f"{key} shows other defaults"


def test_no_lock_file_and_no_registry_host():
    for path in _tracked():
        assert Path(path).name not in ("uv.lock", "poetry.lock", "package-lock.json")
    for name in ("pyproject.toml", *(path.name for path in ROOT.glob("constraints*.txt"))):
        text = (ROOT / name).read_text()
        assert "://" not in re.sub(r"^\[project\.urls\][^\[]*", "", text, flags=re.MULTILINE), name


INPUTS = (ROOT / "docs" / "inputs.md").read_text(encoding="utf-8")


def test_the_page_of_inputs_has_every_ending_and_every_format():
    from ntt_ray.cli.references import FORMATS
    from ntt_ray.images import IMAGE_SUFFIXES

    assert " ".join(IMAGE_SUFFIXES) in INPUTS
    assert set(re.findall(r"--from (\w+)", INPUTS)) == set(FORMATS)


@pytest.mark.slow
def test_the_commands_of_the_page_of_inputs_exist():
    commands = re.findall(r"`ntt-ray ([^`]+)`", INPUTS)
    assert len(commands) > 7
    for command in commands:
        words = command.split()
        done = subprocess.run(
            [sys.executable, "-m", "ntt_ray", *words[:2], "--help"], capture_output=True, text=True
        )
        assert done.returncode == 0, command
        for option in (word for word in words if word.startswith("--")):
            assert option in done.stdout, command


def test_the_forms_of_packed_images_on_the_page_of_inputs_are_read(
    golden_config, tmp_path, monkeypatch
):
    """A dry run of each command, in a folder with such files."""
    from ntt_ray.run.prepare import make_plan

    data = (GOLDEN / "targets" / "targets_00.png").read_bytes()
    for folder in ("shards", "data", "folder"):
        (tmp_path / folder).mkdir()
    with tarfile.open(tmp_path / "shards" / "shard-000.tar", "w") as tar:
        tar.add(GOLDEN / "targets" / "targets_00.png", "0001.png")
    table = pa.table({"image": [{"bytes": data, "path": "a.png"}], "jpg": [data]})
    pq.write_table(table, tmp_path / "data" / "train-00000-of-00001.parquet")
    (tmp_path / "folder" / "a.png").write_bytes(data)
    row = {"file_name": "a.png", "caption": "a"}
    (tmp_path / "folder" / "metadata.jsonl").write_text(json.dumps(row))
    (tmp_path / "list.csv").write_text("uri,caption,licence\nfolder/a.png,a,CC0\n")
    boxes = {"images": [{"id": 1, "file_name": "a.png"}]}
    boxes["annotations"] = [{"image_id": 1, "bbox": [1, 2, 3, 4]}]
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    monkeypatch.chdir(tmp_path)
    commands = re.findall(r"`ntt-ray (run my.yaml[^`]+)`", INPUTS)
    assert len(commands) >= 7
    for command in commands:
        words = shlex.split(command)
        given = [value for word, value in pairwise(words) if word == "--set"]
        there = ["image_root=null", f"output={tmp_path}/out"]
        config = build_config(golden_config, [*given, *there])
        assert make_plan(config).images == 1, command
