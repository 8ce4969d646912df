"""The command line: what it refuses before anything is started, and its exit status."""

import functools
import importlib
import json
import runpy
import signal
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from ntt_ray.cli import app
from ntt_ray.cli.place import override
from ntt_ray.config import build_config, load_config
from ntt_ray.demo import example
from ntt_ray.errors import ConfigError, InputError
from tests.support.commands import run_command, run_here, start_command
from tests.support.golden import GOLDEN
from tests.support.paths import ROOT


@pytest.fixture
def config_file(golden_config, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(golden_config))
    return path


@pytest.mark.slow
def test_help_names_every_command():
    done = start_command("--help")
    assert done.returncode == 0
    for command in ("run", "bank", "label", "merge", "evaluate"):
        assert command in done.stdout
    assert start_command("--version").stdout.startswith("ntt-ray ")


@pytest.mark.slow
def test_dry_run_checks_and_starts_nothing(config_file, golden_config):
    done = start_command("run", str(config_file), "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "4 images in 2 units, 0 of them done; 3 classes: plate, disc, cone" in done.stderr
    assert not Path(golden_config["output"]).exists()


@pytest.mark.parametrize("command", ["bank", "calibrate", "plan"])
def test_dry_runs_of_steps_before_a_run(config_file, golden_config, command, capsys):
    app([command, str(config_file), "--dry-run"], standalone_mode=False)
    assert "4 images in 2 units" in capsys.readouterr().err
    assert not Path(golden_config["output"]).exists()


def test_a_dry_run_of_a_calibration_says_and_refuses_what_it_would(
    config_file, golden_config, capsys
):
    command = ["calibrate", str(config_file), "--dry-run"]
    app(command, standalone_mode=False)
    said = f"to write {golden_config['output']}/calibration.json"
    assert f"{said}\n" in capsys.readouterr().err
    written = Path(golden_config["output"]) / "calibration.json"
    written.parent.mkdir(parents=True)
    written.write_text("{}")
    app(command, standalone_mode=False)
    assert f"{said}, in the place of the one that is there\n" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"with proposals\.keep: true"):
        app([*command, "--from", "/x"], standalone_mode=False)


@pytest.mark.parametrize("name", ["run #1", "a: b", "2024", "vögel 🐦", '"', "\\n"])
def test_paths_mean_what_they_say(config_file, name, monkeypatch):
    for draw in ("write_scenes", "write_references"):
        monkeypatch.setattr(example, draw, lambda *arguments, **named: None)
    told = override("output", f"/x/{name}")
    assert load_config(str(config_file), [told]).output == f"/x/{name}"
    _, paths = example.render_example(config_file.parent / name)
    assert load_config(str(config_file), paths).output == str(config_file.parent / name / "run")
    with pytest.raises(InputError) as refused:
        app(
            ["bank", str(config_file), "--extend", f"/x/{name}", "--dry-run"], standalone_mode=False
        )
    assert f"references.extends: /x/{name}: no such file" in str(refused.value)


WITH_CONFIG = {"run", "bank", "label", "merge", "evaluate", "report", "calibrate", "plan"}
WITH_EXAMPLE = {"bank", "join-banks", "calibrate", "plan", "init"}
WITH_EXAMPLE |= {"references sample", "references from-boxes", "references convert"}


@pytest.mark.parametrize("command", sorted(WITH_CONFIG | WITH_EXAMPLE))
def test_help_has_the_common_options_and_an_example(command):
    shown = CliRunner().invoke(app, [*command.split(), "--help"], env={"COLUMNS": "200"}).output
    assert "--verbose" in shown or command == "init"
    assert command not in WITH_CONFIG or ("--dry-run" in shown and "--set" in shown)
    assert command not in WITH_EXAMPLE or f"Example: ntt-ray {command} " in shown


REFUSED = {
    "unknown key": (["--set", "job.actor=2"], "job.actor: unknown key; did you mean actors?"),
    "wrong type": (["--set", "method.nms_iou=high"], "method.nms_iou: input should be"),
    "unknown class": (["--set", "references.classes=[disk]"], "did you mean 'disc'?"),
    "no images": (["--set", "images=/nonexistent/photos"], "there is no image in"),
    "no folder": (["--set", "images=/nowhere/at/all"], "(there is no folder /nowhere)"),
    "no reference file": (["--set", "references.annotations=/x.json"], "/x.json: no such file"),
    "no reference images": (["--set", "references.image_root=/nonexistent"], "there is no file"),
    "no checkpoint": (["--set", "models.encoder.checkpoint=/x.pth"], "/x.pth: no such file"),
    "no bank": (["--set", "bank=/x", "--set", "references=null"], "bank: /x: no such file"),
    "bank and references": (["--set", "bank=/x"], "exactly one"),
}


@pytest.mark.parametrize(("options", "text"), REFUSED.values(), ids=REFUSED.keys())
def test_bad_input_is_refused_with_status_2_and_no_traceback(
    config_file, golden_config, options, text
):
    done = run_command("run", str(config_file), "--dry-run", *options)
    assert done.returncode == 2, done.stderr
    assert text in done.stderr
    assert "Traceback" not in done.stderr
    assert not Path(golden_config["output"]).exists()


@pytest.mark.parametrize("name", ["dinov2_dem", "sam2_demo_", "demo"])
def test_nobody_is_sent_to_the_toys_of_the_example(name):
    for block in ("encoder", "proposer"):
        with pytest.raises(ConfigError) as refused:
            build_config(
                {"images": "x", "output": "y", "bank": "z", "models": {block: {"name": name}}}
            )
        assert "_demo" not in str(refused.value).replace(repr(name), "")


@pytest.mark.parametrize("words", [(), ("run",), ("references",), ("references", "convert")])
def test_help_has_a_short_name(words):
    shown = [CliRunner().invoke(app, [*words, option]) for option in ("-h", "--help")]
    assert shown[0].exit_code == 0
    assert shown[0].output == shown[1].output


def test_shells_can_complete():
    shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"}).output
    assert "--install-completion" in shown


def test_bad_references_are_all_listed(config_file, golden_references, tmp_path):
    coco = json.loads(golden_references.read_text())
    coco["images"][1]["file_name"] = "missing.png"
    coco["annotations"][0]["bbox"] = [5000, 5000, 10, 10]
    (tmp_path / "refs.json").write_text(json.dumps(coco))
    where = f"references.annotations={tmp_path / 'refs.json'}"
    done = run_command("run", str(config_file), "--dry-run", "--set", where)
    assert done.returncode == 2
    assert "lies outside its image" in done.stderr


def test_missing_config_and_missing_argument():
    done = start_command("run", "/nonexistent.yaml")
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert run_command("run").returncode == 2
    assert run_command("nonsense").returncode == 2


def test_merging_and_evaluating_nothing(config_file):
    for command in ("merge", "evaluate"):
        options = ["--set", f"ground_truth={GOLDEN / 'targets.json'}"]
        done = run_command(command, str(config_file), *options)
        assert done.returncode == 2
        assert "there is no run here" in done.stderr


@pytest.mark.parametrize("job", sorted((ROOT / "jobs").glob("*.py")))
def test_jobs_are_the_commands(job, config_file):
    assert len(job.read_text().splitlines()) <= 25
    program = functools.partial(runpy.run_path, str(job), run_name="__main__")
    if job.name == "rematch.py":  # what it does is tested with its run
        done = run_here(program, str(job), str(config_file), "--from", str(config_file.parent))
        assert (done.returncode, "there is no run here" in done.stderr) == (2, True)
        return
    done = run_here(program, str(job), str(config_file), "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "nothing was started" in done.stderr


def test_an_interrupt_says_how_to_go_on(monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib.import_module("ntt_ray.cli.verify"), "settings_of", interrupted)
    monkeypatch.setattr(sys, "argv", ["ntt-ray", "verify", "my.yaml"])
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as left:
            importlib.import_module("ntt_ray.cli.app").main()
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert left.value.code == 130
    assert "the same command goes on where this run stopped" in capsys.readouterr().err
