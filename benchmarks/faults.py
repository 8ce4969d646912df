"""Run the fault tests and print the table of docs/reliability.md from what they measured.

python -m benchmarks.faults            # a few minutes; writes runs/faults.json
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import machine, write_json

RESULT = Path("runs") / "faults.json"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "measured.jsonl"
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "tests/faults", "-q", "--durations=0"],
            cwd=Path(__file__).parents[1],
            env={**os.environ, "NTT_RAY_FAULTS": str(path)},
        )
        measured = [json.loads(line) for line in path.read_text().splitlines()]
    write_json(RESULT, {"machine": machine(torch.device("cpu")), "faults": measured})
    print(table(measured))
    sys.exit(done.returncode)


def table(measured: list[dict[str, Any]]) -> str:
    """The Markdown table: a row for each fault."""
    lines = ["| Fault | times | lost | until done | undisturbed |", "|---|---|---|---|---|"]
    for row in measured:
        seconds = [_seconds(row.get(key)) for key in ("resume_s", "undisturbed_s")]
        lines.append(f"| {row['fault']} | {row['times']} | {row['lost']} | {' | '.join(seconds)} |")
    return "\n".join(lines)


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} s"


if __name__ == "__main__":
    main()
