"""Readers of what a merge writes. Their packages are an extra; ``make readers`` installs them."""

from __future__ import annotations

import os

import pytest

from tests.readers.labelled import Run, write


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--write-table", action="store_true", help="write what was measured to docs/outputs.md"
    )


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("readers")
    # FiftyOne starts no server, nothing asks a network, nothing is written to a home folder
    os.environ |= {
        "FIFTYONE_DISABLE_SERVICES": "1",
        "FIFTYONE_DO_NOT_TRACK": "1",
        "FIFTYONE_DATABASE_DIR": str(folder / "fiftyone"),
        "LIGHTLY_STUDIO_ANALYTICS_ENABLED": "false",
        "LIGHTLY_STUDIO_DATABASE_URL": f"duckdb:///{folder}/lightly_studio.db",
        "HF_HOME": str(folder / "hugging-face"),
        "HF_HUB_OFFLINE": "1",
        "YOLO_CONFIG_DIR": str(folder / "ultralytics-settings"),
        "YOLO_OFFLINE": "1",
        "YOLO_AUTOINSTALL": "0",
        "MPLCONFIGDIR": str(folder / "matplotlib"),
    }
    return write(folder)
