import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from ntt_ray.run import layout
from ntt_ray.run.shard import ANNOTATION, SCHEMA
from tests.support.output_files import unknown_files
from tests.support.paths import ROOT

PACKAGE = ROOT / "ntt_ray"
PAGE = (ROOT / "docs" / "output.md").read_text(encoding="utf-8")
WORDS = {  # in other meanings too
    layout.LABELS_FOLDER, layout.PLAN_FOLDER, layout.INSTANCES_FOLDER, layout.REVIEW_FOLDER,
    layout.PROPOSALS_FOLDER,
}  # fmt: skip
NAMES = {
    value
    for name, value in vars(layout).items()
    if name.isupper() and isinstance(value, str) and value not in WORDS | {layout.SHARD_SUFFIX}
}


def _literals(path: Path) -> Iterator[str]:
    """The strings of a module that are neither docstrings nor the name of a page's template."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value = ast.Constant(None)
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func).lower()
            if "template" in called or "render" in called or "joinpath" in called:
                node.args = [a for a in node.args if not isinstance(a, ast.Constant)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


@pytest.mark.parametrize(
    "room", sorted(p.name for p in PACKAGE.iterdir() if p.suffix in ("", ".py"))
)
def test_no_other_module_holds_a_name_of_an_output(room):
    place = PACKAGE / room
    paths = sorted(place.rglob("*.py")) if place.is_dir() else [place]
    # the demo's scenes and the reference files of benchmarks are inputs, with names of their own
    for path in paths:
        if path != Path(layout.__file__) and room not in ("demo", "reproduce"):
            found = NAMES & set(_literals(path))
            assert not found, f"{path.name} holds {found}; import them from run/layout.py"


def test_the_page_names_the_files_of_the_layout():
    table = PAGE.split("## Files")[1].split("\n## ")[0]
    named = re.findall(r"^\| `([^`]+)` \|", table, flags=re.MULTILINE)
    assert named == list(layout.FILES)


def test_the_page_has_the_columns_of_a_shard():
    table = PAGE.split("## Columns of a shard")[1].split("\n## ")[0]
    named = re.findall(r"^\| `([^`]+)` \|", table, flags=re.MULTILINE)
    assert named == [field.name for field in SCHEMA] + [f".{field.name}" for field in ANNOTATION]


NAMED = {
    "of verdicts": (layout.verdicts_name("anna-2"), "review/verdicts-anna-2.json"),
    "of verdicts of an odd name": (
        layout.verdicts_name("../Änna/../x"),
        "review/verdicts-nna-x-8dd98b09.json",
    ),
    "of a shard": (layout.shard_uri("s3://b/run", 12), "s3://b/run/labels/shard-000012.parquet"),
    "of many shards": (layout.shard_name(12_345_678), "shard-12345678.parquet"),
    "of notes": (layout.journal_uri("/run", 7), "/run/labels/shard-000007.journal.json"),
    "of a part": (layout.part_name(1, 2), "instances/part-00001-of-00002.parquet"),
    "of split files": (
        layout.split_names("annotations.json", 2)[1],
        "annotations-00002-of-00002.json",
    ),
}


@pytest.mark.parametrize("case", NAMED)
def test_names(case):
    found, wanted = NAMED[case]
    assert found == wanted


def test_ids_are_read_from_names():
    names = ["shard-000003.parquet", "shard-12345678.parquet", "shard-1.parquet", "notes.json"]
    assert layout.shard_ids(names) == {3, 12_345_678}


def test_unknown_files_are_found():
    known = ["run.json", "labels/shard-000001.parquet", "plan/0a1b/run.json", "yolo/labels/a/b.txt"]
    assert unknown_files([*known, "plan/0a1b/x.json", "y.txt"]) == ["plan/0a1b/x.json", "y.txt"]
