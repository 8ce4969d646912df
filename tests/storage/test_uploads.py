"""Files that are written in parts: whole or not there, and nothing left of those that are not."""

import os
import re

import pytest

from ntt_ray.errors import StorageError
from ntt_ray.storage import Storage, publishing

STORE = Storage()


def _stored(store, upload, parts):
    return [store.store_part(upload, number, data) for number, data in parts.items()]


def _cannot(*_):
    raise OSError("not on this file system")


@pytest.mark.parametrize("copy", ["by the kernel", "by reading", "none"])
def test_parts_become_a_local_file(tmp_path, monkeypatch, copy):
    if copy == "by reading":
        monkeypatch.setattr(os, "copy_file_range", _cannot)
    elif copy == "none":
        monkeypatch.delattr(os, "copy_file_range")
    uri = str(tmp_path / "deep" / "a.json")
    upload = STORE.begin_upload(uri)
    parts = _stored(STORE, upload, {3: b"three", 1: b"one again", 9: b""})
    parts[1] = STORE.store_part(upload, 1, b"one")
    assert not STORE.exists(uri)
    STORE.publish_parts(upload, [parts[1], parts[0], parts[2]])
    assert STORE.read_bytes(uri) == b"onethree"
    assert os.listdir(tmp_path / "deep") == ["a.json"]
    STORE.discard_upload(upload)
    assert STORE.exists(uri)


def test_a_part_that_was_cut_is_an_error(tmp_path):
    upload = STORE.begin_upload(str(tmp_path / "a.json"))
    (part,) = _stored(STORE, upload, {1: b"whole"})
    (tmp_path / upload.token / "00001").write_bytes(b"who")
    with pytest.raises(StorageError, match="another length than the 5 bytes"):
        STORE.publish_parts(upload, [part])
    assert os.listdir(tmp_path) == []


def test_what_fails_leaves_what_was_there_and_takes_no_late_part(tmp_path):
    uri = str(tmp_path / "a.json")
    STORE.publish_bytes(uri, b"before")
    upload = STORE.begin_upload(uri)

    def parts():
        yield from _stored(STORE, upload, {1: b"one"})
        raise RuntimeError("a task failed")

    with pytest.raises(RuntimeError, match="a task failed"):
        STORE.publish_parts(upload, parts())
    assert (os.listdir(tmp_path), STORE.read_bytes(uri)) == (["a.json"], b"before")
    with pytest.raises(StorageError, match=r"a\.json: no such folder"):
        STORE.store_part(upload, 2, b"late")
    assert os.listdir(tmp_path) == ["a.json"]


def test_what_a_killed_writer_left_is_discarded(tmp_path):
    for name in ("a.json", "b.json"):
        _stored(STORE, STORE.begin_upload(str(tmp_path / name)), {1: b"one"})
    STORE.discard_unfinished(str(tmp_path), re.compile(r"a\.json"))
    (left,) = os.listdir(tmp_path)
    assert left.startswith(".b.json.")


def test_parts_become_an_object_of_s3(s3):
    store, uri = s3.storage(), f"{s3.prefix()}/a.json"
    upload = store.begin_upload(uri)
    parts = _stored(store, upload, {1: b"1" * (5 << 20), 500: b"2" * (5 << 20), 10_000: b"end"})
    assert not store.exists(uri)
    store.publish_parts(upload, (part for part in parts))
    assert store.read_bytes(uri) == b"1" * (5 << 20) + b"2" * (5 << 20) + b"end"
    again = store.begin_upload(uri)
    _stored(store, again, {1: b"x"})
    store.discard_upload(again)
    with pytest.raises(StorageError):
        store.store_part(again, 2, b"late")
    assert store.size(uri) == (10 << 20) + 3


def test_who_knows_parts_and_limits():
    assert STORE.stores_parts("/out")
    assert not STORE.stores_parts("memory://out")
    assert STORE.begin_upload("memory://out/a.json") is None
    assert STORE.largest_file("/out") is None
    assert STORE.largest_file("s3://bucket/out") == STORE.largest_file("gs://b/out") == 5 << 40


def test_a_stream_of_any_length_has_few_enough_parts(monkeypatch):
    monkeypatch.setattr(publishing, "PART_BYTES", 2)
    monkeypatch.setattr(publishing, "PARTS_OF_A_SIZE", 10)
    sizes = [len(part) for part in publishing.parts(b"x" for _ in range(200))]
    assert sizes == [2] * 10 + [4] * 10 + [8] * 10 + [16] * 3 + [12]
