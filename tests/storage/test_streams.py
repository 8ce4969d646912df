"""Reading an object forwards: one GET, and one more from where each failure has broken it off."""

import pytest

from ntt_ray.errors import StorageError
from ntt_ray.storage import Storage, streams
from tests.support.hostile_proxy import Hostility, hostile_proxy

DATA = bytes(range(256)) * 20_000  # five megabytes


def _all(stream, size=100_000):
    return b"".join(iter(lambda: stream.read(size), b""))


def test_an_object_of_any_size_is_one_request(s3):
    uri = f"{s3.prefix()}/x.bin"
    s3.storage().publish_bytes(uri, DATA)
    with hostile_proxy(s3.endpoint, Hostility(("error",), rate=0.0)) as proxy:
        with s3.storage(endpoint=proxy.endpoint).open_forward(uri, 1000) as stream:
            assert stream.read(10) == DATA[:10]
            stream.seek(3_000_000, 1)  # less than SKIP_BYTES is read over
            assert stream.tell() == 3_000_010
            assert _all(stream) == DATA[3_000_010:]
            assert stream.read(1) == b""
            assert stream.raw.requests == 1
        assert proxy.happened()["requests"] == 2  # HEAD and GET


def test_ways_back_and_long_ways_are_requests_of_their_own(s3, monkeypatch):
    monkeypatch.setattr(streams, "SKIP_BYTES", 2_000_000)
    monkeypatch.setattr("ntt_ray.storage.store.PIECE_BYTES", 1000)
    uri = f"{s3.prefix()}/x.bin"
    s3.storage().publish_bytes(uri, DATA)
    with s3.storage().open_forward(uri, 1000) as stream:
        requests = []
        for position in (0, 2_000_000, 4_100_000, 100, 5_119_999, 5_120_000, 6_000_000, 100):
            stream.seek(position)
            assert stream.read(3) == DATA[position : position + 3]
            requests.append(stream.raw.requests)
        assert requests == [1, 1, 2, 3, 4, 4, 4, 5]


@pytest.mark.parametrize("faults", [("short",), ("error", "busy", "reset", "short")])
def test_what_breaks_off_goes_on_where_it_was(s3, faults):
    uri = f"{s3.prefix()}/x.bin"
    s3.storage().publish_bytes(uri, DATA)
    hostile = Hostility(faults, rate=1.0, times=3, only="^GET")
    with (
        hostile_proxy(s3.endpoint, hostile) as proxy,
        s3.storage(endpoint=proxy.endpoint).open_forward(uri, 1000) as stream,
    ):
        assert _all(stream) == DATA
        hits = proxy.happened()
    assert sum(hits.get(kind, 0) for kind in faults) == 3
    assert hits["requests"] == 5  # HEAD, three that failed, one that did not


def test_what_never_comes_is_an_error(s3):
    uri = f"{s3.prefix()}/x.bin"
    s3.storage().publish_bytes(uri, DATA)
    with hostile_proxy(s3.endpoint, Hostility(("short",), rate=1.0, only="^GET")) as proxy:
        store = s3.storage(endpoint=proxy.endpoint)
        with (
            store.open_forward(uri, 1000) as stream,
            pytest.raises(StorageError, match=r"reading s3://.*x\.bin: .*after \d attempts"),
        ):
            stream.read(4_000_000)


def test_an_object_that_changes_between_two_requests_is_noticed(s3):
    uri = f"{s3.prefix()}/x.bin"
    files = s3.storage()
    files.publish_bytes(uri, DATA)
    with files.open_forward(uri, 1000) as stream:
        assert stream.read(10) == DATA[:10]
        files.publish_bytes(uri, DATA[::-1])
        assert _all(stream) == DATA[10:]  # one request is of one object
        stream.seek(0)
        with pytest.raises(StorageError, match=r"x\.bin: .*it was changed while it was read"):
            stream.read(10)


def test_missing_and_empty_objects(s3):
    store, prefix = s3.storage(), s3.prefix()
    store.publish_bytes(f"{prefix}/empty", b"")
    with store.open_forward(f"{prefix}/empty", 1000) as stream:
        assert stream.read() == b""
    with pytest.raises(FileNotFoundError), store.open_forward(f"{prefix}/none", 1000) as stream:
        stream.read()


def test_other_stores_are_read_in_steps(tmp_path):
    (tmp_path / "x.bin").write_bytes(DATA)
    Storage().publish_bytes("memory://forward/x.bin", DATA)
    for uri in (str(tmp_path / "x.bin"), "memory://forward/x.bin"):
        with Storage().open_forward(uri, 1_000_000) as stream:
            assert _all(stream) == DATA
