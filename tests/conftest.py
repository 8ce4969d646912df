"""Shared fixtures. CPU, offline; Ray is started once, by the first test that needs it."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

# One thread, here and in every process that a test starts: results must not depend on the machine,
# and other work may share it. PyTorch reads it when it is imported, which most tests do without.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest

from tests.support.golden import GOLDEN, GOLDEN_MODELS
from tests.support.s3_store import s3  # noqa: F401 a fixture

if TYPE_CHECKING:
    from tests.faults.drivers import Undisturbed

# files with such tests come first, so that processes which share the files end together
LONGEST_FIRST = ("faults", "ray", "slow")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the files by their longest kind of test; what is in a file stays in its order."""
    ranks: dict[Path, int] = {}
    for item in items:
        kinds = [n for n, mark in enumerate(LONGEST_FIRST) if item.get_closest_marker(mark)]
        ranks[item.path] = min([*kinds, ranks.get(item.path, len(LONGEST_FIRST))])
    items.sort(key=lambda item: ranks[item.path])


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    if terminal := config.pluginmanager.get_plugin("terminalreporter"):
        config.pluginmanager.register(_FailuresAtOnce(terminal))
        config.pluginmanager.register(_SlowestFiles())


class _FailuresAtOnce:
    """Says which test failed when it fails: a session that is ended from outside has no summary."""

    def __init__(self, terminal: pytest.TerminalReporter) -> None:
        self._terminal = terminal

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            said = str(report.longrepr).strip().splitlines()[-12:]
            self._terminal.write_line("")
            self._terminal.write_line(f"{report.nodeid}, {report.when}, {report.duration:.0f} s:")
            self._terminal.write_line("\n".join(said))


class _SlowestFiles:
    """Says at the end where the minutes went: of each file the seconds of tests and fixtures."""

    SHOWN, LEAST_S = 20, 10.0

    def __init__(self) -> None:
        self._seconds: Counter[str] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._seconds[report.nodeid.partition("::")[0]] += report.duration

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        files = [f for f in self._seconds.most_common(self.SHOWN) if f[1] >= self.LEAST_S]
        if files:
            terminalreporter.section(f"slowest files, {sum(self._seconds.values()):.0f} s in all")
        for name, seconds in files:
            terminalreporter.write_line(f"{seconds:7.0f} s  {name}")


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    """The numbers that PyTorch draws do not depend on the tests before; it is not imported here."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(scope="session")
def golden_references(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The golden case's references as a COCO file that holds just the chosen annotations."""
    memory = json.loads((GOLDEN / "memory.json").read_text())
    coco = json.loads((GOLDEN / "refs.json").read_text())
    chosen = {entry["ann_ids"][0] for shots in memory["by_category"].values() for entry in shots}
    coco["annotations"] = [a for a in coco["annotations"] if a["id"] in chosen]
    coco["categories"] = [c for c in coco["categories"] if c["id"] in memory["category_order"]]
    path = tmp_path_factory.mktemp("references") / "refs.json"
    path.write_text(json.dumps(coco))
    return path


@pytest.fixture
def golden_config(golden_references: Path, tmp_path: Path) -> dict[str, Any]:
    """A config of the golden case as plain data, with its output in the test's folder."""
    return {
        "images": str(GOLDEN / "targets.json"),
        "image_root": str(GOLDEN / "targets"),
        "output": str(tmp_path / "run"),
        "references": {
            "annotations": str(golden_references),
            "image_root": str(GOLDEN / "refs"),
        },
        "models": GOLDEN_MODELS,
        "method": {"points_per_side": 16},
        # each actor imports torch and timm anew; what cannot be read soon is not there in tests
        "job": {"images_per_unit": 2, "actors": 1, "patience_s": 20.0},
        "merge": {"min_score": 0.0, "profiles": ["coco", "coco-results"]},
    }


@pytest.fixture(scope="session")
def undisturbed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Undisturbed:
    """The run that runs with faults are compared with."""
    from tests.faults.drivers import Undisturbed

    own = tmp_path_factory.getbasetemp()
    # the folder of all processes of this test session, where there are several
    return Undisturbed((own.parent if hasattr(request.config, "workerinput") else own) / "faults")


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """Ray on this machine, shared by all tests that run the job."""
    import ray

    from ntt_ray.run.cluster.connect import connect

    connect()
    yield
    ray.shutdown()
