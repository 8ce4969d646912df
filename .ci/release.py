#!/usr/bin/env python3
"""Build a release and use it as somebody would who has nothing else: `make dist`.

Builds the source distribution and, from it, the wheel; lets twine judge what the package index
would show; compares what is inside with what git knows; installs the wheel into an environment
that is empty, away from the repository, and runs the example there. Ends with 1 at the first
thing that is wrong.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "dist"
MADE = re.compile(r"PKG-INFO|setup\.cfg|ntt_ray\.egg-info/.*")  # by setuptools, in an sdist


def main() -> None:
    """See the top of this file."""
    shutil.rmtree(DIST, ignore_errors=True)
    _run(sys.executable, "-m", "build", "--outdir", DIST, ROOT)
    (sdist,), (wheel,) = DIST.glob("*.tar.gz"), DIST.glob("*.whl")
    _run(sys.executable, "-m", "twine", "check", "--strict", sdist, wheel)
    known = _known_to_git()
    _compare("the source distribution", _names_of_sdist(sdist), known)
    package = {name for name in known if name.startswith("ntt_ray/")}
    _compare("the wheel", _names_of_wheel(wheel), package)
    with tempfile.TemporaryDirectory(prefix="release-") as folder:
        _try(wheel, Path(folder))
    print(f"{sdist.name} and {wheel.name} in {DIST} can be published")


def _run(*command: str | Path, **options: object) -> None:
    print("+", *command, flush=True)
    subprocess.run(command, check=True, **options)


def _known_to_git() -> set[str]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return {name for name in listed.splitlines() if (ROOT / name).is_file()}


def _names_of_sdist(path: Path) -> set[str]:
    with tarfile.open(path) as archive:
        names = [member.name.partition("/")[2] for member in archive if member.isfile()]
    return {name for name in names if not MADE.fullmatch(name)}


def _names_of_wheel(path: Path) -> set[str]:
    """What it installs; its own folder must hold the licence and the command."""
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
    inside = {name for name in names if ".dist-info/" in name}
    for needed in ("licenses/LICENSE", "entry_points.txt"):
        if not any(name.endswith(needed) for name in inside):
            raise SystemExit(f"the wheel has no {needed}")
    return names - inside


def _compare(what: str, found: set[str], expected: set[str]) -> None:
    if missing := sorted(expected - found):
        raise SystemExit(f"{what} lacks {', '.join(missing)}: MANIFEST.in or package-data")
    if surplus := sorted(found - expected):
        raise SystemExit(f"{what} has {', '.join(surplus)}, which git does not know")
    print(f"{what} has all {len(expected)} files")


def _try(wheel: Path, folder: Path) -> None:
    """Install and run it; nothing of the repository is on any path."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "RAY_"))}
    _run(sys.executable, "-m", "venv", folder / "venv")
    pip = [folder / "venv/bin/python", "-m", "pip", "--disable-pip-version-check"]
    _run(*pip, "install", "--quiet", "--constraint", ROOT / "constraints.txt", wheel)
    _run(*pip, "check")
    command = [folder / "venv/bin/ntt-ray", "demo", "--output", folder / "demo"]
    _run(*command, cwd=folder, env=environment)


if __name__ == "__main__":
    main()
