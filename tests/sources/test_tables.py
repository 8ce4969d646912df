"""Keys and kept columns of tables; addresses and names: test_image_list.py."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ntt_ray.errors import InputError
from ntt_ray.settings import TableColumns
from ntt_ray.sources import schema
from ntt_ray.sources.image_list import list_images
from ntt_ray.storage import Storage

ROWS = [
    {"uri": "a.png", "key": "one", "n": 1, "text": "x"},
    {"uri": "b.png", "key": None, "n": None, "text": "y"},
    {"uri": "c.png", "key": "three", "n": 3, "text": None},
]


def _write(path, rows) -> str:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        lines = [",".join("" if v is None else str(v) for v in row.values()) for row in rows]
        path.write_text("\n".join([",".join(rows[0]), *lines]))
    return str(path)


def _listed(path, **columns) -> pa.Table:
    return list_images(str(path), None, Storage(), columns=TableColumns(**columns))


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("batch", [2, 100])
def test_a_column_key_holds_the_keys(tmp_path, suffix, batch, monkeypatch):
    monkeypatch.setattr(schema, "BATCH", batch)
    table = _listed(_write(tmp_path / f"t.{suffix}", ROWS))
    assert table.column_names == ["image_id", "file_name", "uri", "key", "source"]
    assert table["key"].to_pylist() == ["one", None, "three"]
    assert table["source"].null_count == 3


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("batch", [1, 100])
def test_columns_are_kept(tmp_path, suffix, batch, monkeypatch):
    monkeypatch.setattr(schema, "BATCH", batch)
    table = _listed(_write(tmp_path / f"t.{suffix}", ROWS), key="text", keep=("n", "text"))
    texts = suffix == "csv"
    assert table["n"].to_pylist() == (["1", "", "3"] if texts else [1, None, 3])
    assert table["text"].to_pylist() == ["x", "y", "" if texts else None]
    assert table["key"].to_pylist() == ["x", "y", None]
    assert table.column_names[3:] == ["key", "source", "n", "text"]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_without_keys_a_list_is_as_ever(tmp_path, suffix):
    rows = [{"uri": row["uri"], "n": 1} for row in ROWS]
    assert _listed(_write(tmp_path / f"t.{suffix}", rows)).schema.equals(schema.SCHEMA)


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_column_key_of_other_things_is_none(tmp_path, suffix):
    path = _write(tmp_path / f"t.{suffix}", [{"uri": "a.png", "key": [1]}])
    assert _listed(path).schema.equals(schema.SCHEMA)
    with pytest.raises(InputError, match=r"columns\.key: 'key' .*keys are texts"):
        _listed(path, key="key")


def test_columns_that_only_some_rows_of_a_jsonl_have(tmp_path):
    rows = [{"uri": "a.png"}, {"uri": "b.png", "n": 1.5, "key": 7}]
    table = _listed(_write(tmp_path / "t.jsonl", rows), keep=("n",))
    assert table.select(["key", "n"]).to_pylist() == [
        {"key": None, "n": None},
        {"key": "7", "n": 1.5},
    ]


REFUSED = {
    "missing": (
        "t.csv",
        [{"uri": "a.png", "x": 1}],
        {"keep": ("n",)},
        r"keep: .* 'n' in .*'uri', 'x'",
    ),
    "no key": ("t.jsonl", [{"uri": "a.png"}], {"key": "id"}, r"key: there is no column 'id'"),
    "nested": (
        "t.jsonl",
        [{"uri": "a.png", "n": 1}, {"uri": "b.png", "n": {}}],
        {"keep": ("n",)},
        r"keep: 'n' of row 2 of .* holds a dict; only texts",
    ),
    "mixed": (
        "t.jsonl",
        [{"uri": "a.png", "n": 1}, {"uri": "b.png", "n": "x"}],
        {"keep": ("n",)},
        "several kinds",
    ),
    "bytes": ("t.csv", [{"uri": "a.png"}], {"image": "uri"}, r"columns\.image: .*only Parquet"),
}


@pytest.mark.parametrize(("name", "rows", "columns", "message"), REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("batch", [1, 100])
def test_what_cannot_travel_is_refused(tmp_path, name, rows, columns, message, batch, monkeypatch):
    monkeypatch.setattr(schema, "BATCH", batch)
    with pytest.raises(InputError, match=message):
        _listed(_write(tmp_path / name, rows), **columns)


def test_what_has_no_columns_says_so(tmp_path):
    (tmp_path / "x.json").write_text('{"images": [{"id": 1, "file_name": "a"}]}')
    with pytest.raises(InputError, match=r"columns\.keep: .*a COCO file has no columns"):
        _listed(tmp_path / "x.json", keep=("n",))
    with pytest.raises(InputError, match=r"columns\.key: .*an archive has no columns"):
        _listed(tmp_path / "x.tar", key="n")


def test_a_row_may_name_a_cell_only_of_what_it_may_read(tmp_path):
    store = Storage()
    store.publish_bytes("memory://lists/t.csv", b"uri\nparquet://0-0-image//etc/passwd\n")
    with pytest.raises(InputError, match="below image_root only"):
        list_images("memory://lists/t.csv", str(tmp_path), store)


def test_a_table_may_name_cells_that_were_listed_before(tmp_path):
    """As the sample of a plan does."""
    pq.write_table(pa.table({"image": [b"0", b"1"]}), tmp_path / "a.parquet")
    rows = list_images(str(tmp_path / "a.parquet"), None, Storage()).to_pylist()
    named = [{"uri": row["uri"], "file_name": row["file_name"]} for row in rows]
    table = _listed(_write(tmp_path / "sample.jsonl", named))
    assert [Storage().read_bytes(uri) for uri in table["uri"].to_pylist()] == [b"0", b"1"]
    assert table["file_name"].to_pylist() == ["a.parquet/000000", "a.parquet/000001"]
