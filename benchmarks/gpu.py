"""A prepared hour on a GPU, in eight minutes: tests, predictions, times, and a table of them.

    benchmarks/gpu.sh OUT          # results as JSON, one log for each step, and table.md, in OUT
    benchmarks/gpu.sh OUT --dry    # the same commands without a GPU, on the smallest models

A step that fails or takes too long leaves its log and does not keep the others from running; the
exit status then is 1. The steps are in the order of their worth.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WHOLE_S = 480.0


@dataclass(frozen=True)
class Step:
    """A command of this Python.

    Attributes:
        name: the name of its log and of its result, without their endings.
        arguments: after ``python -m``.
        limit_s: most seconds that it may take.
        has_result: whether it writes a result as JSON.
    """

    name: str
    arguments: tuple[str, ...]
    limit_s: float
    has_result: bool = True


def steps(dry: bool) -> list[Step]:
    """What is done; `dry` is for a machine without a GPU, which may be busy."""
    if dry:
        return _dry_steps()
    tests = ("pytest", "-q", "tests/gpu", "-p", "no:cacheprovider")
    found = [Step("tests", tests, 150, has_result=False)]
    for models in ("ts", "ll"):
        found.append(Step(f"budget_{models}", ("benchmarks.budget", "--models", models), 60))
    for models in ("ts", "ll"):
        base = ("benchmarks.labeler", "--models", models, "--device", "cuda", "--precision", "bf16")
        base += ("--repeats", "3", "--survivors", "1")
        found.append(Step(f"labeler_{models}", (*base, "--batch", "8"), 90))
        large = ("--ours-only", "--size", "4000x3000")
        found.append(Step(f"labeler_{models}_12mp", base + large, 60))
    job = ("benchmarks.job", "--images", "400", "--actors", "1", "--device", "cuda")
    found.append(Step("job", job, 90))
    for how in ("yes", "cuda-graphs"):
        compiled = (
            "benchmarks.labeler",
            "--models",
            "ts",
            "--device",
            "cuda",
            "--precision",
            "bf16",
        )
        compiled += ("--precision", "bf16", "--ours-only", "--batch", "8", "--compile", how)
        found.append(Step(f"labeler_ts_compile_{how}", compiled, 150))
    return found


def _dry_steps() -> list[Step]:
    """The same modules, each once and on as little as it takes."""
    tests = ("pytest", "-q", "tests/gpu", "-p", "no:cacheprovider", "--collect-only")
    labeler = ("benchmarks.labeler", "--models", "demo", "--device", "cpu", "--survivors", "1")
    labeler += ("--repeats", "1", "--images", "1", "--points-per-side", "4", "--ours-only")
    job = ("benchmarks.job", "--images", "2", "--actors", "1", "--device", "cpu")
    return [
        Step("tests", tests, WHOLE_S, has_result=False),
        Step("budget_ts", ("benchmarks.budget", "--models", "ts", "--batch", "1"), WHOLE_S),
        Step("labeler_demo", labeler, WHOLE_S),
        Step("job", job, WHOLE_S),
    ]


def run(step: Step, folder: Path, left_s: float) -> bool:
    """Run a step; what it prints goes into a log beside its result."""
    command = [sys.executable, "-m", *step.arguments]
    if step.has_result:
        command += ["--json", str(folder / f"{step.name}.json")]
    started = time.monotonic()
    with (folder / f"{step.name}.log").open("w", encoding="utf-8") as log:
        try:
            limit_s = min(step.limit_s, left_s)
            code = subprocess.run(command, stdout=log, stderr=log, timeout=limit_s).returncode
        except subprocess.TimeoutExpired:
            code = "took too long"
    print(f"{step.name}: {code or 'done'}, {time.monotonic() - started:.0f} s", flush=True)
    return code == 0


def table(folder: Path) -> str:
    """The results in a folder as Markdown."""
    found = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    lines = ["| labeller | plain images/s | ours, one by one | in steps | ratio | peak GB |"]
    lines.append("|---|---:|---:|---:|---:|---:|")
    timed = {name: result for name, result in found.items() if "fast_seconds_by_part" in result}
    for name, result in timed.items():
        keys = ("plain_images_per_s", "fast_images_per_s", "fast_images_per_s_in_steps", "ratio")
        numbers = [_number(result[key]) for key in (*keys, "fast_peak_gb")]
        lines.append(f"| {name} | {' | '.join(numbers)} |")
    lines += ["", "| part | predicted ms (H100) | measured ms |", "|---|---:|---:|"]
    for models in ("ts", "ll"):
        if (budget := found.get(f"budget_{models}")) is None:
            continue
        whole = budget["per_image"]
        lines.append(
            f"| {models}, whole | {whole['ms']['h100']:.2f} | {_measured(found, models)} |"
        )
        for part, values in whole["parts"].items():
            lines.append(f"| {models}, {part} | {values['device_ms']['h100']:.2f} | |")
        for part, seconds in (
            timed.get(f"labeler_{models}", {}).get("fast_seconds_by_part", {}).items()
        ):
            lines.append(f"| {models}, {part} (one image) | | {1000 * seconds:.2f} |")
    if (job := found.get("job")) is not None:
        idle = 100 * job["idle_share_of_actors"]
        lines += ["", f"Job: {job['job_images_per_s']:.2f} images/s, actors idle for {idle:.1f} %."]
    return "\n".join(lines) + "\n"


def _measured(found: dict[str, Any], models: str) -> str:
    result = found.get(f"labeler_{models}")
    return "" if result is None else f"{1000 / result['fast_images_per_s_in_steps']:.2f}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dry", action="store_true", help="without a GPU, on small models")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + WHOLE_S
    done = []
    for step in steps(arguments.dry):
        left_s = end - time.monotonic()
        done.append(left_s > 1 and run(step, arguments.folder, left_s))
    text = table(arguments.folder)
    (arguments.folder / "table.md").write_text(text, encoding="utf-8")
    print(text)
    sys.exit(not all(done))


if __name__ == "__main__":
    main()
