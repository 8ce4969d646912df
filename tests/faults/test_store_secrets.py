"""Credentials stay where they are: in no file of a run, nothing that is said, no log of Ray."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from tests.support.golden import GOLDEN, GOLDEN_MODELS
from tests.support.paths import ROOT

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.faults, pytest.mark.timeout(300)]
ENVIRONMENT_SECRET = "environment-secret-5Hq8"
OPTION_TOKEN = "option-token-9Kz1"
SIGNATURE = "f00dfeed4c0ffee"


@pytest.fixture
def ray_folder():
    """A short path for Ray's files: those of its sockets have a limit."""
    folder = Path(tempfile.mkdtemp(prefix="ntt", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def _text(name: str, data: bytes) -> str:
    """A file as text, with the columns of a table unpacked."""
    if name.endswith(".parquet"):
        table = pq.read_table(io.BytesIO(data))
        return f"{table.schema.metadata} {table.to_pylist()}"
    return data.decode(errors="replace")


def test_credentials_are_in_no_file_and_no_line(s3, tmp_path, golden_references, ray_folder):
    if not s3.credentials:
        pytest.skip("made-up credentials: only the test server takes them")
    store, prefix = s3.storage(), s3.prefix()
    source = next((GOLDEN / "targets").glob("*.png")).read_bytes()
    rows = ["uri"]
    for number in range(3):
        store.publish_bytes(f"{prefix}/{number}.png", source)
    for number in (1, 0, 2, 3):  # the last is not there: the error names its URL
        address = f"{s3.endpoint}/{prefix.removeprefix('s3://')}/{number}.png"
        signed = f"X-Amz-Credential=AKIA%2F{SIGNATURE}&X-Amz-Signature={SIGNATURE}"
        rows.append(f"{address}?v=1&{signed}" if number % 2 else f"{address}?sig={SIGNATURE}")
    store.publish_bytes(f"{prefix}/table.csv", "\n".join(rows).encode())
    # one more address, that no library can make anything of
    rows.append(f"nosuch://me:{SIGNATURE}@host/4.png?token={SIGNATURE}")
    store.publish_bytes(f"{prefix}/odd.csv", "\n".join(rows).encode())

    options = s3.options()
    options["s3"] = {k: v for k, v in options["s3"].items() if k not in ("key", "secret")}
    options["s3"]["token"] = OPTION_TOKEN
    data = {
        "images": f"{prefix}/table.csv",
        "output": f"{prefix}/run",
        "references": {"annotations": str(golden_references), "image_root": str(GOLDEN / "refs")},
        "models": GOLDEN_MODELS,
        "job": {"images_per_unit": 8, "actors": 1, "patience_s": 1.0},
        "storage_options": options,
    }
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(data))
    environment = {
        "AWS_ACCESS_KEY_ID": "test-key",
        "AWS_SECRET_ACCESS_KEY": ENVIRONMENT_SECRET,
        "RAY_ADDRESS": "",
        "RAY_TMPDIR": str(ray_folder),
    }

    def start(*overrides: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "tests.support.fake_models", "0", "run", str(config)]
        return subprocess.run(
            [*command, "--verbose", *overrides],
            cwd=ROOT,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=250,
        )

    refused = start("--set", f"images={prefix}/odd.csv")
    assert refused.returncode == 2, refused.stderr
    assert "nosuch://host/4.png: nosuch:// is none of" in refused.stderr
    done = start()
    assert done.returncode == 1, done.stderr  # all but one: refused twice, and missing
    assert "3 of 4 images are to be tried again" in done.stderr

    names = store.list_files(data["output"])
    assert {"run.json", "annotations.json", "report.html"} <= set(names)
    said = {name: _text(name, store.read_bytes(f"{data['output']}/{name}")) for name in names}
    assert "there is no such file" in said["labels/shard-000000.parquet"]
    assert OPTION_TOKEN not in said["run.json"]
    assert '"token": "***"' in said["run.json"]
    # what fetches the images must know their whole addresses, see docs/reliability.md
    assert SIGNATURE in said.pop("manifest.parquet")
    said |= {"stdout": done.stdout, "stderr": done.stderr, "refused": refused.stderr}
    logs = [p for p in ray_folder.rglob("*") if p.is_file() and "/logs/" in str(p)]
    assert logs, "Ray wrote no logs"
    said |= {str(path): path.read_bytes().decode(errors="replace") for path in logs}
    for secret in (ENVIRONMENT_SECRET, OPTION_TOKEN, SIGNATURE):
        assert [name for name, text in said.items() if secret in text] == [], secret
