#!/usr/bin/env python3
"""Run the steps of the Dockerfile one by one where there is no container engine.

Each stage is a copy-on-write view of this machine's own root, below a temporary folder, and every
RUN step is run in it by chroot, as the step's user, in its own mount and process namespaces:
nothing outside the folder changes, nothing that a step starts outlives it. So each command is
known to work on this Debian with this Python; what is not shown is the base image itself.

A full run installs 5.4 GB (minutes). With --installed, the packages of the Python that runs this
script are visible to pip in the image: every pin of constraints.txt must then be met by what is
there, and little is left to install. CI does that.

Needs root and overlay mounts; without them it says so and ends with 0.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import site
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from dockerfile_parse import DockerfileParser

ROOT = Path(__file__).resolve().parents[1]
NAMESPACES = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
INSIDE = "NTT_RAY_DOCKERFILE_STEPS"
VENV = "opt/ntt-ray"


@dataclass
class Stage:
    """A stage under way: where it is mounted and what later steps inherit."""

    name: str
    root: Path
    env: dict[str, str]
    workdir: str = "/"
    user: str = "0"
    args: dict[str, str] = field(default_factory=dict)

    def expanded(self, text: str) -> str:
        """``${NAME}`` replaced by arguments and environment, in that order."""
        values = {**self.env, **self.args}
        return re.sub(r"\$\{(\w+)\}", lambda found: values[found[1]], text)

    def home(self, user: str) -> str:
        """Home of ``UID[:GID]``, as the stage's own list of users has it."""
        rows = [row.split(":") for row in (self.root / "etc/passwd").read_text().splitlines()]
        return next((row[5] for row in rows if row[2] == user.partition(":")[0]), "/")


class Steps:
    """Runs the instructions of a Dockerfile."""

    def __init__(self, work: Path, skipped: set[str], installed: bool) -> None:
        self.work, self.skipped, self.installed = work, skipped, installed
        self.stages: dict[str, Stage] = {}
        self.global_args: dict[str, str] = {}
        self.stage: Stage | None = None

    def run(self) -> None:
        """Every instruction in turn; an unknown one or one that fails ends it."""
        parser = DockerfileParser(str(ROOT / "Dockerfile"))
        for step in parser.structure:
            name, value = step["instruction"], step["value"]
            if name == "COMMENT":
                continue
            if self.stage is not None and name != "FROM" and self.stage.name in self.skipped:
                continue
            started = time.monotonic()
            print(f"{step['startline'] + 1:3}: {name} {value}", flush=True)
            getattr(self, f"do_{name.lower()}")(value)
            if name in ("RUN", "COPY"):
                print(f"     {time.monotonic() - started:.1f} s", flush=True)

    def do_arg(self, value: str) -> None:
        """``ARG NAME=default``, before the first stage or in one."""
        name, _, default = value.partition("=")
        (self.global_args if self.stage is None else self.stage.args)[name] = default

    def do_from(self, value: str) -> None:
        """``FROM BASE AS NAME``: a new view over this machine, or over an earlier stage."""
        base, _, name = value.split()
        parent = self.stages.get(base)
        if parent is None and base != "${BASE}":
            raise SystemExit(f"FROM {base}: neither a stage nor the base")
        lower = Path("/") if parent is None else parent.root
        root = self._mount(name, lower)
        inherited = _base_env() if parent is None else dict(parent.env)
        workdir, user = ("/", "0") if parent is None else (parent.workdir, parent.user)
        self.stage = self.stages[name] = Stage(name, root, inherited, workdir, user)

    def _mount(self, name: str, lower: Path) -> Path:
        root, upper, work = (self.work / name / part for part in ("root", "upper", "work"))
        for folder in (root, upper, work):
            folder.mkdir(parents=True)
        layers = f"lowerdir={lower},upperdir={upper},workdir={work}"
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o", layers, root], check=True)
        subprocess.run(["mount", "--rbind", "/dev", root / "dev"], check=True)
        subprocess.run(["mount", "-t", "proc", "proc", root / "proc"], check=True)
        # the image's user must reach this machine's Python; no Ray of this machine must be found
        leaves = [Path(sys.base_prefix), Path(sys.prefix)]
        for folder in {folder for leaf in leaves for folder in (leaf, *leaf.parents)}:
            inside = root / folder.relative_to("/")
            inside.chmod(inside.stat().st_mode | 0o011)
        shutil.rmtree(root / "tmp" / "ray", ignore_errors=True)
        if lower == Path("/"):  # the base image has no users but the system's
            for name in ("passwd", "group", "shadow"):
                rows = (root / "etc" / name).read_text().splitlines(keepends=True)
                kept = [row for row in rows if not re.match(r"ray:|[^:]*:[^:]*:1000:", row)]
                (root / "etc" / name).write_text("".join(kept))
        return root

    def do_workdir(self, value: str) -> None:
        """Made when it is not there, by root, as Docker does (BuildKit: by the user)."""
        self.stage.workdir = value
        folder = self.stage.root / value.lstrip("/")
        folder.mkdir(parents=True, exist_ok=True)
        self._chroot(["chown", self.stage.user, value], user="0")

    def do_env(self, value: str) -> None:
        """``ENV NAME=VALUE ...``."""
        for pair in shlex.split(value):
            name, _, text = pair.partition("=")
            self.stage.env[name] = self.stage.expanded(text)

    def do_user(self, value: str) -> None:
        """The user of the steps that follow."""
        self.stage.user = value

    def do_copy(self, value: str) -> None:
        """``COPY [--from=STAGE] [--chown=U:G] SOURCE... TARGET``; folders give their content."""
        words = value.split()
        flags = dict(word[2:].split("=") for word in words if word.startswith("--"))
        *sources, target = [word for word in words if not word.startswith("--")]
        source_root = self.stages[flags["from"]].root if "from" in flags else ROOT
        target_root = self.stage.root / os.path.join(self.stage.workdir, target).lstrip("/")
        for source in sources:
            origin = source_root / source.lstrip("/")
            if origin.is_dir():
                subprocess.run(["mkdir", "-p", target_root], check=True)
                copied = ["cp", "-a", f"{origin}/.", target_root]
            else:
                copied = ["cp", "-a", origin, target_root]
            subprocess.run(copied, check=True)
        if "chown" in flags:
            inside = "/" + str(target_root.relative_to(self.stage.root))
            self._chroot(["chown", "-R", flags["chown"], inside], user="0")

    def do_run(self, value: str) -> None:
        """``RUN COMMAND`` by /bin/sh."""
        self._chroot(["/bin/sh", "-c", value], user=self.stage.user)
        if self.installed and "-m venv" in value:
            packages = [path for path in site.getsitepackages() if "site-packages" in path]
            folder = next((self.stage.root / VENV / "lib").glob("python*")) / "site-packages"
            (folder / "installed.pth").write_text("".join(f"{path}\n" for path in packages))

    def do_cmd(self, value: str) -> None:
        """What the image does by default; as the last user, with the last environment."""
        self._chroot(json.loads(value), user=self.stage.user)

    def _chroot(self, command: list[str], user: str) -> None:
        stage = self.stage
        env = {"HOME": stage.home(user), **stage.env, **stage.args}
        enter = f'cd "{stage.workdir}" && exec "$@"'
        line = ["chroot", f"--userspec={user}", stage.root, "/bin/sh", "-c", enter, "sh", *command]
        done = subprocess.run(
            line,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if done.returncode:
            print(done.stdout)
            raise SystemExit(f"the step ended with exit status {done.returncode}")


def _base_env() -> dict[str, str]:
    """The base image's: `python` is this machine's, and pip finds what it finds here."""
    kept = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_"))}
    system = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return {"PATH": f"{sys.base_prefix}/bin:{system}", "LANG": "C.UTF-8", **kept}


def _obstacle() -> str | None:
    """Why it cannot be done here; None when it can."""
    if os.geteuid() != 0:
        return "not root"
    with tempfile.TemporaryDirectory() as folder:
        for name in ("root", "upper", "work"):
            Path(folder, name).mkdir()
        layers = f"lowerdir=/,upperdir={folder}/upper,workdir={folder}/work"
        mount = ["mount", "-t", "overlay", "overlay", "-o", layers, f"{folder}/root"]
        done = subprocess.run([*NAMESPACES, *mount], capture_output=True, text=True)
    return done.stderr.strip() if done.returncode else None


def main() -> None:
    """See the top of this file."""
    arguments = argparse.ArgumentParser(description="Run the Dockerfile's steps without Docker.")
    arguments.add_argument("--installed", action="store_true", help="use this Python's packages")
    arguments.add_argument("--skip", nargs="*", default=[], metavar="STAGE", help="stages left out")
    chosen = arguments.parse_args()
    if INSIDE not in os.environ:
        if obstacle := _obstacle():
            print(f"the Dockerfile's steps cannot be run here ({obstacle})")
            return
        inside = {**os.environ, INSIDE: "1"}
        sys.exit(subprocess.run([*NAMESPACES, sys.executable, *sys.argv], env=inside).returncode)
    with tempfile.TemporaryDirectory(prefix="dockerfile-steps-") as folder:
        try:
            Steps(Path(folder), set(chosen.skip), chosen.installed).run()
        finally:
            subprocess.run(["umount", "--recursive", "--lazy", *Path(folder).glob("*/root")])
    print("every step of the Dockerfile works")


if __name__ == "__main__":
    main()
