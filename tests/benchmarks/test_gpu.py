"""The prepared hour on a GPU has no typing errors: its commands run where there is none."""

import json
import subprocess
import sys

import pytest

from benchmarks.gpu import WHOLE_S, steps, table
from tests.support.paths import ROOT


@pytest.mark.slow
@pytest.mark.ray
def test_the_dry_hour_ends_with_a_table(tmp_path):
    command = ["benchmarks/gpu.sh", str(tmp_path), "--dry"]
    environment = {"PATH": f"{sys.prefix}/bin:/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    logs = {path.name: path.read_text()[-800:] for path in tmp_path.glob("*.log")}
    assert done.returncode == 0, (done.stdout, done.stderr, logs)
    assert "| labeler_demo |" in done.stdout
    assert "| ts, transform |" in (tmp_path / "table.md").read_text()
    assert json.loads((tmp_path / "labeler_demo.json").read_text())["ratio"] is None


def test_the_hour_fits_its_time_and_its_commands_parse():
    from benchmarks import budget, job, labeler  # noqa: F401

    for step in steps(dry=False):
        assert step.limit_s < WHOLE_S
        module = step.arguments[0]
        if module == "benchmarks.labeler":
            labeler._parser().parse_args(step.arguments[1:])


def test_missing_results_leave_gaps_in_the_table(tmp_path):
    assert "Job:" not in table(tmp_path)
    parts = {"transform": {"device_ms": {"h100": 3.0}}}
    budget = {"per_image": {"ms": {"h100": 13.1}, "parts": parts}}
    (tmp_path / "budget_ts.json").write_text(json.dumps(budget))
    assert "| ts, whole | 13.10 |  |" in table(tmp_path)
