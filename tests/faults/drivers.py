"""What the fault tests share: a small run, its drivers as processes, and what they leave behind.

All runs have the same images and settings and differ in their output alone, so that each must end
with the bytes of the one undisturbed run. With NTT_RAY_FAULTS naming a file, what was measured is
added to it, a JSON record per line, for the table in docs/reliability.md.
"""

import json
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml
from filelock import FileLock

from tests.support.golden import GOLDEN, GOLDEN_MODELS
from tests.support.paths import ROOT

IMAGES = 24
IMAGE_S = 0.15  # to label an image: long enough to meet a run in the middle of it
MARK = "NTT_RAY_FAULT_TEST"  # in the environment of a driver and of every process it starts
DEADLINE_S = 300
FILES = ("annotations.json", "results.json", "bank.safetensors", "manifest.parquet")


class Driver:
    """A driver in a process of its own; what it says is kept in `notes`, or beside its output.

    It runs everything, or the command of `words`.
    """

    def __init__(
        self,
        data: dict,
        notes: Path | None = None,
        words: Sequence[str] = ("run",),
        **environment: str,
    ) -> None:
        self.output = Path(data["output"])
        self.mark = uuid.uuid4().hex
        said_in = Path(notes or self.output.parent)
        folder = said_in / f"{self.output.name}-{self.mark[:8]}"
        folder.mkdir(parents=True)
        config = folder / "config.yaml"
        config.write_text(yaml.safe_dump(data))
        self._said = folder / "said.txt"
        self.started = time.monotonic()
        with self._said.open("w") as said:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "tests.support.fake_models",
                    str(IMAGE_S),
                    words[0],
                    str(config),
                    *words[1:],
                ],
                cwd=ROOT,
                env={**os.environ, "RAY_ADDRESS": "", MARK: self.mark, **environment},
                stderr=said,
                stdin=subprocess.DEVNULL,
            )

    @property
    def said(self) -> str:
        return self._said.read_text()

    def running(self) -> bool:
        return self._process.poll() is None

    def shards(self) -> int:
        return len(list(self.output.glob("labels/*.parquet")))

    def wait_until(self, reached: Callable[[], object]) -> bool:
        """Wait for a milestone; False when the driver ended before."""
        end = time.monotonic() + DEADLINE_S
        while not reached():
            if not self.running():
                return bool(reached())
            assert time.monotonic() < end, self.said
            time.sleep(0.005)
        return True

    def end(self, status: int = 0) -> float:
        """Wait for the end, check the status, give the seconds it ran."""
        self._process.wait(timeout=DEADLINE_S)
        seconds = time.monotonic() - self.started
        assert self._process.returncode == status, self.said
        return seconds

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def processes(self) -> dict[int, str]:
        """The living processes that came of this driver, itself included: pid and title."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if f"{MARK}={self.mark}".encode() in (folder / "environ").read_bytes():
                    title = (folder / "cmdline").read_text().replace("\0", " ")
                    found[int(folder.name)] = title.strip()
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
        return found

    def wait_for_orphans(self, deadline_s: float, *, agents: bool) -> float:
        """Seconds until what a dead driver left is gone.

        Args:
            deadline_s: longer is an error.
            agents: wait for Ray's two idle agents too, which look for their node for a minute.
        """
        started = time.monotonic()
        while left := [t for t in self.processes().values() if agents or not t.endswith("Agent")]:
            assert time.monotonic() < started + deadline_s, f"still there: {left}"
            time.sleep(0.05)
        return time.monotonic() - started


def files(output: str | Path) -> dict[str, bytes]:
    """Every file of a run that must not depend on what happened to it."""
    shards = sorted((Path(output) / "labels").glob("shard-*.parquet"))
    return {p.name: p.read_bytes() for p in [*shards, *(Path(output) / n for n in FILES)]}


class Undisturbed:
    """The run that all others are compared with; made once for all processes that run tests."""

    def __init__(self, folder: Path) -> None:
        self.photos = folder / "photos"
        output, took = folder / "undisturbed", folder / "took.json"
        with FileLock(folder.with_suffix(".lock")):
            if not took.exists():
                self._copy_photos()
                took.write_text(json.dumps(Driver(self.config(output)).end()))
        self.seconds: float = json.loads(took.read_text())
        self.files = files(output)

    def _copy_photos(self) -> None:
        self.photos.mkdir(parents=True, exist_ok=True)
        sources = sorted((GOLDEN / "targets").glob("*.png"))
        for number in range(IMAGES):
            shutil.copy(sources[number % len(sources)], self.photos / f"{number:03d}.png")

    def config(self, output: Path, **changes: object) -> dict:
        """The config of a run on these images, as plain data."""
        return {
            "images": str(self.photos),
            "output": str(output),
            "references": {
                "annotations": str(GOLDEN / "refs.json"),
                "image_root": str(GOLDEN / "refs"),
                "shots": 1,
            },
            "models": GOLDEN_MODELS,
            "job": {"images_per_unit": 1, "actors": 1},
            "merge": {"min_score": 0.0, "profiles": ["coco", "coco-results"]},
            **changes,
        }

    def check(self, output: str | Path, fault: str, times: int, resume_s: float) -> None:
        """Compare every byte, and note what was lost (nothing, or the test fails)."""
        found = files(output)
        lost = sum(found.get(name) != data for name, data in self.files.items())
        note(fault=fault, times=times, lost=lost, resume_s=resume_s, undisturbed_s=self.seconds)
        assert found == self.files


def note(**measured: object) -> None:
    """Add a record to the file that NTT_RAY_FAULTS names, if it does."""
    if path := os.environ.get("NTT_RAY_FAULTS"):
        with open(path, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(measured) + "\n")
