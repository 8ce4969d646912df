"""``ntt-ray weights``: what is chosen, what is said, the exit status."""

import hashlib
import os

import pytest
import yaml
from typer.testing import CliRunner

from ntt_ray.cli import app, weights
from ntt_ray.errors import InputError
from ntt_ray.models import cache
from ntt_ray.models.published import PUBLISHED, PublishedFile
from tests.support.web_files import web_file

DATA = os.urandom(100_000)


@pytest.fixture(autouse=True)
def _folder(monkeypatch, tmp_path):
    monkeypatch.setenv("NTT_RAY_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def published(monkeypatch):
    """Two small files of loopback in the place of the authors' large ones."""
    with web_file("model.pth", DATA) as web:
        good = PublishedFile(web.url, hashlib.sha256(DATA).hexdigest(), len(DATA))
        none = PublishedFile(web.url.replace("model", "none"), None)
        table = {"dinov2_vits14": good, "sam2_hiera_t": none}
        monkeypatch.setattr(weights, "PUBLISHED", table)
        monkeypatch.setattr(cache, "PUBLISHED", table)
        yield table


def _config(tmp_path, **models) -> str:
    path = tmp_path / "job.yaml"
    config = {"images": "a", "output": "b", "bank": "c.safetensors", "models": models}
    path.write_text(yaml.safe_dump(config))
    return str(path)


def _run(*arguments: str):
    return CliRunner().invoke(app, ["weights", *arguments])


def test_list_shows_every_published_file():
    lines = _run("list").stdout.splitlines()
    assert len([line for line in lines if " https://" in line]) == len(PUBLISHED)
    large = next(line for line in lines if line.startswith("sam2_hiera_l "))
    assert large.split()[1:4] == ["898", "MB", "-"]


def test_fetch_then_list_says_cached(published, tmp_path):
    done = _run("fetch", "dinov2_vits14")
    assert done.exit_code == 0, done.output
    assert _run("list").stdout.splitlines()[0].split()[3] == "cached"


def test_push_what_a_config_names_to_the_mirror_it_names(published, tmp_path):
    (tmp_path / "own.pt").write_bytes(b"")
    mirror = tmp_path / "mirror"
    proposer = {"name": "sam2_hiera_t", "checkpoint": str(tmp_path / "own.pt")}
    config = _config(
        tmp_path, encoder={"name": "dinov2_vits14"}, proposer=proposer, mirror=str(mirror)
    )
    for said in ("uploaded", "was there already"):
        done = _run("push", config)
        assert done.exit_code == 0, done.output
        assert f"model.pth: {said}" in done.stderr
    assert [path.name for path in mirror.iterdir()] == ["model.pth"]


def test_a_config_without_published_files_needs_nothing(tmp_path):
    demo = {"encoder": {"name": "dinov2_demo"}, "proposer": {"name": "sam2_demo"}}
    done = _run("push", "--to", str(tmp_path / "mirror"), _config(tmp_path, **demo))
    assert done.exit_code == 0
    assert "nothing to do" in done.stderr
    assert "use it with" not in done.stderr
    assert not (tmp_path / "mirror").exists()


REFUSED = {
    "a name nobody publishes": (["push", "--to", "m", "dinov2_vits"], "did you mean dinov2_vits14"),
    "a bundled one": (["fetch", "dinov2_demo"], "comes with the package"),
    "no mirror": (["push", "dinov2_vits14"], "--to PREFIX is missing"),
    "two configs": (["fetch", "a.yaml", "b.yaml"], "one config at a time"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    arguments, said = REFUSED[case]
    done = _run(*arguments)
    assert isinstance(done.exception, InputError)
    assert said in str(done.exception)


def test_a_file_that_the_authors_do_not_have_is_named(published, tmp_path):
    done = _run("push", "--to", str(tmp_path / "mirror"), "dinov2_vits14", "sam2_hiera_t")
    assert "none.pth: the checkpoint cannot be fetched" in str(done.exception)
    assert [path.name for path in (tmp_path / "mirror").iterdir()] == ["model.pth"]
