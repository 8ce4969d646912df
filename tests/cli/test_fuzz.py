"""Hostile files through the command itself: exit status 2, one message, no traceback."""

import json
import subprocess
import sys

import pytest
import yaml

from tests.support.commands import run_command
from tests.support.verify_run import Run

POLYGON = {"segmentation": [[-1e9, -1e9, 1e9, 1e9, 3, 4]]}
REFERENCES = {
    "images": [{"id": 1, "file_name": "a.png", "width": 60, "height": 50}],
    "categories": [{"id": 1, "name": "nut"}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9], **POLYGON}],
}


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Runs ``ntt-ray`` here on files by name and content; gives its exit status and stderr."""

    def run(*arguments, **files):
        for name, content in files.items():
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            (tmp_path / name.replace("__", ".")).write_bytes(data)
        monkeypatch.chdir(tmp_path)
        done = run_command(*arguments)
        return done.returncode, done.stderr

    return run


def _config(**settings):
    return {"images": "list.csv", "output": "out", "bank": "bank", **settings}


BY_REFERENCES = _config(bank=None, references={"annotations": "refs.json"})
CASES = {
    "yaml bomb": (
        {
            "c__yaml": b"a: &a [x,x,x,x,x,x,x,x,x]\n"
            + b"".join(
                b"%c: &%c [%s]\n" % (n + 1, n + 1, b",".join([b"*%c" % n] * 9))
                for n in range(97, 108)
            )
        },
        "more than 20000 values",
    ),
    "a python object": ({"c__yaml": b"images: !!python/name:os.system ''"}, "could not determine"),
    "a polygon without end": ({"c__yaml": BY_REFERENCES, "refs__json": REFERENCES}, "far outside"),
    "references nested deeply": (
        {"c__yaml": BY_REFERENCES, "refs__json": b"[" * 100_000},
        "refs.json: not JSON",
    ),
    "a bank that is none": (
        {"c__yaml": _config(), "bank": b"\xff" * 40},
        "not a usable memory bank",
    ),
}


@pytest.mark.parametrize(("files", "text"), CASES.values(), ids=CASES.keys())
def test_a_dry_run_refuses_hostile_files(command, files, text):
    status, said = command("run", "c.yaml", "--dry-run", **files)
    assert status == 2
    assert text in said
    assert "Traceback" not in said


RUN_DAMAGE = {
    "an empty record": ("run.json", b"{}", ("merge", "evaluate", "report")),
    "a record nested deeply": ("run.json", b"[" * 100_000, ("merge",)),
    "a record without a plan": (
        "run.json",
        b'{"format_version": 1, "plan": {"units": "3"}}',
        ("merge", "evaluate", "report"),
    ),
    "results that are none": ("results.json", b'[{"image_id": 1}]', ("evaluate",)),
    "a manifest that is none": ("manifest.parquet", b"PAR1", ("evaluate", "report")),
}


@pytest.mark.parametrize(("name", "data", "commands"), RUN_DAMAGE.values(), ids=RUN_DAMAGE.keys())
def test_a_damaged_run_is_refused(command, tmp_path, name, data, commands):
    run = Run(tmp_path).merge()
    run.publish(name, data)
    config = _config(output=str(run.output), ground_truth="truth.json")
    truth = {"images": [], "annotations": [], "categories": []}
    for word in commands:
        status, said = command(word, "c.yaml", c__yaml=config, truth__json=truth)
        assert (status, "Traceback" in said) == (2, False), f"{word}: {said}"
        assert "error:" in said
    status, said = command("verify", "c.yaml", c__yaml=config)  # which says what is wrong
    assert (status, "Traceback" in said) == (1, False), said
    assert name in said


def test_bytes_that_are_no_text_are_shown_as_well_as_can_be(tmp_path):
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(_config()))
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "ntt_ray",
            "run",
            "c.yaml",
            "--set",
            b"images=\xff\xfe",
            "--dry-run",
        ],
        capture_output=True,
        cwd=tmp_path,
        timeout=170,
    )
    assert done.returncode == 2, done.stderr
    assert b"Traceback" not in done.stderr
