import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ntt_ray.errors import InputError
from ntt_ray.pipeline import manifest
from ntt_ray.records import ImageEntry
from ntt_ray.storage import Storage


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "photos"
    for name in ("b/2.JPG", "a/1.jpg", "c.png", "notes.txt", ".cache/x.jpg"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


def _names(entries):
    return [(e.image_id, e.file_name) for e in entries]


def test_a_prefix(folder):
    entries = manifest.list_images(str(folder), None, Storage())
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
    entries = manifest.list_images(str(path), None, Storage())
    assert _names(entries) == [(1, "a/1.jpg"), (2, "b/2.JPG"), (3, "bucket/x/3.jpg")]
    assert entries[2].uri == "s3://bucket/x/3.jpg"


def test_a_coco_file_keeps_its_ids_in_rising_order(folder):
    images = [{"id": 9, "file_name": "a/1.jpg"}, {"id": 4, "file_name": "c.png"}]
    (folder / "x.json").write_text(json.dumps({"images": images}))
    entries = manifest.list_images(str(folder / "x.json"), None, Storage())
    assert _names(entries) == [(4, "c.png"), (9, "a/1.jpg")]
    elsewhere = manifest.list_images(str(folder / "x.json"), "s3://bucket/photos", Storage())
    assert elsewhere[0].uri == "s3://bucket/photos/c.png"


BAD = {
    "nothing": ("empty", None, "there is no image"),
    "no such table": ("none.csv", None, "no such file"),
    "no column": ("x.csv", "path\na.jpg\n", "no column 'uri'"),
    "empty uri": ("x.csv", "uri,n\n,1\n", "row 1 .* has no uri"),
    "out of the root": ("x.csv", "uri\n../../etc/1.jpg\n", "leads out of"),
    "name out of the root": ("x.csv", "uri,file_name\na.jpg,../b.jpg\n", "leads out of"),
    "repeated": ("x.csv", "uri\na.jpg\na.jpg\n", "file_name values are used more than once"),
    "not parquet": ("x.parquet", "text", "cannot be read"),
    "not json": ("x.jsonl", "{", "cannot be read"),
    "coco without images": ("x.json", "{}", "no list 'images'"),
    "coco without ids": ("x.json", '{"images": [{"file_name": "a"}]}', "needs a file_name"),
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
        manifest.list_images(str(tmp_path / name), None, Storage())


def test_units_read_only_their_rows(tmp_path):
    entries = [ImageEntry(i, f"{i}.jpg", f"/x/{i}.jpg") for i in range(1, 8)]
    data = manifest.manifest_bytes(entries, 3)
    assert data == manifest.manifest_bytes(entries, 3)
    assert manifest.unit_sizes(data) == [3, 3, 1]
    Storage().publish_bytes(str(tmp_path / manifest.FILE), data)
    digest = manifest.manifest_digest(data)
    for _ in range(2):
        assert manifest.read_unit(str(tmp_path), 1, digest, Storage()) == entries[3:6]
    assert manifest.read_unit(str(tmp_path), 2, digest, Storage()) == entries[6:]
    assert manifest.file_names(data)[7] == "7.jpg"
