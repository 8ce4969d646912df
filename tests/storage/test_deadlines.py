"""No server keeps a request for ever: one that trickles bytes, or never answers, is an error."""

import asyncio
import time

import fsspec
import pytest
from fsspec.asyn import AsyncFileSystem

from ntt_ray.errors import StorageError
from ntt_ray.storage import Storage, s3_listing, store
from ntt_ray.storage.deadlines import METADATA_S, range_s, within
from tests.support.hostile_proxy import Hostility, hostile_proxy

ASKED = {
    "exists": lambda files, prefix: files.exists(f"{prefix}/x.png"),
    "size": lambda files, prefix: files.size(f"{prefix}/x.png"),
    "a page of a listing": lambda files, prefix: files.list_files(prefix),
    "a folder": lambda files, prefix: files.list_folder(prefix),
    "a range": lambda files, prefix: files._read_range(f"{prefix}/x.png", 0, 8),
    "a whole object": lambda files, prefix: files.read_bytes(f"{prefix}/x.png"),
}


class _Endless(AsyncFileSystem):
    ended = False

    async def _info(self, path, **_):
        try:
            await asyncio.sleep(3600)
        finally:
            self.ended = True

    async def _ls(self, path, detail=True):
        raise TimeoutError("the client's own")


def test_a_request_is_ended_and_says_how_long_it_took():
    files = _Endless(skip_instance_cache=True)
    with pytest.raises(TimeoutError, match=r"no whole answer within 0\.1 s"):
        within(0.1, files, "info", "x")
    assert files.ended


def test_a_time_out_of_the_client_keeps_its_text():
    with pytest.raises(TimeoutError, match="the client's own"):
        within(60, _Endless(skip_instance_cache=True), "ls", "x", detail=False)


def test_other_file_systems_are_just_called():
    files = fsspec.filesystem("memory")
    files.pipe_file("/deadlines/x", b"1")
    assert within(0.0, files, "info", "/deadlines/x")["size"] == 1
    files.rm("/deadlines", recursive=True)


def test_a_large_range_may_take_longer():
    assert range_s(0) == METADATA_S
    assert range_s(64 << 20) > 600


@pytest.mark.faults
@pytest.mark.parametrize("fault", ["trickle", "stall"])
def test_a_store_that_never_ends_its_answer(s3, fault, monkeypatch):
    for module, name in ((store, "METADATA_S"), (s3_listing, "METADATA_S"), (store, "LONGEST_S")):
        monkeypatch.setattr(module, name, 0.3)
    monkeypatch.setattr(store, "range_s", lambda size: 0.3)
    with hostile_proxy(s3.endpoint, Hostility((fault,), rate=1.0, stall_s=60)) as proxy:
        options = {**s3.options(proxy.endpoint), "retries": {"attempts": 2, "first_delay_s": 0.01}}
        files, prefix, began_at = Storage(options), s3.prefix(), time.monotonic()
        for ask in ASKED.values():
            with pytest.raises(StorageError, match=r"no whole answer within 0\.3 s.*2 attempts"):
                ask(files, prefix)
        assert proxy.happened()[fault] >= 1
        web = f"{proxy.endpoint}/x.png"
        for ask in (files.size, files.exists, files.read_bytes):
            with pytest.raises(StorageError, match=r"no whole answer within 0\.3 s.*2 attempts"):
                ask(web)
    assert time.monotonic() - began_at < 50
