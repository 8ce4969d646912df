"""Storage over the real S3 protocol, with and without faults; see s3_store.py for other stores."""

import logging
import re
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from ntt_ray.errors import StorageError
from ntt_ray.records import ImageEntry
from ntt_ray.run.fetch import FETCH_THREADS, fetch_images
from ntt_ray.storage import Storage, listing, publishing, store
from tests.support.hostile_proxy import Hostility, hostile_proxy

DATA = bytes(range(256)) * 2000  # half a megabyte


@pytest.fixture
def prefix(s3):
    return s3.prefix()


def _hits(proxy) -> dict[str, int]:
    return {kind: count for kind, count in proxy.happened().items() if kind != "requests"}


def test_publish_read_list_delete(s3, prefix, tmp_path):
    files = s3.storage()
    assert files.list_files(prefix) == []
    for name in ("b/2.jpg", "a/1.JPG", ".hidden/3.jpg", "a/.4.jpg", "a/notes.txt", "a/empty.jpg"):
        files.publish_bytes(f"{prefix}/{name}", b"" if "empty" in name else name.encode())
    assert files.list_files(prefix, (".jpg",)) == ["a/1.JPG", "a/empty.jpg", "b/2.jpg"]
    assert files.list_files(prefix + "/a") == ["1.JPG", "empty.jpg", "notes.txt"]
    assert files.read_bytes(f"{prefix}/a/empty.jpg") == b""
    assert files.exists(f"{prefix}/b/2.jpg")
    assert not files.exists(f"{prefix}/b")
    files.delete(f"{prefix}/b/2.jpg")
    files.delete(f"{prefix}/b/2.jpg")
    assert not files.exists(f"{prefix}/b/2.jpg")
    files.publish_stream(f"{prefix}/x.bin", iter([DATA, DATA]))
    with files.open_read(f"{prefix}/x.bin") as stream:
        stream.seek(-4, 2)
        assert stream.read() == DATA[-4:]
        stream.seek(len(DATA) - 2)
        assert stream.read(4) == DATA[-2:] + DATA[:2]
    files.download(f"{prefix}/x.bin", tmp_path / "x.bin")
    assert (tmp_path / "x.bin").read_bytes() == DATA + DATA


def test_an_object_that_changes_between_two_ranges_is_noticed(s3, prefix):
    files, uri = s3.storage(), f"{prefix}/x.bin"
    old, new = bytes(300_000), b"1" * 300_000

    def read(change_it: bool, times: int) -> bytes:
        files.publish_bytes(uri, old)
        found = b""
        with files.open_read(uri) as stream:
            for start in range(times):
                stream.seek(100_000 * start)
                found += stream.read(10)
                if change_it:
                    files.publish_bytes(uri, new)
        return found

    assert read(False, 3) == bytes(30)
    assert read(True, 1) == bytes(10)  # one range is of one object
    with pytest.raises(StorageError, match=r"x\.bin: it was changed while it was read"):
        read(True, 2)


@pytest.mark.parametrize(
    "name",
    ["a b.png", "ü\u4e2d.png", "a#b?c.png", "a%2Fb.png", "a::b.png", "A.png"],
)
def test_odd_names(s3, prefix, name):
    files = s3.storage()
    files.publish_bytes(f"{prefix}/{name}", name.encode())
    assert files.list_files(prefix) == [name]
    assert files.read_bytes(f"{prefix}/{name}") == name.encode()
    files.delete(f"{prefix}/{name}")
    assert files.list_files(prefix) == []


@pytest.mark.faults
def test_a_long_listing_comes_in_pages_and_says_how_far_it_is(s3, prefix, caplog, monkeypatch):
    files = s3.storage()
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda i: files.publish_bytes(f"{prefix}/{i:05d}.png", b""), range(1100)))
    fs, path = files._open_fs(prefix)
    assert [len(page) for page in listing.pages(fs, path, lambda ask: ask())] == [1000, 100]

    monkeypatch.setattr(store, "PROGRESS_S", 0.0)
    caplog.set_level(logging.INFO, "ntt_ray")
    page_lost_at_first = Hostility(("error",), rate=1.0, only="continuation-token", times=1)
    with hostile_proxy(s3.endpoint, page_lost_at_first) as proxy:
        names = s3.storage(endpoint=proxy.endpoint).list_files(prefix, (".png",))
        assert proxy.happened() == {"requests": 3, "error": 1}  # only the lost page again
    assert names == [f"{i:05d}.png" for i in range(1100)]
    assert "1000 files so far, 1000 to take" in caplog.text


@pytest.mark.faults
@pytest.mark.parametrize("fault", ["error", "busy", "reset", "cut", "deaf", "short", "stall"])
def test_each_fault_is_tried_again(s3, prefix, fault, tmp_path):
    hostility = Hostility((fault,), rate=1.0, times=1)
    with hostile_proxy(s3.endpoint, hostility) as proxy:
        files = s3.storage(endpoint=proxy.endpoint, read_timeout=0.5)
        files.publish_bytes(f"{prefix}/x.bin", DATA)
        assert files.read_bytes(f"{prefix}/x.bin") == DATA
        assert files.exists(f"{prefix}/x.bin")
        assert files.list_files(prefix) == ["x.bin"]
        files.download(f"{prefix}/x.bin", tmp_path / "x.bin")
        assert (tmp_path / "x.bin").read_bytes() == DATA
        files.publish_file(f"{prefix}/y.bin", tmp_path / "x.bin")
        files.delete(f"{prefix}/x.bin")
        assert _hits(proxy)[fault] >= 5
    assert s3.storage().list_files(prefix) == ["y.bin"]
    assert s3.storage().read_bytes(f"{prefix}/y.bin") == DATA


@pytest.mark.faults
def test_a_write_that_is_never_finished_leaves_what_was_there(s3, prefix):
    s3.storage().publish_bytes(f"{prefix}/old.bin", b"old")
    with hostile_proxy(s3.endpoint, Hostility(("cut",), rate=1.0, only="^PUT")) as proxy:
        files = s3.storage(endpoint=proxy.endpoint)
        for name in ("old.bin", "new.bin"):
            with pytest.raises(StorageError, match=rf"{name}.*after 8 attempts"):
                files.publish_bytes(f"{prefix}/{name}", DATA)
        assert _hits(proxy)["cut"] >= 16
    assert s3.storage().list_files(prefix) == ["old.bin"]
    assert s3.storage().read_bytes(f"{prefix}/old.bin") == b"old"


@pytest.mark.faults
def test_a_body_that_always_ends_early_is_an_error_not_data(s3, prefix):
    s3.storage().publish_bytes(f"{prefix}/x.bin", DATA)
    with hostile_proxy(s3.endpoint, Hostility(("short",), rate=1.0, only="^GET")) as proxy:
        with pytest.raises(StorageError, match="after 8 attempts"):
            s3.storage(endpoint=proxy.endpoint).read_bytes(f"{prefix}/x.bin")
        assert _hits(proxy)["short"] >= 8


def test_one_writer_creates_an_object(s3, prefix):
    files = s3.storage()
    assert files.publish_new(f"{prefix}/x.bin", b"one")
    assert not files.publish_new(f"{prefix}/x.bin", b"two")
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda i: files.publish_new(f"{prefix}/y.bin", b"%d" % i), range(8)))
    assert won.count(True) == 1
    assert files.read_bytes(f"{prefix}/x.bin") == b"one"
    assert files.read_bytes(f"{prefix}/y.bin") == b"%d" % won.index(True)


@pytest.mark.faults
def test_what_is_missing_or_refused_is_asked_for_once(s3, prefix):
    with hostile_proxy(s3.endpoint, Hostility(rate=0.0)) as proxy:
        files = s3.storage(endpoint=proxy.endpoint)
        with pytest.raises(FileNotFoundError):
            files.read_bytes(f"{prefix}/none.jpg")
        assert proxy.happened() == {"requests": 1}
        with pytest.raises(StorageError, match="no such folder or bucket"):
            files.publish_bytes("s3://ntt-ray-there-is-no-such-bucket/x", b"x")
        assert files.list_files("s3://ntt-ray-there-is-no-such-bucket/x") == []
        assert proxy.happened() == {"requests": 3}


@pytest.mark.faults
def test_reads_run_at_the_same_time(s3, prefix):
    """16 reads, each kept for a while, through the one event loop of s3fs."""
    files = s3.storage()
    entries = [ImageEntry(i, f"{i}.png", f"{prefix}/{i}.png") for i in range(FETCH_THREADS)]
    for entry in entries:
        files.publish_bytes(entry.uri, entry.file_name.encode())
    with hostile_proxy(s3.endpoint, Hostility(rate=0.0, delay_s=1.0)) as proxy:
        slow = s3.storage(endpoint=proxy.endpoint)
        slow.exists(entries[0].uri)
        before = proxy.happened()["requests"]
        images = fetch_images(entries, slow.read_bytes, timeout_s=60)
        # one request each: no HEAD before the GET
        assert proxy.happened()["requests"] - before == FETCH_THREADS
        assert proxy.most_at_once() > FETCH_THREADS / 2
    assert [image.data for image in images] == [entry.file_name.encode() for entry in entries]


def test_threads_share_one_client(s3, prefix):
    seen = set()

    def look() -> None:
        seen.add(id(s3.storage()._open_fs(prefix)[0]))

    threads = [threading.Thread(target=look) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 1


def test_a_store_that_is_not_there_is_an_error_in_the_end():
    options = {
        "s3": {
            "endpoint_url": "http://127.0.0.1:9",
            "key": "k",
            "secret": "s",
            "config_kwargs": {"retries": {"total_max_attempts": 1}},
        },
        "retries": {"attempts": 2, "first_delay_s": 0.01},
    }
    with pytest.raises(StorageError, match="after 2 attempts"):
        Storage(options).read_bytes("s3://bucket/x")


@pytest.mark.slow
def test_a_large_object_goes_up_in_parts_each_tried_again(s3, prefix, monkeypatch):
    monkeypatch.setattr(publishing, "PART_BYTES", 5 << 20)  # the least that S3 takes
    monkeypatch.setattr(store, "PART_BYTES", 5 << 20)
    pieces = [DATA] * 25  # 12.8 MB
    hostility = Hostility(("error", "cut", "deaf"), rate=1.0, times=1)
    with hostile_proxy(s3.endpoint, hostility) as proxy:
        files = s3.storage(endpoint=proxy.endpoint)
        files.publish_stream(f"{prefix}/x.bin", iter(pieces))
        assert sum(_hits(proxy).values()) >= 4  # create, three parts or more, complete
    assert s3.storage().read_bytes(f"{prefix}/x.bin") == DATA * 25

    def broken():
        yield from pieces
        raise RuntimeError("the producer failed")

    with pytest.raises(RuntimeError):
        s3.storage().publish_stream(f"{prefix}/y.bin", broken())
    assert s3.storage().list_files(prefix) == ["x.bin"]


def test_what_a_killed_writer_left_is_discarded(s3, prefix):
    files = s3.storage()
    files.publish_bytes(f"{prefix}/a.json", b"{}")
    files.publish_bytes(f"{prefix}/deep/a.json", b"{}")
    fs, path = files._open_fs(prefix)
    bucket, key = path.split("/", 1)
    for name in ("a.json", "b.json"):
        fs.call_s3("create_multipart_upload", Bucket=bucket, Key=f"{key}/{name}")
    files.discard_unfinished(prefix, re.compile(r"a\.json"))
    left = fs.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=key)["Uploads"]
    assert [upload["Key"] for upload in left] == [f"{key}/b.json"]
    files.discard_unfinished(prefix, re.compile(r".*"))
    assert not fs.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=key).get("Uploads")
    assert files.list_folder(prefix) == ["a.json"]
    assert files.list_folder(f"{prefix}/none") == []
