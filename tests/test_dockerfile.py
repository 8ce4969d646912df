"""The Dockerfile: what it promises. Its steps are run by .ci/dockerfile_steps.py."""

import re
import subprocess

import pytest
from dockerfile_parse import DockerfileParser

from tests.support.paths import ROOT

STEPS = [s for s in DockerfileParser(str(ROOT / "Dockerfile")).structure if s["content"].strip()]


def _stages() -> dict[str, list[tuple[str, str]]]:
    stages: dict[str, list[tuple[str, str]]] = {"": []}
    for step in STEPS:
        if step["instruction"] == "FROM":
            stages[step["value"].split(" AS ")[1]] = []
        if step["instruction"] != "COMMENT":
            stages[list(stages)[-1]].append((step["instruction"], step["value"]))
    return stages


STAGES = _stages()


def test_the_base_is_pinned_by_tag_and_digest():
    ((name, value),) = STAGES[""]
    assert name == "ARG"
    assert re.fullmatch(r"BASE=python:3\.1[123]\.\d+-slim-\w+@sha256:[0-9a-f]{64}", value)
    bases = {value.split()[0] for steps in STAGES.values() for n, value in steps if n == "FROM"}
    assert bases - set(STAGES) == {"${BASE}"}


def test_the_image_is_the_lean_stage_and_runs_as_a_number_that_is_not_root():
    *_, last = STAGES
    assert STAGES[last] == [("FROM", f"runtime AS {last}")]
    for stage in ("runtime", "compiler"):  # Kubernetes takes only numbers for "not root"
        user = [value for name, value in STAGES[stage] if name == "USER"][-1]
        assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)


def test_no_compiler_source_or_cache_is_left():
    installed = " ".join(value for name, value in STAGES["runtime"] if name == "RUN")
    assert not re.search(r"\b(gcc|g\+\+|build-essential|git)\b", installed)
    for steps in STAGES.values():
        for name, value in steps:
            if name == "RUN" and "apt-get install" in value:
                assert "--no-install-recommends" in value
                assert "rm -rf /var/lib/apt/lists/*" in value
            if name == "RUN" and "pip install" in value:
                assert "--no-cache-dir" in value
                assert "--constraint constraints.txt" in value or "--no-deps" in value


def test_the_example_is_run_by_the_test_stage():
    assert STAGES["test"][0] == ("FROM", "runtime AS test")
    assert "ntt-ray demo" in STAGES["test"][1][1]


def _sources() -> set[str]:
    copies = [value.split() for steps in STAGES.values() for n, value in steps if n == "COPY"]
    own = [words for words in copies if not any(word.startswith("--from") for word in words)]
    return {word for words in own for word in words[:-1] if not word.startswith("--")}


def test_just_what_is_copied_is_sent_to_the_build():
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    everything, *exceptions = [line for line in lines if line and not line.startswith("#")]
    assert everything == "*"
    assert {line[1:] for line in exceptions if line.startswith("!")} == _sources()


@pytest.mark.parametrize("source", sorted(_sources()))
def test_what_is_copied_is_there(source):
    assert (ROOT / source).exists()


def _choose_cuda(version: str, folder) -> subprocess.CompletedProcess[str]:
    """The step that chooses among the pins, as the build runs it, in a folder with their files."""
    (step,) = [v for name, v in STAGES["dependencies"] if name == "RUN" and "${CUDA}" in v]
    for name in ("constraints.txt", "constraints-cuda12.txt"):
        (folder / name).write_text((ROOT / name).read_text())
    command, environment = ["/bin/sh", "-c", step], {"CUDA": version, "PATH": "/usr/bin:/bin"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_an_image_for_drivers_of_cuda_12_has_no_library_of_cuda_13(tmp_path):
    assert _choose_cuda("12", tmp_path).returncode == 0
    chosen = (tmp_path / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in chosen if not line.startswith("#"))
    assert pins["torch"].startswith("2.10.")
    assert {v.split(".")[0] for n, v in pins.items() if n == "cuda-bindings"} == {"12"}
    assert not [name for name in pins if name.startswith("nvidia-") and "cu12" not in name]
    assert len(pins) == len([line for line in chosen if not line.startswith("#")])
    others = (ROOT / "constraints.txt").read_text().splitlines()
    ours = re.compile("cuda-|nvidia-|torch|triton")
    assert {line for line in others if not ours.match(line)} <= {*chosen}


def test_an_image_without_a_choice_has_the_pins_as_they_are(tmp_path):
    assert ("ARG", "CUDA=13") in STAGES["dependencies"]
    assert _choose_cuda("13", tmp_path).returncode == 0
    chosen = (tmp_path / "constraints.txt").read_text()
    assert chosen == (ROOT / "constraints.txt").read_text()


def test_another_cuda_is_refused(tmp_path):
    done = _choose_cuda("11", tmp_path)
    assert done.returncode == 1
    assert done.stderr == "CUDA is 12 or 13, not 11\n"
