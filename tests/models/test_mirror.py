"""Filling a mirror: downloaded once, checked, uploaded; what is right stays."""

import hashlib
import os

import pytest

from ntt_ray.errors import WeightsError
from ntt_ray.models.cache import cached_path, published_checkpoint
from ntt_ray.models.mirror import Pushed, push
from ntt_ray.models.published import PublishedFile
from ntt_ray.storage import Storage
from tests.support.web_files import web_file

DATA = os.urandom(200_000)
DIGEST = hashlib.sha256(DATA).hexdigest()
STORE = Storage({"retries": {"attempts": 2, "first_delay_s": 0.01}})


@pytest.fixture(autouse=True)
def _folder(monkeypatch, tmp_path):
    monkeypatch.setenv("NTT_RAY_CACHE", str(tmp_path / "cache"))


def test_a_mirror_on_s3_is_filled_once_repaired_and_used(s3, monkeypatch, tmp_path):
    prefix, store = s3.prefix(), s3.storage()
    with web_file("model.pth", DATA) as web:
        published = PublishedFile(web.url, DIGEST, len(DATA))
        assert push(published, prefix, store) is Pushed.UPLOADED
        assert push(published, prefix, store) is Pushed.THERE
        for wrong in (b"short", bytes(len(DATA))):  # another size, another content
            store.publish_bytes(f"{prefix}/model.pth", wrong)
            assert push(published, prefix, store) is Pushed.REPLACED
        assert web.gets == 1
    assert store.list_files(prefix) == ["model.pth"]
    monkeypatch.setenv("NTT_RAY_CACHE", str(tmp_path / "another node"))
    assert published_checkpoint(published, prefix, store).read_bytes() == DATA


def test_what_is_right_needs_no_download(tmp_path):
    STORE.publish_bytes(str(tmp_path / "model.pth"), DATA)
    published = PublishedFile("https://example.invalid/x/model.pth", DIGEST)
    assert push(published, str(tmp_path), STORE) is Pushed.THERE
    assert not cached_path(published).exists()


def test_without_a_known_digest_the_authors_file_decides(tmp_path):
    mirror = str(tmp_path / "mirror")
    with web_file("model.pth", DATA) as web:
        published = PublishedFile(web.url, None)
        assert push(published, mirror, STORE) is Pushed.UPLOADED
        assert push(published, mirror, STORE) is Pushed.THERE
        STORE.publish_bytes(f"{mirror}/model.pth", DATA[::-1])
        assert push(published, mirror, STORE) is Pushed.REPLACED


def test_another_file_than_published_is_not_uploaded(tmp_path):
    mirror = tmp_path / "mirror"
    with web_file("model.pth", DATA[::-1]) as web:
        published = PublishedFile(web.url, DIGEST)
        with pytest.raises(WeightsError, match="SHA-256"):
            push(published, str(mirror), STORE)
        web.data = DATA
        published_checkpoint(published, None, STORE)
    cached_path(published).write_bytes(b"rotten")
    with pytest.raises(WeightsError, match="damaged since it was fetched"):
        push(published, str(mirror), STORE)
    assert not mirror.exists()
