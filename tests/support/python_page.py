"""The recipes of a page of ``docs``, and what they need: a small example that was run."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
from pathlib import Path
from typing import Any

from ntt_ray.config import load_config
from ntt_ray.demo.example import render_example
from ntt_ray.run.label import label
from tests.support.paths import ROOT

IMAGES = 2
# little work: a bank of one reference each, a coarse grid of points
SMALL = (
    "references.shots=1",
    "references.profile=plain",
    "method.points_per_side=6",
    "job.images_per_unit=1",
)


def recipes(page: str = "python.md") -> dict[str, list[str]]:
    """The blocks of code of each section by its heading; those of a section are one program."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    sections = re.split(r"^## (.+)\n", text, flags=re.MULTILINE)[1:]
    return {
        title: re.findall(r"^```python\n(.*?)^```", body, flags=re.MULTILINE | re.DOTALL)
        for title, body in zip(sections[::2], sections[1::2], strict=True)
    }


def missing_packages(blocks: list[str]) -> list[str]:
    """What a recipe imports and is not installed."""
    names = re.findall(r"^(?:import|from) (\w+)", "\n".join(blocks), flags=re.MULTILINE)
    return [name for name in names if importlib.util.find_spec(name) is None]


def write_example(folder: Path, *more: str) -> tuple[str, list[str]]:
    """What ``ntt-ray demo`` leaves in a folder, as far as the recipes read it, with few images.

    Gives its config, and what it was overridden with: `more`, too.
    """
    path, demo = render_example(folder / "runs" / "demo", images=IMAGES)
    overrides = [*demo, *SMALL, *more]
    label(load_config(str(path), overrides), lambda *_: None)
    return str(path), overrides


def run_recipe(title: str, folder: Path, page: str = "python.md") -> tuple[dict[str, Any], str]:
    """What a recipe defines and prints when it is run in a folder."""
    code = "\n".join(recipes(page)[title])
    names: dict[str, Any] = {"__name__": "recipe"}
    printed = io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(printed):
        exec(compile(code, f"docs/{page}", "exec"), names)
    return names, printed.getvalue()
