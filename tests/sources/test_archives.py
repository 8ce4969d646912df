"""Archives of images: what is in a tar, a packed tar or a zip is read as if it lay in a folder."""

import io
import logging
import tarfile
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ntt_ray.errors import InputError
from ntt_ray.run.fetch import fetch_images
from ntt_ray.sources import archives
from ntt_ray.sources.image_list import list_images
from ntt_ray.sources.schema import SCHEMA, entries_of
from ntt_ray.sources.stretches import Stretches
from ntt_ray.storage import Storage
from tests.support.hostile_proxy import Hostility, hostile_proxy

IMAGES = {f"{n:04}.jpg": bytes([n]) * (700 + n) for n in range(6)}


def _tar(mode: str = "w", names: dict[str, bytes] = IMAGES) -> bytes:
    """As `webdataset` writes it: members of a sample lie together, under one key."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as tar:
        for name, data in names.items():
            for path, body in {name: data, name.replace(".jpg", ".json"): b"{}"}.items():
                info = tarfile.TarInfo(path)
                info.size = len(body)
                tar.addfile(info, io.BytesIO(body))
    return stream.getvalue()


def _zip(kind: int) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", kind) as archive:
        for name, data in IMAGES.items():
            archive.writestr(name, data)
        archive.writestr("readme.txt", "text")
    return stream.getvalue()


WRITTEN = {
    "a.tar": _tar,
    "a.tar.gz": lambda: _tar("w:gz"),
    "a.tgz": lambda: _tar("w:gz"),
    "stored.zip": lambda: _zip(zipfile.ZIP_STORED),
    "deflated.zip": lambda: _zip(zipfile.ZIP_DEFLATED),
}


def _read(images: str) -> dict[str, bytes]:
    store = Storage()
    entries = entries_of(list_images(images, None, store))
    assert [entry.image_id for entry in entries] == list(range(1, len(entries) + 1))
    return {entry.file_name: store.read_bytes(entry.uri) for entry in entries}


@pytest.mark.parametrize(("name", "write"), WRITTEN.items(), ids=WRITTEN)
@pytest.mark.parametrize("place", ["local", "memory"])
def test_members_are_the_images(tmp_path, name, write, place):
    where = str(tmp_path / name) if place == "local" else f"memory://archives/{name}"
    Storage().publish_bytes(where, write())
    assert _read(where) == IMAGES


def test_a_folder_of_archives_names_each(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    for shard in ("s-0.tar", "s-1.tar"):
        (tmp_path / shard).write_bytes(_tar())
    found = _read(str(tmp_path))
    assert found == {
        f"{shard}/{name}": IMAGES[name] for shard in ("s-0.tar", "s-1.tar") for name in IMAGES
    }
    assert "left out 6 members of" in caplog.text
    assert "'json'" in caplog.text


def test_members_have_the_key_of_webdataset_and_the_name_of_their_archive(tmp_path):
    names = {"./a.b/0001.left.jpg": b"1", "./a.b/0001.right.jpg": b"2", ".hidden.jpg": b"3"}
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "s-0.tar").write_bytes(_tar(names=names))
    entries = entries_of(list_images(str(tmp_path), None, Storage()))
    keys = ["./a.b/0001", "./a.b/0001", None]
    assert [(e.key, e.source) for e in entries] == [(key, "deep/s-0.tar") for key in keys]
    entries = entries_of(list_images(str(tmp_path / "deep" / "s-0.tar"), None, Storage()))
    assert {entry.source for entry in entries} == {"s-0.tar"}
    (tmp_path / "deep" / "s-0.tar").write_bytes(_tar()[: 3 * 2560 + 200])
    *_, rest = entries_of(list_images(str(tmp_path), None, Storage()))
    assert (rest.key, rest.source) == (None, "deep/s-0.tar")


def test_a_folder_of_images_keeps_to_them(tmp_path):
    (tmp_path / "s-0.tar").write_bytes(_tar())
    (tmp_path / "one.jpg").write_bytes(b"one")
    assert _read(str(tmp_path)) == {"one.jpg": b"one"}
    assert list_images(str(tmp_path), None, Storage()).schema.equals(SCHEMA)


@pytest.mark.parametrize(
    "keep", [3 * 2560 + 512 + 100, 3 * 2560 + 200], ids=["in a member", "in a header"]
)
def test_a_cut_tar_gives_what_is_whole_and_one_row_for_the_rest(tmp_path, keep):
    (tmp_path / "a.tar").write_bytes(_tar()[:keep])
    found = _read(str(tmp_path / "a.tar"))
    names = sorted(IMAGES)
    assert {name: found[name] for name in names[:3]} == {name: IMAGES[name] for name in names[:3]}
    assert len(found) == 4
    rest = found.popitem()[1]
    assert IMAGES[names[3]] not in rest


def test_a_damaged_header_is_a_row(tmp_path):
    data = bytearray(_tar())
    data[2 * 2560 : 2 * 2560 + 512] = b"\xff" * 512
    (tmp_path / "a.tar").write_bytes(data)
    found = _read(str(tmp_path / "a.tar"))
    assert list(found) == ["0000.jpg", "0001.jpg", "a.tar: the rest is cut or damaged"]


@pytest.mark.parametrize("keep", [0.5, 0.9])
def test_a_cut_packed_tar_ends_in_a_row(tmp_path, keep):
    data = _tar("w:gz")
    (tmp_path / "a.tar.gz").write_bytes(data[: int(keep * len(data))])
    assert list(_read(str(tmp_path / "a.tar.gz")))[-1].endswith("the rest is cut or damaged")


@pytest.mark.parametrize("name", ["../up.jpg", "/etc/one.jpg"])
def test_a_member_that_leads_out_is_refused(tmp_path, name):
    (tmp_path / "a.tar").write_bytes(_tar(names={name: b"x"}))
    with pytest.raises(InputError, match="leads out of"):
        _read(str(tmp_path / "a.tar"))


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.zip"])
def test_what_is_no_archive_is_named(tmp_path, name):
    (tmp_path / name).write_bytes(b"anything" * 200)
    with pytest.raises(InputError, match=rf"{name}: cannot be read as an archive"):
        _read(str(tmp_path / name))
    with pytest.raises(InputError, match="no such file"):
        _read(str(tmp_path / f"missing-{name}"))


def test_a_table_reaches_parts_only_of_what_it_may_name(tmp_path):
    store = Storage()
    store.publish_bytes("memory://lists/t.csv", b"uri\nrange://0-10//etc/passwd\n")
    with pytest.raises(InputError, match="below image_root only"):
        list_images("memory://lists/t.csv", str(tmp_path), store)
    store.publish_bytes("memory://lists/t.csv", b"uri\nrange://0-10/memory://a/b\n")
    with pytest.raises(InputError, match="memory:// is none of"):
        list_images("memory://lists/t.csv", str(tmp_path), store)


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "stored.zip", "deflated.zip"])
def test_few_requests_list_an_archive_and_one_reads_a_unit(s3, name):
    where = f"{s3.prefix()}/{name}"
    s3.storage().publish_bytes(where, WRITTEN[name]())
    with hostile_proxy(s3.endpoint, Hostility(("error",), rate=0.0)) as proxy:
        store = s3.storage(endpoint=proxy.endpoint)
        entries = entries_of(list_images(where, None, store))
        listing = proxy.happened()["requests"]
        # how long it is, and one GET; a zip is read from its end, too, and looked at once more
        assert listing == (2 if "tar" in name else 6)
        read = Stretches([entry.uri for entry in entries], store.read_bytes)
        images = fetch_images(entries, read, timeout_s=20)
        assert proxy.happened()["requests"] == listing + 1
    assert {image.entry.file_name: image.data for image in images} == IMAGES


def _listed(tmp_path, monkeypatch, name, small=0):
    monkeypatch.setattr(archives, "SMALL_BYTES", small)
    (tmp_path / "shards").mkdir()
    for shard in ("a.tar.gz", name):
        (tmp_path / "shards" / shard).write_bytes(_tar("w:gz" if "gz" in shard else "w"))
    return list_images(str(tmp_path / "shards"), None, Storage())


def _check(images, per_unit):
    """Whether the archives may be read by units of so many images, the list in two pieces."""
    ends = [*range(per_unit, len(images), per_unit), len(images)]
    pieces = [images.slice(0, 5), images.slice(5)]
    archives.check_packed_tars(pieces, ends, per_unit, Storage())


@pytest.mark.parametrize(("per_unit", "most"), [(1, 6), (2, 3), (4, 2), (5, 2)])
def test_a_packed_tar_is_not_read_over_and_over(tmp_path, monkeypatch, per_unit, most):
    """Twelve images in two files; the second begins in the middle of a unit of 4, or of 5."""
    images = _listed(tmp_path, monkeypatch, "b 1.tgz")
    monkeypatch.setattr(archives, "MOST_READS", most)
    _check(images, per_unit)
    monkeypatch.setattr(archives, "MOST_READS", most - 1)
    with pytest.raises(InputError, match=rf"{most} units of {per_unit} images would each read"):
        _check(images, per_unit)


def test_the_refusal_names_the_ways_out(tmp_path, monkeypatch):
    images = _listed(tmp_path, monkeypatch, "b 1.tgz")
    monkeypatch.setattr(archives, "MOST_READS", 3)
    with pytest.raises(InputError, match=r"gunzip -c a\.tar\.gz > a\.tar\), or set .* to 3 or"):
        _check(images, 1)
    _check(images, 3)
    with pytest.raises(InputError, match=r"gunzip -c 'b 1\.tgz' > 'b 1\.tar'\)"):
        _check(images.slice(6), 1)


def test_small_files_and_plain_tars_are_read_as_often_as_need_be(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MOST_READS", 1)
    images = _listed(tmp_path, monkeypatch, "b.tar", small=10_000)
    _check(images, 1)
    monkeypatch.setattr(archives, "SMALL_BYTES", 0)
    _check(images.slice(6), 1)
    _check(images.select(SCHEMA.names), 1)


def test_shards_as_of_img2dataset(tmp_path):
    """Beside each tar it writes a Parquet of metadata and a JSON of statistics."""
    for shard in ("00000", "00001"):
        (tmp_path / f"{shard}.tar").write_bytes(_tar())
        columns = {"url": ["http://x/1"], "key": ["0000"], "status": ["success"]}
        pq.write_table(pa.table(columns), tmp_path / f"{shard}.parquet")
        (tmp_path / f"{shard}_stats.json").write_text("{}")
    entries = entries_of(list_images(str(tmp_path), None, Storage()))
    assert len(entries) == 2 * len(IMAGES)
    assert (entries[-1].source, entries[-1].key) == ("00001.tar", "0005")
