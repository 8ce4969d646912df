"""METHOD.md holds what the code cites, and the pages beside the code name what is there."""

import ast
import fnmatch
import re
import tomllib
from pathlib import Path

import pytest

from tests.support.paths import ROOT

PACKAGE = ROOT / "ntt_ray"
METHOD = PACKAGE / "method" / "METHOD.md"
DECODER = PACKAGE / "models" / "sam2" / "decoder" / "DECODER.md"
CITING = sorted(
    p for room in ("ntt_ray", "tests", "benchmarks") for p in (ROOT / room).rglob("*.py")
)


def items(page: str) -> list[int]:
    """The numbers of the items of METHOD.md, in its order."""
    return [int(number) for number in re.findall(r"^(\d+)\. \*\*", page, flags=re.MULTILINE)]


def cited(text: str) -> set[int]:
    """The items that a text cites: ``METHOD 3``, ``METHOD 3, 4``, ``3 and 4`` or ``3 to 7``."""
    gap = r"[\s#]+"  # a citation may go on in the next line of a comment
    found: set[int] = set()
    for numbers in re.findall(rf"\bMETHOD{gap}(\d+(?:(?:,|{gap}and|{gap}to){gap}\d+)*)", text):
        for first, last in re.findall(rf"(\d+)(?:{gap}to{gap}(\d+))?", numbers):
            found |= set(range(int(first), int(last or first) + 1))
    return found


def not_there(page: str, folders: tuple[Path, ...]) -> list[str]:
    """Modules that a page names and that are in none of the folders, and names not in them."""
    missing = []
    for module, names in re.findall(r"`([\w/]+\.py)(?:: ([\w., ]+))?`", page):
        paths = [folder / module for folder in folders if (folder / module).is_file()]
        if not paths:
            missing.append(module)
            continue
        known = defined_names(paths[0].read_text(encoding="utf-8"))
        missing += [f"{module}: {name}" for name in names.split(", ") if name and name not in known]
    return missing


def defined_names(source: str) -> set[str]:
    """Functions and classes of a module, and ``Class.method``."""
    names = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            functions = (part for part in node.body if isinstance(part, ast.FunctionDef))
            names |= {f"{node.name}.{function.name}" for function in functions}
    return names


def test_the_items_have_no_gap():
    assert items(METHOD.read_text(encoding="utf-8")) == list(range(1, 48))


def test_every_item_that_is_cited_is_there():
    known = set(items(METHOD.read_text(encoding="utf-8")))
    citations = {path: cited(path.read_text(encoding="utf-8")) for path in CITING}
    assert sum(bool(numbers) for numbers in citations.values()) > 10
    for path, numbers in citations.items():
        assert numbers <= known, f"{path.relative_to(ROOT)} cites METHOD {sorted(numbers - known)}"


@pytest.mark.parametrize("page", [METHOD, DECODER], ids=lambda path: path.name)
def test_what_a_page_names_is_in_the_code(page):
    text = page.read_text(encoding="utf-8")
    assert len(re.findall(r"`[\w/]+\.py", text)) > 5
    assert not not_there(text, (page.parent, PACKAGE, ROOT))


def test_the_pages_are_in_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = project["tool"]["setuptools"]["package-data"]["ntt_ray"]
    for page in PACKAGE.rglob("*.md"):
        name = page.relative_to(PACKAGE).as_posix()
        assert any(fnmatch.fnmatch(name, pattern) for pattern in patterns), name


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("", set()),
        ("the METHOD, and 12 masks", set()),
        ("a factor (METHOD 34).", {34}),
        ("(METHOD 9, 17)", {9, 17}),
        ("METHOD 23 and 24; METHOD 3", {3, 23, 24}),
        ("METHOD 3 to 6, 9: each of 12", {3, 4, 5, 6, 9}),
        ("# as in METHOD\n    # 40 to\n    # 42", {40, 41, 42}),
        (f"METHOD {99}", {99}),
    ],
)
def test_citations_are_found(text, numbers):
    assert cited(text) == numbers


def test_gaps_and_wrong_names_are_found(tmp_path):
    (tmp_path / "tiles.py").write_text("class View:\n    def size(self): ...\n\ndef cut(): ...\n")
    page = "1. **A.** `tiles.py: cut, View, View.size`\n3. **B.** `tiles.py: sew, View.cut` `no.py`"
    assert items(page) == [1, 3]
    assert not_there(page, (tmp_path,)) == ["tiles.py: sew", "tiles.py: View.cut", "no.py"]
