"""The pins of the readers' environment are what is installed, and lack only what they say."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import tomllib

from tests.readers.matrix import CASES
from tests.support.paths import ROOT

PINS = dict(
    line.split("==")
    for line in (ROOT / "constraints-readers.txt").read_text().splitlines()
    if not line.startswith("#")
)
# readers only read; the Pillow that resizes as for the golden values is what labelling needs
OURS = f"ntt-ray {importlib.metadata.version('ntt-ray')}"
OLDER = f"{OURS} has requirement pillow>=13, but you have pillow {PINS['pillow']}."
# why: constraints-readers.txt
LEFT_OUT = {OLDER, "fiftyone-db", "opencv-python", "polars"}
OTHER_VERSIONS = {("fiftyone", "starlette")} | {
    ("lightly-studio", name) for name in ("duckdb", "scikit-learn")
}


def test_what_is_pinned_is_installed() -> None:
    assert {name: importlib.metadata.version(name) for name in PINS} == PINS


def test_nothing_is_missing_or_of_another_version_but_what_is_named() -> None:
    done = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True)
    lines = done.stdout.splitlines()
    missing = re.compile(r"\S+ \S+ requires (\S+), which is not installed\.")
    other = re.compile(r"(\S+) \S+ has requirement ([\w-]+)[^ ]*.*, but you have .*")
    found = {match[1] if (match := missing.fullmatch(line)) else line for line in lines}
    others = {m.groups(): line for line in found - {OLDER} if (m := other.fullmatch(line))}
    assert set(others) == OTHER_VERSIONS
    assert found - set(others.values()) == LEFT_OUT


def test_every_reader_of_the_extra_is_pinned_and_tried() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extra = {re.split("[<>=]", item)[0] for item in project["optional-dependencies"]["readers"]}
    assert extra <= set(PINS)
    assert extra <= {case.package for case in CASES} | {"lightly-studio"}  # test_tools_page
