import csv
import json
import logging
import os
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFile

from ntt_ray.errors import InputError
from ntt_ray.run import manifest, manifest_writer
from ntt_ray.run.layout import MANIFEST_FILE
from ntt_ray.sources import image_list, schema
from ntt_ray.sources.schema import entries_of
from ntt_ray.storage import Storage


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "photos"
    for name in ("b/2.JPG", "a/1.jpg", "c.png", "notes.txt", ".cache/x.jpg"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


def _listed(images, image_root, store):
    return entries_of(image_list.list_images(images, image_root, store))


def _names(entries):
    return [(e.image_id, e.file_name) for e in entries]


def test_a_prefix(folder):
    entries = _listed(str(folder), None, Storage())
    assert _names(entries) == [(1, "a/1.jpg"), (2, "b/2.JPG"), (3, "c.png")]
    assert entries[0].uri == str(folder / "a/1.jpg")


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_a_table(folder, suffix):
    uris = ["a/1.jpg", str(folder / "b/2.JPG"), "s3://bucket/x/3.jpg"]
    path = folder / f"list.{suffix}"
    if suffix == "csv":
        path.write_text("uri\n" + "\n".join(uris))
    elif suffix == "jsonl":
        path.write_text("\n".join(json.dumps({"uri": uri}) for uri in uris))
    else:
        pq.write_table(pa.table({"uri": uris}), path)
    entries = _listed(str(path), None, Storage())
    assert _names(entries) == [(1, "a/1.jpg"), (2, "b/2.JPG"), (3, "bucket/x/3.jpg")]
    assert entries[2].uri == "s3://bucket/x/3.jpg"


def test_file_uris_of_a_table_mean_the_file(tmp_path):
    names = ["a b.png", "100%.png", os.fsdecode(b"\xff.png")]
    for name in names:
        (tmp_path / name).write_bytes(os.fsencode(name))
    listed = _listed(str(tmp_path), None, Storage())
    uris = [e.uri for e in listed if e.uri.startswith("file://")]
    assert len(uris) == 1  # the one that is not UTF-8
    uris += [f"file://{tmp_path}/a%20b.png", f"file://{tmp_path}/100%25.png"]
    table = tmp_path / "list.jsonl"
    table.write_text("".join(json.dumps({"uri": uri}) + "\n" for uri in uris))
    entries = _listed(str(table), None, Storage())
    found = sorted(Storage().read_bytes(entry.uri) for entry in entries)
    assert found == sorted(os.fsencode(name) for name in names)
    assert [e.file_name for e in entries][1:] == ["a b.png", "100%.png"]


def test_a_coco_file_keeps_its_ids_in_rising_order(folder):
    images = [{"id": 9, "file_name": "a/1.jpg"}, {"id": 4, "file_name": "c.png"}]
    (folder / "x.json").write_text(json.dumps({"images": images}))
    entries = _listed(str(folder / "x.json"), None, Storage())
    assert _names(entries) == [(4, "c.png"), (9, "a/1.jpg")]
    elsewhere = _listed(str(folder / "x.json"), "s3://bucket/photos", Storage())
    assert elsewhere[0].uri == "s3://bucket/photos/c.png"


def test_a_prefix_with_odd_names(tmp_path):
    names = ["a..b.png", "back\\slash.png", "\\lead.png", "new\nline.png", "é.png", "e\u0301.png"]
    for name in [*names, os.fsdecode(b"\xff.png")]:
        (tmp_path / name).write_bytes(name.encode("utf-8", "surrogateescape"))
    entries = _listed(str(tmp_path), None, Storage())
    assert sorted(e.file_name for e in entries) == sorted([*names, "\\udcff.png"])
    table = image_list.list_images(str(tmp_path), None, Storage())
    data = manifest_writer.manifest_bytes(table, 4)
    assert manifest.file_names(data) == {e.image_id: e.file_name for e in entries}
    Storage().publish_bytes(str(tmp_path / "run" / MANIFEST_FILE), data)
    digest = manifest.manifest_digest(data)
    again = [
        entry
        for unit in range(2)
        for entry in manifest.read_unit(str(tmp_path / "run"), unit, digest, Storage())
    ]
    assert again == entries
    for entry in again:
        found = Storage().read_bytes(entry.uri)
        assert found == (b"\xff.png" if "udcff" in entry.file_name else entry.file_name.encode())


def test_keys_of_an_object_store_need_not_look_like_paths():
    store = Storage()
    for name in ("//c.png", "http:/x/d.png", "a/../hidden.png"):
        store._open_fs("memory://")[0].store[f"/odd/{name}"] = MemoryFile(None, name, b"x")
    try:
        entries = _listed("memory://odd", None, store)
        assert [e.file_name for e in entries] == ["//c.png", "http:/x/d.png"]
        assert all(e.uri == f"memory://odd/{e.file_name}" for e in entries)
    finally:
        store._open_fs("memory://")[0].store.clear()


def test_a_table_of_odd_names(tmp_path):
    names = ["a#1.png", "line\u2028sep.png", "new\nline.png", 'quo"te.png', " x .png", "c,d.png"]
    lines = "\n".join(json.dumps({"uri": name}, ensure_ascii=False) for name in names)
    (tmp_path / "x.jsonl").write_text(lines)
    with (tmp_path / "x.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["uri"], *[[name] for name in names]])
    pq.write_table(pa.table({"uri": names}), tmp_path / "x.parquet")
    for suffix in ("csv", "jsonl", "parquet"):
        entries = _listed(str(tmp_path / f"x.{suffix}"), None, Storage())
        assert [e.file_name for e in entries] == names, suffix


BAD = {
    "nothing": ("empty", None, "there is no image"),
    "no such table": ("none.csv", None, "no such file"),
    "no column": ("x.csv", "path\na.jpg\n", "no column 'uri'"),
    "empty uri": ("x.csv", "uri,n\n,1\n", "row 1 .* has no uri"),
    "out of the root": ("x.csv", "uri\n../../etc/1.jpg\n", "leads out of"),
    "name out of the root": ("x.csv", "uri,file_name\na.jpg,../b.jpg\n", "leads out of /"),
    "not unicode": ("x.jsonl", '{"uri": "\\ud800.jpg"}', "not valid Unicode"),
    "not unicode in coco": (
        "x.json",
        '{"images": [{"id": 1, "file_name": "\\ud800.jpg"}]}',
        "not valid Unicode",
    ),
    "repeated": (
        "x.csv",
        "uri\nb.jpg\na.jpg\nc.jpg\nb.jpg\na.jpg\n",
        "2 file_name values are used more than once in .*: b.jpg, a.jpg$",
    ),
    "not parquet": ("x.parquet", "text", "cannot be read"),
    "not json": ("x.jsonl", "{", "cannot be read"),
    "coco without images": ("x.json", "{}", "no list 'images'"),
    "coco without ids": ("x.json", '{"images": [{"file_name": "a"}]}', "needs a file_name"),
    "coco id true": ("x.json", '{"images": [{"id": true, "file_name": "a"}]}', "whole-number id"),
    "coco ids repeated": (
        "x.json",
        '{"images": [{"id": 1, "file_name": "a"}, {"id": 1, "file_name": "b"}]}',
        "image_id values are used more than once",
    ),
}


@pytest.mark.parametrize(("name", "text", "message"), BAD.values(), ids=BAD.keys())
def test_bad_lists(tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        _listed(str(tmp_path / name), None, Storage())


def test_long_lists_are_gone_through_in_batches(tmp_path, monkeypatch):
    names = [f"{number:02d}.png" for number in range(20)] + [os.fsdecode(b"\xff.png")]
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    uris = [{"uri": name} for name in names[:20]]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in uris))
    pq.write_table(pa.Table.from_pylist(uris), tmp_path / "x.parquet")
    places = [str(tmp_path), str(tmp_path / "x.jsonl"), str(tmp_path / "x.parquet")]
    whole = [_listed(place, None, Storage()) for place in places]
    monkeypatch.setattr(schema, "BATCH", 7)
    assert [_listed(place, None, Storage()) for place in places] == whole
    assert [entry.image_id for entry in whole[0]] == list(range(1, 22))
    bytes_of = {
        manifest_writer.manifest_bytes(image_list.list_images(place, None, Storage()), 3)
        for place in places[1:]
    }
    assert len(bytes_of) == 1  # however the table is divided


def test_a_name_that_looks_like_an_escaped_one_is_refused(tmp_path):
    for name in (os.fsdecode(b"\xff.png"), "\\udcff.png"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(InputError, match="1 file_name values are used more than once"):
        _listed(str(tmp_path), None, Storage())


LABELLED = [  # keys of a store, below a prefix
    *("a//b.jpg", "/lead.jpg", "//two.jpg", "trail .jpg", " lead.jpg", "s p.jpg", "tab\t.jpg"),
    *("h#1.jpg", "p%20.jpg", "p%2Fq.jpg", "q?x=1.jpg", "plus+.jpg", "a::b.jpg", "amp&.jpg"),
    *("b\\s.jpg", "*.jpg", "[a].jpg", "~t.jpg", "é.jpg", "A.JPG", "s3://x/y.jpg", "<x>.jpg"),
]
LEFT_OUT = {
    "a part of the name starts with a dot": [".h/x.jpg", "a/.x.jpg", "a/../up.jpg", "./dot.jpg"],
    "?versionId= in a name would be taken": ["v.jpg?versionId=3.jpg", "v?versionId=null.jpg"],
    "the name ends in '.txt'": ["notes.txt"],
}


@pytest.mark.slow
def test_each_key_of_a_bucket_is_listed_and_read_or_left_out_with_the_reason(s3, caplog):
    store, prefix = s3.storage(), s3.prefix()
    fs, path = store._open_fs(prefix)
    bucket, _, below = path.partition("/")
    for name in [*LABELLED, *(name for names in LEFT_OUT.values() for name in names)]:
        fs.call_s3("put_object", Bucket=bucket, Key=f"{below}/{name}", Body=name.encode())
    caplog.set_level(logging.INFO, "ntt_ray")
    entries = _listed(prefix, None, store)
    assert sorted(e.file_name for e in entries) == sorted(LABELLED)
    assert all(store.read_bytes(e.uri) == e.file_name.encode() for e in entries)
    for reason, names in LEFT_OUT.items():
        (line,) = [text for text in caplog.messages if reason in text]
        assert f"left out {len(names)} files" in line
        assert any(repr(name) in line for name in names)


def test_a_row_may_name_a_version(s3):
    """And no other one is read in its place."""
    store, uri = s3.storage(), f"{s3.prefix()}/x.jpg"
    store.publish_bytes(uri, b"newest")
    with pytest.raises(FileNotFoundError):
        store.read_bytes(f"{uri}?versionId=3")


def test_what_a_folder_holds_besides_images_is_counted(folder, caplog):
    caplog.set_level(logging.INFO, "ntt_ray")
    (folder / "what?versionId=1.png").write_bytes(b"")  # on a disk that means nothing
    assert len(_listed(str(folder), None, Storage())) == 4
    assert sorted(caplog.messages) == [
        "images: left out 1 files, as '.cache/': a part of the name starts with a dot",
        "images: left out 1 files, as 'notes.txt': the name ends in '.txt'",
    ]


REFUSED = {
    "a package that is not installed": (
        "gs://bucket/a.jpg",
        r"gs:// needs another package.*ntt-ray\[gcs\]",
    ),
    "a shell on another machine": ("ssh://host/etc/passwd", "ssh:// is none of s3://"),
    "a file in an archive": ("zip://a.jpg::https://example.org/a.zip", "zip:// is none of s3://"),
    "a protocol nobody knows": ("gopher://host/a.jpg", "gopher:// is none of s3://"),
}


@pytest.mark.parametrize(("uri", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_a_row_that_cannot_be_read_here_is_named_at_the_start(tmp_path, uri, message, monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)  # as if it were not installed
    table = tmp_path / "images.csv"
    table.write_text(f"uri\n/data/0.jpg\n{uri}\n")
    with pytest.raises(InputError, match=rf"row 2 of .*images\.csv, .*: {message}"):
        image_list.list_images(str(table), None, Storage())


def test_a_table_in_a_store_names_local_files_below_image_root_only(s3, tmp_path):
    table = f"{s3.prefix()}/images.csv"
    s3.storage().publish_bytes(table, f"uri\n{tmp_path}/photos/1.jpg\n".encode())
    assert len(image_list.list_images(table, f"{tmp_path}/photos", s3.storage())) == 1
    for root in (None, f"{tmp_path}/other"):
        with pytest.raises(
            InputError, match=r"row 1 of .*below image_root only.*allow_local: true"
        ):
            image_list.list_images(table, root, s3.storage())
    listed = image_list.list_images(table, None, s3.storage(), allow_local=True)
    assert listed["uri"].to_pylist() == [f"{tmp_path}/photos/1.jpg"]
    sneaky = f"{s3.prefix()}/images.csv"
    s3.storage().publish_bytes(sneaky, f"uri\n{tmp_path}/photos/../../passwd\n".encode())
    with pytest.raises(InputError, match="below image_root only"):
        image_list.list_images(sneaky, f"{tmp_path}/photos", s3.storage())


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_table_on_a_disk_of_this_machine_names_any_of_its_files(tmp_path, scheme):
    table = tmp_path / "lists" / "images.csv"
    table.parent.mkdir()
    table.write_text(f"uri\n{tmp_path}/photos/1.jpg\nfile://{tmp_path}/photos/2%20.jpg\n")
    uris = image_list.list_images(f"{scheme}{table}", None, Storage())["uri"].to_pylist()
    assert uris == [f"{tmp_path}/photos/1.jpg", f"{tmp_path}/photos/2 .jpg"]


def test_names_below_image_root_need_no_protocol_of_their_own(tmp_path, monkeypatch):
    """What the config names is trusted; only its package must be there."""
    table = tmp_path / "images.csv"
    table.write_text("uri\na.jpg\n")
    assert _listed(str(table), "memory://photos", Storage())[0].uri == "memory://photos/a.jpg"
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(InputError, match=r"row 1 of .*: gs:// needs another package"):
        _listed(str(table), "gs://bucket", Storage())


NO_FOLDER = {
    "photos.7z": "an archive of another kind",
    "list.csv.gz": "it is compressed; unpack it",
    "list.tsv": "write it as .csv, .jsonl or .parquet with a column uri",
    "list.ndjson": "write it as .csv",
    "one.jpg": "it is one image; name its folder",
    "photos/*.jpg": "patterns are not filled in; name the folder",
}


@pytest.mark.parametrize(("name", "message"), NO_FOLDER.items(), ids=NO_FOLDER)
def test_what_is_no_folder_of_images_is_named(tmp_path, name, message):
    if "*" not in name:
        (tmp_path / name).write_bytes(b"anything")
    with pytest.raises(InputError, match=f"there is no image in .*{message}"):
        image_list.list_images(str(tmp_path / name), None, Storage())


@pytest.mark.parametrize("images", ["zip://photos.zip", "tar://a.tar", "zip://in::s3://b/a.zip"])
def test_archives_are_named_whatever_protocol_opens_them(images):
    with pytest.raises(InputError, match=r"zip|tar") as caught:
        image_list.list_images(images, None, Storage())
    assert "lies in an archive; unpack it" in str(caught.value)


def test_a_folder_of_tables_is_named(tmp_path):
    (tmp_path / "parts.parquet").mkdir()
    with pytest.raises(InputError, match=r"parts\.parquet is a folder; name one table"):
        image_list.list_images(str(tmp_path / "parts.parquet"), None, Storage())


COLUMNS = {
    "url.csv": (
        "url,label\na.jpg,x\n",
        "it has 'url', 'label': name the one with the addresses uri",
    ),
    "semicolon.csv": ("uri;label\na.jpg;x\n", "divided by ; and should be by a comma"),
    "list.jsonl": ('{"image": "a.jpg"}\n', "it has 'image': name the one"),
    "texts.jsonl": ('"a.jpg"\n', "there is no column 'uri'"),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_a_table_without_addresses_says_what_it_has(tmp_path, name):
    text, message = COLUMNS[name]
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        image_list.list_images(str(tmp_path / name), None, Storage())
