"""``ntt-ray init``: what it writes can be used, and it writes over nothing."""

import pytest
import yaml
from typer.testing import CliRunner

from ntt_ray.cli import app
from ntt_ray.cli.init import JOBS, job_script, starter
from ntt_ray.config import build_config
from tests.support.commands import run_command
from tests.support.paths import ROOT


def _init(*words) -> None:
    app(["init", *map(str, words)], standalone_mode=False)


def test_the_config_is_valid_and_short(tmp_path, capsys):
    _init(tmp_path / "birds.yaml")
    text = (tmp_path / "birds.yaml").read_text()
    config = build_config(yaml.safe_load(text))
    assert config.references is not None
    assert len(text.splitlines()) < 24
    assert all(f"# {number}. " in text for number in (1, 2, 3))
    assert f"ntt-ray run {tmp_path}/birds.yaml --dry-run" in text
    assert f"ntt-ray run {tmp_path}/birds.yaml --dry-run" in capsys.readouterr().err


def test_what_it_proposes_in_comments_is_valid_too():
    lines = [line[2:] for line in starter("minimal.yaml").splitlines() if line.startswith("# ")]
    blocks = yaml.safe_load("\n".join(lines[lines.index("models:") :]).replace("Detections", "#"))
    build_config({"images": "x", "output": "y", "bank": "z", **blocks})


def test_in_full_it_is_the_example_of_a_clone(tmp_path):
    _init(tmp_path / "full.yaml", "--full")
    assert (tmp_path / "full.yaml").read_bytes() == (ROOT / "configs/photos.yaml").read_bytes()


def test_the_scripts_are_those_of_a_clone(tmp_path):
    _init("--jobs", tmp_path / "jobs")
    written = {path.name: path.read_text() for path in (tmp_path / "jobs").iterdir()}
    assert written == {path.name: path.read_text() for path in (ROOT / "jobs").glob("*.py")}
    assert set(written) == {f"{name}.py" for name in JOBS}
    assert job_script("label") == written["label.py"]


def test_it_writes_over_nothing(tmp_path):
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "merge.py").write_text("mine")
    config = tmp_path / "my.yaml"
    done = run_command("init", str(config), "--jobs", str(tmp_path / "jobs"))
    assert done.returncode == 2
    assert "merge.py: is there already" in done.stderr
    assert not config.exists()
    assert (tmp_path / "jobs" / "merge.py").read_text() == "mine"


REFUSED = {
    "nothing": ([], "name the config to write"),
    "no config": (["photos/"], "name a file that ends in .yaml"),
    "below a file": (["file/my.yaml"], "cannot be written"),
}


@pytest.mark.parametrize(("words", "said"), REFUSED.values(), ids=REFUSED.keys())
def test_what_it_refuses(tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    done = run_command("init", *words)
    assert done.returncode == 2
    assert said in done.stderr


def test_the_package_holds_what_it_writes():
    patterns = (ROOT / "pyproject.toml").read_text()
    assert '"cli/starter/*.yaml"' in patterns
    assert CliRunner().invoke(app, ["init", "-h"]).exit_code == 0
