#!/usr/bin/env python3
"""Check every name of Ray that we use, in the oldest version we allow and in the installed one.

The oldest is the bound in pyproject.toml. Its wheel is unpacked into a temporary folder, which
stands before the installed packages: nothing is installed, and what Ray itself needs is there.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import re
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ROOM = ROOT / "ntt_ray" / "run"
CHAIN = ROOM / "chain.py"
RAY = re.compile(r"^(import|from) ray\b", re.MULTILINE)


def main() -> None:
    """Both versions, each in a process of its own."""
    oldest = _bound()
    with tempfile.TemporaryDirectory() as folder:
        _unpack(oldest, Path(folder))
        _check_in(f"{folder}{os.pathsep}{ROOT}", oldest)
    _check_in(str(ROOT), None)


def _bound() -> str:
    """``2.58.0``, where ``ray[...]>=2.58`` is asked for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = next(line for line in project["dependencies"] if line.startswith("ray["))
    return needed.partition(">=")[2] + ".0"


def _unpack(version: str, folder: Path) -> None:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--no-deps", "--dest", folder, f"ray=={version}"], check=True)
    with zipfile.ZipFile(next(folder.glob("ray-*.whl"))) as wheel:
        wheel.extractall(folder)


def _check_in(path: str, expected: str | None) -> None:
    environment = {**os.environ, "PYTHONPATH": path}
    check = [sys.executable, __file__, "--check", *([expected] if expected else [])]
    subprocess.run(check, check=True, env=environment)


def check(expected: str | None) -> None:
    """Import what imports Ray, and look for each name that is only used later.

    Raises:
        SystemExit: names are missing; all of them are listed.
    """
    import ray
    from ray.data import ActorPoolStrategy, DataContext, Dataset
    from ray.data._internal.execution.interfaces.ref_bundle import BlockEntry

    assert expected in (None, ray.__version__), f"found Ray {ray.__version__}, not {expected}"
    modules = [path for path in sorted(ROOM.rglob("*.py")) if RAY.search(path.read_text())]
    for path in modules:
        importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    source = CHAIN.read_text()
    strategy = inspect.signature(ActorPoolStrategy).parameters
    used = {
        f"DataContext.{name}": hasattr(DataContext.get_current(), name)
        for name in _attributes_set(source, "context")
    }
    used |= {
        f"ActorPoolStrategy({name})": name in strategy
        for name in {"min_size", "max_size", "initial_size"}
        | _keywords(source, "ActorPoolStrategy")
    }
    used["Dataset.iter_internal_ref_bundles"] = hasattr(Dataset, "iter_internal_ref_bundles")
    used["BlockEntry.ref"] = "ref" in inspect.signature(BlockEntry).parameters
    if missing := [name for name, found in used.items() if not found]:
        raise SystemExit(f"Ray {ray.__version__} has no {', '.join(missing)}")
    print(f"Ray {ray.__version__}: {len(modules)} modules imported, {len(used)} names found")


def _keywords(source: str, name: str) -> set[str]:
    """``x`` of every ``name(x=...)``; what ``**`` gives is not seen."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    named = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == name]
    return {keyword.arg for call in named for keyword in call.keywords if keyword.arg}


def _attributes_set(source: str, name: str) -> list[str]:
    """``x`` of every ``name.x = ...``."""
    found = [
        target.attr
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Attribute) and ast.unparse(target.value) == name
    ]
    assert found, f"nothing sets an attribute of {name} in {CHAIN}"
    return found


if __name__ == "__main__":
    if sys.argv[1:2] == ["--check"]:
        check(sys.argv[2] if len(sys.argv) > 2 else None)
    else:
        main()
