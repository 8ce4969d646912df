import errno
import os
import re
import traceback

import fsspec
import pytest
from botocore.parsers import ResponseParserError

from ntt_ray import storage
from ntt_ray.errors import ConfigError, InputError, MissingPackageError, StorageError
from ntt_ray.storage import Storage
from ntt_ray.storage.retries import Retries

PREFIXES = ["local", "memory"]
FAST = Retries(first_delay_s=0.001)


@pytest.fixture(params=PREFIXES)
def prefix(request, tmp_path):
    if request.param == "local":
        yield str(tmp_path / "store")
    else:
        yield "memory://bucket/store"
        fsspec.filesystem("memory").store.clear()


def test_publish_read_list_delete(prefix):
    store = Storage()
    assert store.list_files(prefix) == []
    for name in ("b/2.jpg", "a/1.JPG", ".hidden/3.jpg", "a/.4.jpg", "a/notes.txt"):
        store.publish_bytes(f"{prefix}/{name}", name.encode())
    assert store.list_files(prefix, (".jpg",)) == ["a/1.JPG", "b/2.jpg"]
    assert store.list_files(prefix) == ["a/1.JPG", "a/notes.txt", "b/2.jpg"]
    assert store.read_bytes(f"{prefix}/b/2.jpg") == b"b/2.jpg"
    assert store.exists(f"{prefix}/b/2.jpg")
    assert store.size(f"{prefix}/b/2.jpg") == 7
    store.delete(f"{prefix}/b/2.jpg")
    store.delete(f"{prefix}/b/2.jpg")
    assert not store.exists(f"{prefix}/b/2.jpg")
    with pytest.raises(FileNotFoundError):
        store.read_bytes(f"{prefix}/b/2.jpg")


ODD_NAMES = (
    "a..b.png", "a::b.png", "#1.png", "a?b=c.png", "100%.png", "a%2Fb.png", "[x].png", "*.png",
    "{a,b}.png", " spaces .png", "-rf.png", "new\nline.png", "back\\slash.png", "quo'\"te.png",
    "nul\u00e9 NFC.png", "nule\u0301 NFD.png", "\u2028.png", "\U0001f426.png",
    "Case.png", "case.png",
)  # fmt: skip


def test_no_sign_in_a_name_means_anything(prefix):
    store = Storage()
    prefix = prefix.removesuffix("store") + "st#o[r]e"
    names = [n for n in ODD_NAMES if "::" not in n or not prefix.startswith("memory")]
    for name in names:
        store.publish_bytes(f"{prefix}/d/{name}", name.encode())
    assert store.list_files(prefix) == sorted(f"d/{name}" for name in names)
    for name in names:
        assert store.exists(f"{prefix}/d/{name}")
        assert store.size(f"{prefix}/d/{name}") == len(name.encode())
        assert store.read_bytes(f"{prefix}/d/{name}") == name.encode()
        with store.open_read(f"{prefix}/d/{name}") as stream:
            assert stream.read() == name.encode()
    store.delete(f"{prefix}/d/*.png")
    assert store.list_files(prefix) == sorted(f"d/{name}" for name in names if name != "*.png")


def test_a_name_on_disk_that_is_not_utf8(tmp_path):
    (tmp_path / os.fsdecode(b"caf\xe9%41.png")).write_bytes(b"x")
    (name,) = Storage().list_files(str(tmp_path))
    uri = storage.local_uri(f"{tmp_path}/{name}")
    assert uri == f"file://{tmp_path}/caf%E9%2541.png"
    assert Storage().read_bytes(uri) == b"x"
    assert storage.printable(name) == "caf\\udce9%41.png"
    assert storage.local_uri("/a b/%41#é.png") == "/a b/%41#é.png"


def test_names_below_a_web_address_are_escaped():
    assert storage.below("https://host/x", "a b#1?.png") == "https://host/x/a%20b%231%3F.png"
    assert storage.below("s3://bucket/x", "a b#1?.png") == "s3://bucket/x/a b#1?.png"
    with pytest.raises(InputError, match="leads out of"):
        storage.below("https://host/x", "../y")


def test_what_is_there_is_not_published_anew(prefix):
    store = Storage()
    assert store.publish_new(f"{prefix}/x.bin", b"one")
    assert not store.publish_new(f"{prefix}/x.bin", b"two")
    assert store.read_bytes(f"{prefix}/x.bin") == b"one"
    assert store.list_files(prefix) == ["x.bin"]


def test_publishing_anew_without_hard_links(tmp_path, monkeypatch):
    def no_links(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    assert Storage().publish_new(str(tmp_path / "x.bin"), b"one")
    assert not Storage().publish_new(str(tmp_path / "x.bin"), b"two")
    assert [p.name for p in tmp_path.iterdir()] == ["x.bin"]


@pytest.mark.parametrize(
    "refusal",
    [
        TypeError("unexpected keyword argument 'mode'"),
        OSError("An error occurred (NotImplemented) when calling the PutObject operation"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_publishing_anew_without_conditional_writes(monkeypatch, refusal):
    files = fsspec.filesystem("memory")
    plain = files.pipe_file

    def pipe_file(path, data, **options):
        if options:
            raise refusal
        plain(path, data)

    monkeypatch.setattr(files, "pipe_file", pipe_file)
    assert Storage().publish_new("memory://bucket/x.bin", b"one")
    assert Storage().publish_new("memory://bucket/x.bin", b"two")  # every writer wins
    assert Storage().read_bytes("memory://bucket/x.bin") == b"two"
    files.store.clear()


def test_a_stream_is_published_whole_or_not_at_all(prefix):
    store = Storage()
    store.publish_stream(f"{prefix}/x.bin", iter([b"one", b"two"]))
    assert store.read_bytes(f"{prefix}/x.bin") == b"onetwo"

    def broken():
        yield b"half"
        raise RuntimeError("the producer failed")

    with pytest.raises(RuntimeError):
        store.publish_stream(f"{prefix}/y.bin", broken())
    if prefix.startswith("memory"):
        return  # fsspec's memory files appear when they are opened
    assert not store.exists(f"{prefix}/y.bin")
    assert store.list_files(prefix) == ["x.bin"]


def test_download_and_publish_file(prefix, tmp_path):
    store = Storage()
    store.publish_bytes(f"{prefix}/w.bin", b"weights")
    store.download(f"{prefix}/w.bin", tmp_path / "w.bin")
    assert (tmp_path / "w.bin").read_bytes() == b"weights"
    store.publish_file(f"{prefix}/v.bin", tmp_path / "w.bin")
    with store.open_read(f"{prefix}/v.bin") as stream:
        stream.seek(2)
        assert stream.read() == b"ights"


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "s3://other/x", "a\\..\\x"])
def test_names_must_stay_below_the_prefix(name):
    with pytest.raises(InputError, match="leads out of"):
        storage.join("s3://bucket/run", name)


def test_join_and_absolute(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert storage.join("s3://bucket/run/", "a/b..c.jpg") == "s3://bucket/run/a/b..c.jpg"
    assert storage.absolute("file:///data/x") == "/data/x"
    assert storage.absolute("file:///data/a%20%25.jpg") == "/data/a %.jpg"
    assert storage.absolute("x") == str(tmp_path / "x")


def test_credentials_do_not_show():
    assert storage.redact("s3://key:secret@bucket/x") == "s3://bucket/x"
    with pytest.raises(InputError) as caught:
        Storage().read_bytes("nosuch://key:secret@host/x")
    assert "secret" not in str(caught.value)


class _Flaky:
    """Fails a number of times before it works, as stores do."""

    def __init__(self, failures: int, error: Exception) -> None:
        self.calls, self._failures, self._error = 0, failures, error

    def __call__(self) -> str:
        self.calls += 1
        if self.calls <= self._failures:
            raise self._error
        return "done"


class _StoreError(Exception):
    """Looks like an error of an object store's client."""


@pytest.mark.parametrize(
    ("error", "retried"),
    [
        (TimeoutError("read"), True),
        (ConnectionResetError("peer"), True),
        (_StoreError("SlowDown: please reduce your request rate"), True),
        (_StoreError("An error occurred (503) when calling GetObject"), True),
        (_StoreError("AccessDenied"), False),
        (PermissionError("forbidden"), False),
    ],
    ids=lambda value: str(value),
)
def test_only_passing_failures_are_retried(error, retried):
    action = _Flaky(2, error)
    if retried:
        assert FAST.run(action, "reading") == "done"
        assert action.calls == 3
    else:
        with pytest.raises(StorageError, match="reading"):
            FAST.run(action, "reading")
        assert action.calls == 1


def test_retries_are_bounded():
    action = _Flaky(100, TimeoutError("read"))
    with pytest.raises(StorageError, match=r"after 5 attempts"):
        FAST.run(action, "reading")
    assert action.calls == 5


def test_an_answer_that_is_no_xml_is_not_quoted():
    """A wrong endpoint may answer with anything."""
    error = ResponseParserError(
        "Unable to parse response (syntax error), invalid XML received. Further retries may "
        "succeed:\nb'hunter2'"
    )
    with pytest.raises(StorageError, match="invalid XML received") as caught:
        FAST.run(_Flaky(9, error), "listing")
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://key:secret@bucket/x", "s3://bucket/x"),
        ("https://h/a.jpg?v=1&X-Amz-Signature=f00&X-Amz-Credential=AK%2Fx", "https://h/a.jpg?v=1"),
        ("https://h/a.jpg?X-Amz-Security-Token=f00", "https://h/a.jpg"),
        ("https://h/a.jpg?AWSAccessKeyId=AK&Signature=f00&Expires=1", "https://h/a.jpg?Expires=1"),
        ("https://x.blob.core.windows.net/c/a.jpg?sv=1&sig=f00%3D", "https://x.blob.core.windows.net/c/a.jpg?sv=1"),
        ("https://h/a?sig=f00&v=1&token=f00&w=2", "https://h/a?v=1&w=2"),
        ("az://c/a.jpg?token=f00 is missing", "az://c/a.jpg is missing"),
        ("url='https://h/a?sig=f00', and more", "url='https://h/a', and more"),
        ("AccountName=a;AccountKey=f00==;x", "AccountName=a;AccountKey=***;x"),
        ("what? is this & that=1", "what? is this & that=1"),
        ("a#b?design=1.png", "a#b?design=1.png"),
    ],
    ids=lambda value: value[:20],
)  # fmt: skip
def test_what_signs_a_uri_does_not_show(text, shown):
    assert storage.redact(text) == shown


def test_credentials_in_a_bucket_uri_are_refused():
    with pytest.raises(InputError, match="leave them to the environment") as caught:
        Storage().read_bytes("s3://key:secret@bucket/x")
    assert "secret@" not in str(caught.value)


def test_the_cause_of_an_error_is_kept_unless_it_holds_credentials():
    def fail(text):
        raise _StoreError(text)

    with pytest.raises(StorageError) as plain:
        FAST.run(lambda: fail("AccessDenied"), "reading")
    assert isinstance(plain.value.__cause__, _StoreError)
    with pytest.raises(StorageError) as signed:
        FAST.run(lambda: fail(f"403 for https://h/a?sig={'f' * 9}"), "reading")
    assert "f" * 9 not in "".join(traceback.format_exception(signed.value))


@pytest.mark.parametrize(
    ("retries", "problem"),
    [
        ({"attempts": 0}, "attempts: a whole number"),
        ({"attempts": True}, "attempts: a whole number"),
        ({"first_delay_s": -1}, "first_delay_s: a number"),
        ({"delay": 1}, "retries.delay: unknown key"),
    ],
    ids=str,
)
def test_settings_of_retries_are_checked(retries, problem):
    with pytest.raises(ConfigError, match=problem):
        Storage({"retries": retries})


def test_folders_behind_links_are_listed_and_circles_end(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.png").touch()
    (tmp_path / "real" / "back").symlink_to(tmp_path / "photos")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "link").symlink_to(tmp_path / "real")
    (tmp_path / "photos" / "self").symlink_to(".")
    assert Storage().list_files(str(tmp_path / "photos")) == ["link/a.png"]


def test_options_with_credentials_are_not_shown():
    assert "f00" not in repr(Storage({"s3": {"secret": "f00"}}))


@pytest.fixture(scope="module")
def s3_options():
    """A small S3 on this machine with one bucket."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    options = {"endpoint_url": f"http://{host}:{port}", "key": "a", "secret": "b"}
    fsspec.filesystem("s3", **options).mkdir("bucket")
    yield options
    server.stop()


def test_uploads_that_a_killed_writer_left_are_ended(s3_options):
    fs, store = fsspec.filesystem("s3", **s3_options), Storage({"s3": s3_options})
    for name in ("annotations.json", "deeper/annotations.json", "other.json"):
        fs.call_s3("create_multipart_upload", Bucket="bucket", Key=f"run/{name}")
    store.discard_unfinished("s3://bucket/run", re.compile(r"annotations\.json"))
    left = fs.call_s3("list_multipart_uploads", Bucket="bucket")["Uploads"]
    assert sorted(upload["Key"] for upload in left) == [
        "run/deeper/annotations.json",
        "run/other.json",
    ]


def test_a_store_that_lists_no_uploads_is_written_to_all_the_same(s3_options, caplog, monkeypatch):
    store = Storage({"s3": s3_options})
    fs = store._open_fs("s3://bucket/run")[0]
    asked, call_s3 = [], fs.call_s3

    def denied(method, **options):
        asked.append(method)
        if method == "list_multipart_uploads":
            raise PermissionError("Access Denied")
        return call_s3(method, **options)

    monkeypatch.setattr(fs, "call_s3", denied)
    store.discard_unfinished("s3://bucket/run", re.compile(r".*"))
    assert asked == ["list_multipart_uploads"]
    assert "cleaning s3://bucket/run: PermissionError: Access Denied" in caplog.text


@pytest.mark.slow
def test_a_stream_goes_to_s3_in_parts(s3_options):
    store = Storage({"s3": s3_options})
    store.publish_stream("s3://bucket/run/a.json", (memoryview(b"x" * (8 << 20)) for _ in range(8)))
    assert store.size("s3://bucket/run/a.json") == 8 * (8 << 20)
    assert store.list_folder("s3://bucket/run") == ["a.json"]
    assert store.list_folder("s3://bucket/none") == []


def test_a_store_without_its_package_is_named_with_what_to_install(monkeypatch):
    def absent(protocol):
        raise ImportError("Please install gcsfs")

    monkeypatch.setattr(fsspec, "get_filesystem_class", absent)
    with pytest.raises(MissingPackageError, match=r'pip install "ntt-ray\[gcs\]"'):
        Storage().read_bytes("gs://bucket/x.jpg")
