"""One download per node, checked; what killed or failed downloads leave is removed."""

import hashlib
import io
import logging
import os
import subprocess
import sys
import threading

import pytest
import torch

from ntt_ray.errors import WeightsError
from ntt_ray.models import cache
from ntt_ray.models.cache import cached_path, local_checkpoint, published_checkpoint
from ntt_ray.models.published import BUNDLED, PublishedFile, bundled_file, file_digest
from ntt_ray.models.weights import read_state_dict
from ntt_ray.storage import Storage
from tests.support.web_files import web_file

STORE = Storage({"retries": {"attempts": 3, "first_delay_s": 0.01}})
DATA = os.urandom(300_000)
DIGEST = hashlib.sha256(DATA).hexdigest()
# a process of the node: says when it is ready, waits, fetches, prints the path
FETCH = """
import sys
from ntt_ray.models.cache import published_checkpoint
from ntt_ray.models.published import PublishedFile
from ntt_ray.storage import Storage
print("ready", flush=True)
sys.stdin.readline()
file = PublishedFile(sys.argv[1], sys.argv[2], int(sys.argv[3]))
print(published_checkpoint(file, None, Storage({"retries": {"first_delay_s": 0.01}})), flush=True)
"""


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    monkeypatch.setenv("NTT_RAY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def _saved(value) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


def _process(url: str) -> subprocess.Popen:
    arguments = [sys.executable, "-c", FETCH, url, DIGEST, str(len(DATA))]
    process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


def _go(process: subprocess.Popen) -> None:
    process.stdin.write("go\n")
    process.stdin.flush()


def test_a_mirror_is_fetched_once_and_checked(monkeypatch, tmp_path):
    data = _saved({"a": torch.zeros(2)})
    good = hashlib.sha256(data).hexdigest()
    published = PublishedFile("https://example.invalid/x/model.pth", good)
    monkeypatch.setattr(cache, "PUBLISHED", {"model": published})
    mirror = tmp_path / "mirror"
    Storage().publish_bytes(str(mirror / "model.pth"), data)
    path = local_checkpoint("model", None, mirror=str(mirror), store=Storage())
    assert file_digest(path) == good
    (mirror / "model.pth").unlink()
    assert local_checkpoint("model", None, mirror=str(mirror), store=Storage()) == path


def test_a_damaged_download_is_refused_and_not_kept(monkeypatch, tmp_path):
    published = PublishedFile("https://example.invalid/x/model.pth", "0" * 64)
    monkeypatch.setattr(cache, "PUBLISHED", {"model": published})
    Storage().publish_bytes(str(tmp_path / "m" / "model.pth"), b"half a file")
    for _ in range(2):
        with pytest.raises(WeightsError, match="SHA-256"):
            local_checkpoint("model", None, mirror=str(tmp_path / "m"), store=Storage())
    assert not list((tmp_path / "cache").glob("*.pth"))


def test_missing_files(tmp_path):
    with pytest.raises(WeightsError, match="no such checkpoint"):
        local_checkpoint("x", str(tmp_path / "none.pth"), mirror=None, store=Storage())
    with pytest.raises(WeightsError, match=r"cannot be fetched.*models\.mirror"):
        local_checkpoint("x", "memory://none/none.pth", mirror=None, store=Storage())


def test_uris_are_cached(tmp_path):
    Storage().publish_bytes("memory://w/model.pth", _saved({"a": torch.ones(1)}))
    path = local_checkpoint("x", "memory://w/model.pth", mirror=None, store=Storage())
    assert read_state_dict(path)["a"].tolist() == [1.0]


def test_bundled_weights_are_not_copied(folder):
    for name, file_name in BUNDLED.items():
        path = local_checkpoint(name, None, mirror=None, store=STORE)
        assert path == bundled_file(file_name)
    assert not folder.exists()


@pytest.mark.slow
def test_processes_that_race_download_once(folder):
    with web_file("model.pth", DATA) as web:
        processes = [_process(web.url) for _ in range(5)]
        web.faults = ["slow"]
        _go(processes[0])
        assert web.half_sent.wait(60)
        for process in processes[1:]:
            _go(process)
        threading.Timer(0.5, web.release.set).start()  # time for others that would not wait
        paths = {process.communicate(timeout=60)[0].strip() for process in processes}
        assert [process.returncode for process in processes] == [0] * 5
        assert web.gets == 1
    assert len(paths) == 1
    assert file_digest(folder / paths.pop()) == DIGEST
    assert [p.name for p in folder.iterdir() if p.suffix != ".lock"] == [f"{DIGEST[:12]}-model.pth"]


def test_a_killed_download_leaves_nothing_behind_the_next_one(folder):
    with web_file("model.pth", DATA) as web:
        web.faults = ["hang"]
        process = _process(web.url)
        _go(process)
        assert web.half_sent.wait(60)
        process.kill()
        process.communicate()
        published = PublishedFile(web.url, DIGEST, len(DATA))
        (folder / f"{cached_path(published).name}.incoming").write_bytes(b"of an older death")
        assert not cached_path(published).exists()
        path = published_checkpoint(published, None, STORE)
        assert web.gets == 2
    assert path.read_bytes() == DATA
    assert sorted(p.name for p in folder.iterdir()) == [path.name, f"{path.name}.lock"]


def test_a_connection_that_breaks_is_tried_again(folder):
    with web_file("model.pth", DATA) as web:
        web.faults = ["cut", "cut"]
        path = published_checkpoint(PublishedFile(web.url, DIGEST), None, STORE)
        assert web.gets == 3
    assert path.read_bytes() == DATA


def test_the_mirror_is_asked_first_and_shares_the_cache_with_the_authors(tmp_path):
    mirror = tmp_path / "mirror"
    STORE.publish_bytes(str(mirror / "model.pth"), DATA)
    with web_file("model.pth", DATA) as web:
        published = PublishedFile(web.url, DIGEST, len(DATA))
        path = published_checkpoint(published, str(mirror), STORE)
        assert published_checkpoint(published, None, STORE) == path
        assert web.gets == 0


def test_what_a_mirror_lacks_comes_from_the_authors(tmp_path, caplog):
    with web_file("model.pth", DATA) as web, caplog.at_level(logging.WARNING):
        published = PublishedFile(web.url, DIGEST, len(DATA))
        path = published_checkpoint(published, str(tmp_path / "empty"), STORE)
        assert web.gets == 1
    assert path.read_bytes() == DATA
    assert "model.pth is not in the mirror" in caplog.text


def test_a_damaged_mirror_is_an_error_even_where_the_authors_could_be_asked(tmp_path):
    STORE.publish_bytes(str(tmp_path / "model.pth"), DATA[:-1])
    with web_file("model.pth", DATA) as web:
        for size, problem in ((len(DATA), "published are 300000"), (None, "SHA-256")):
            with pytest.raises(WeightsError, match=problem):
                published_checkpoint(PublishedFile(web.url, DIGEST, size), str(tmp_path), STORE)
        assert web.gets == 0


def test_a_mirror_on_s3(s3):
    prefix, store = s3.prefix(), s3.storage()
    store.publish_bytes(f"{prefix}/model.pth", DATA)
    published = PublishedFile("https://example.invalid/x/model.pth", DIGEST, len(DATA))
    assert published_checkpoint(published, prefix, store).read_bytes() == DATA


def test_a_cache_that_cannot_be_written_is_named(monkeypatch, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("NTT_RAY_CACHE", str(tmp_path / "file"))
    with pytest.raises(WeightsError, match=r"cannot be kept there.*NTT_RAY_CACHE"):
        published_checkpoint(PublishedFile("https://example.invalid/m.pth", None), None, STORE)
