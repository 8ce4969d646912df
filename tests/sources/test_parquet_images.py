"""Parquet files with images in them, as `datasets` and img2dataset write them."""

import logging

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ntt_ray.errors import InputError
from ntt_ray.run.manifest_writer import manifest_bytes
from ntt_ray.settings import TableColumns
from ntt_ray.sources import parquet_images
from ntt_ray.sources.image_list import list_images
from ntt_ray.sources.parquet_images import holds_images
from ntt_ray.sources.schema import entries_of
from ntt_ray.storage import Storage
from ntt_ray.storage.cells import cell_of

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
STORE = Storage()


def _struct(paths: list[str | None]) -> pa.Array:
    rows = [{"bytes": f"bytes of {n}".encode(), "path": path} for n, path in enumerate(paths)]
    return pa.array(rows, STRUCT)


def _binary(count: int) -> pa.Array:
    return pa.array([f"bytes of {n}".encode() for n in range(count)])


def _write(path, columns: dict, rows_per_group: int = 2) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=rows_per_group)
    return str(path)


def _listed(images, **columns):
    return entries_of(list_images(str(images), None, STORE, columns=TableColumns(**columns)))


def test_a_file_of_hugging_face(tmp_path):
    names = ["a.png", "b/c.jpg", "d.png", "e.png", "f.png"]
    columns = {"label": pa.array(range(5)), "image": _struct(names)}
    path = _write(tmp_path / "train.parquet", columns)
    entries = _listed(path)
    assert [(e.image_id, e.file_name) for e in entries] == list(enumerate(names, 1))
    assert {(e.key, e.source) for e in entries} == {(None, "train.parquet")}
    assert [STORE.read_bytes(e.uri) for e in entries] == [
        f"bytes of {n}".encode() for n in range(5)
    ]
    assert [(c.group, c.row) for e in entries if (c := cell_of(e.uri))] == [
        *((0, 0), (0, 1), (1, 0), (1, 1), (2, 0)),
    ]


NAMED = {  # paths -> names in a file t.parquet
    "missing": (["a.png", None], ["t.parquet/000000.png", "t.parquet/000001"]),
    "empty": (["a.png", ""], ["t.parquet/000000.png", "t.parquet/000001"]),
    "repeated": (["x/a.JPG", "x/a.JPG"], ["t.parquet/000000.jpg", "t.parquet/000001.jpg"]),
    "outside": (["../a.png", "b.txt"], ["t.parquet/000000.png", "t.parquet/000001"]),
    "absolute": (["/data/a.webp", "b"], ["t.parquet/000000.webp", "t.parquet/000001"]),
    "addresses": (["https://x/a.png", "b"], ["t.parquet/000000.png", "t.parquet/000001"]),
}


@pytest.mark.parametrize(("paths", "names"), NAMED.values(), ids=NAMED)
def test_paths_that_are_no_names_give_way_to_rows(tmp_path, paths, names, caplog):
    caplog.set_level(logging.INFO, "ntt_ray")
    path = _write(tmp_path / "t.parquet", {"image": _struct(paths)})
    assert [entry.file_name for entry in _listed(path)] == names
    assert "named by file and row" in caplog.text


def test_a_folder_of_files_with_bytes_and_keys_as_img2dataset_writes(tmp_path):
    for name, count in (("00000.parquet", 3), ("deep/00001.parquet", 2)):
        columns = {"jpg": _binary(count), "key": [f"{name[-9]}{n:04}" for n in range(count)]}
        _write(tmp_path / name, {**columns, "caption": ["c"] * count, "width": [1] * count})
    entries = _listed(tmp_path, keep=("caption",))
    assert [(e.image_id, e.file_name, e.key, e.source) for e in entries] == [
        (1, "00000.parquet/000000.jpg", "00000", "00000.parquet"),
        (2, "00000.parquet/000001.jpg", "00001", "00000.parquet"),
        (3, "00000.parquet/000002.jpg", "00002", "00000.parquet"),
        (4, "deep/00001.parquet/000000.jpg", "10000", "deep/00001.parquet"),
        (5, "deep/00001.parquet/000001.jpg", "10001", "deep/00001.parquet"),
    ]
    assert STORE.read_bytes(entries[4].uri) == b"bytes of 1"


def test_kept_columns_keep_their_kinds_and_dictionaries_become_values(tmp_path):
    first = {"year": pa.array([1, None], pa.int16()), "who": pa.array(["a", "b"])}
    first["who"] = first["who"].dictionary_encode()
    second = {"year": pa.array([None, 2], pa.int16()), "who": pa.array([None, "c"])}
    for name, more in (("a.parquet", first), ("b.parquet", second)):
        _write(tmp_path / name, {"image": _binary(2), **more, "id": pa.array([7, 8])})
    columns = TableColumns(key="id", keep=("who", "year"))
    table = list_images(str(tmp_path), None, STORE, columns=columns)
    assert table["year"].to_pylist() == [1, None, None, 2]
    assert table["who"].to_pylist() == ["a", "b", None, "c"]
    assert table["key"].to_pylist() == ["7", "8", "7", "8"]
    assert [str(kind) for kind in table.schema.types[3:]] == ["string", "string", "string", "int16"]
    assert manifest_bytes(table, 2) == manifest_bytes(table.combine_chunks(), 2)


def test_loose_images_and_archives_come_first(tmp_path):
    _write(tmp_path / "a.parquet", {"image": _binary(2)})
    (tmp_path / "one.png").write_bytes(b"one")
    assert [entry.file_name for entry in _listed(tmp_path)] == ["one.png"]


def test_addresses_win_unless_the_column_of_bytes_is_named(tmp_path):
    path = _write(tmp_path / "t.parquet", {"uri": ["/x/1.png", "/x/2.png"], "image": _binary(2)})
    assert [entry.uri for entry in _listed(path)] == ["/x/1.png", "/x/2.png"]
    assert not holds_images(path, TableColumns(), STORE)
    entries = _listed(path, image="image")
    assert STORE.read_bytes(entries[1].uri) == b"bytes of 1"
    assert holds_images(path, TableColumns(image="image"), STORE)


REFUSED = {
    "no bytes": ({"n": [1], "caption": ["x"]}, {}, r"no column 'uri'; it has 'n', 'caption'"),
    "several": (
        {"left": _binary(1), "right": _binary(1)},
        {},
        r"'left', 'right' hold bytes; name the one with the images in columns\.image",
    ),
    "another": ({"image": _binary(1)}, {"image": "img"}, r"columns\.image: .*no column 'img'"),
    "text": (
        {"image": ["x"]},
        {"image": "image"},
        r"columns\.image: 'image' of .* is string; bytes",
    ),
    "no key": ({"image": _binary(1)}, {"key": "id"}, r"columns\.key: there is no column 'id'"),
    "odd key": (
        {"image": _binary(1), "id": [[1]]},
        {"key": "id"},
        r"columns\.key: 'id' of .* is list<.*keys are texts",
    ),
    "not there": (
        {"image": _binary(1)},
        {"keep": ("x",)},
        r"columns\.keep: there is no column 'x'",
    ),
    "nested": (
        {"image": _binary(1), "tags": [["a"]]},
        {"keep": ("tags",)},
        r"columns\.keep: 'tags' of .* is list<.*only texts, numbers",
    ),
    "bytes": (
        {"image": _binary(1), "hash": _binary(1)},
        {"keep": ("hash",)},
        r"columns\.keep: 'hash' of .* is binary",
    ),
}


@pytest.mark.parametrize(("table", "columns", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_read_is_said_before_anything_starts(tmp_path, table, columns, message):
    path = _write(tmp_path / "t.parquet", table)
    with pytest.raises(InputError, match=message):
        _listed(path, **columns)


def test_each_file_of_a_folder_must_hold_images(tmp_path):
    _write(tmp_path / "a.parquet", {"image": _binary(1)})
    _write(tmp_path / "b.parquet", {"n": [1]})
    with pytest.raises(
        InputError, match=r"b\.parquet: no column holds bytes of images \(it has 'n'"
    ):
        _listed(tmp_path)
    _write(tmp_path / "b.parquet", {"image": _binary(1), "year": ["x"]})
    _write(tmp_path / "a.parquet", {"image": _binary(1), "year": [1]})
    with pytest.raises(InputError, match="a column of the Parquet files is of several kinds"):
        _listed(tmp_path, keep=("year",))


@pytest.mark.parametrize("alone", [True, False])
def test_a_truncated_file_is_refused_by_its_name(tmp_path, alone):
    path = _write(tmp_path / "a.parquet", {"image": _binary(9)})
    (tmp_path / "b.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-10])
    with pytest.raises(InputError, match=r"b\.parquet: cannot be read"):
        _listed(path.replace("a.parquet", "b.parquet") if alone else tmp_path)


def test_nothing_in_it_is_nothing(tmp_path):
    with pytest.raises(InputError, match="there is no image in"):
        _listed(_write(tmp_path / "a.parquet", {"image": pa.array([], pa.binary())}))


def test_row_groups_that_are_too_large_are_counted(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(parquet_images, "MOST_AT_ONCE", 10)
    _write(tmp_path / "a.parquet", {"image": _binary(6)})
    _write(tmp_path / "b.parquet", {"image": _binary(2)})
    _listed(tmp_path)
    assert "4 row groups have more than 0 MiB of images" in caplog.text


def test_listing_reads_no_image(s3, monkeypatch):
    data = [np.random.default_rng(n).bytes(200_000) for n in range(30)]
    paths = [f"{n}.jpg" for n in range(30)]
    rows = [{"bytes": one, "path": path} for one, path in zip(data, paths, strict=True)]
    sink = pa.BufferOutputStream()
    table = pa.table({"image": pa.array(rows, STRUCT)})
    pq.write_table(table, sink, row_group_size=10, use_dictionary=False)
    uri = f"{s3.prefix()}/data/train-00000-of-00001.parquet"
    store = s3.storage()
    store.publish_bytes(uri, sink.getvalue().to_pybytes())
    read, ranges = [], Storage._read_range

    def counted(self, place, start, end):
        read.append(end - start)
        return ranges(self, place, start, end)

    monkeypatch.setattr(Storage, "_read_range", counted)
    entries = entries_of(list_images(uri.rsplit("/", 2)[0], None, store))
    assert [entry.file_name for entry in entries] == paths
    assert {entry.source for entry in entries} == {"data/train-00000-of-00001.parquet"}
    assert len(read) <= 4  # the footer, and the paths of each row group
    assert sum(read) < 300_000
