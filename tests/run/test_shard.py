import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ntt_ray.errors import InputError
from ntt_ray.records import ImageEntry, ImageLabels
from ntt_ray.run import shard as shards
from ntt_ray.run.layout import shard_uri
from ntt_ray.settings import EMBEDDING_COLUMNS
from ntt_ray.sources.schema import packed_schema
from ntt_ray.storage import Storage
from tests.support.run_files import make_labels, manifest_table
from tests.support.shard_columns import UNKNOWN, with_column, with_unknown_columns

ROWS = {
    "two detections": make_labels(),
    "empty": make_labels(2, scores=()),
    "with notes": replace(make_labels(4), notes=("transparent", "turned")),
    "failed": ImageLabels.failed(ImageEntry(3, "ünï \n.jpg", ""), "not an image"),
    "packed": replace(make_labels(5), entry=ImageEntry(5, "a/b.c.jpg", "", "a/b", "x.tar")),
}


@pytest.mark.parametrize("labels", ROWS.values(), ids=ROWS.keys())
def test_rows_round_trip(labels):
    table = shards.labels_to_table([labels])
    assert list(shards.iter_labels(table)) == [labels]


def test_a_shard_round_trips_and_has_the_contracts_schema(tmp_path):
    table = shards.labels_to_table(list(ROWS.values()))
    data = shards.table_to_bytes(table, {"labels_hash": "h", "bank_digest": "b"})
    assert data == shards.table_to_bytes(table, {"bank_digest": "b", "labels_hash": "h"})
    Storage().publish_bytes(shard_uri(str(tmp_path), 123), data)
    path = tmp_path / "labels" / "shard-000123.parquet"
    schema = pq.read_schema(path)
    assert schema.metadata[b"format_version"] == b"1"
    assert schema.metadata[b"labels_hash"] == b"h"
    assert schema.field("annotations").type == pa.list_(
        pa.field("item", shards.ANNOTATION, nullable=False)
    )
    assert pq.ParquetFile(path).metadata.row_group(0).column(0).compression == "ZSTD"
    read = shards.read_shard(str(tmp_path), 123, Storage())
    assert list(shards.iter_labels(read)) == list(ROWS.values())
    assert shards.existing_shards(str(tmp_path), Storage()) == {123}


def test_only_shards_count_as_shards(tmp_path):
    for name in ("shard-000001.parquet", "shard-1.parquet", "x.parquet", ".shard-000002.parquet"):
        Storage().publish_bytes(str(tmp_path / "labels" / name), b"")
    assert shards.existing_shards(str(tmp_path), Storage()) == {1}


def test_damaged_and_foreign_shards_are_refused(tmp_path):
    uri = shard_uri(str(tmp_path), 0)
    with pytest.raises(InputError, match="missing"):
        shards.read_shard(str(tmp_path), 0, Storage())
    data = shards.table_to_bytes(shards.labels_to_table([make_labels()]), {})
    Storage().publish_bytes(uri, data[:-10])
    with pytest.raises(InputError, match="damaged"):
        shards.read_shard(str(tmp_path), 0, Storage())
    pq.write_table(pa.table({"a": [1]}), uri)
    with pytest.raises(InputError, match="format"):
        shards.read_shard(str(tmp_path), 0, Storage())


def test_rows_that_contradict_themselves_are_refused():
    row = {**shards.labels_to_row(make_labels()), "status": "empty"}
    with pytest.raises(InputError, match="a damaged row of image 1: status ok means"):
        list(shards.iter_labels(pa.Table.from_pylist([row], schema=shards.SCHEMA)))


def test_records_refuse_contradictions():
    entry = ImageEntry(1, "a.jpg", "")
    with pytest.raises(ValueError, match="failed"):
        ImageLabels(entry, "failed", None, None, None, ())
    with pytest.raises(ValueError, match="at least one"):
        ImageLabels(entry, "ok", 1, 1, None, ())


def _embedded(labels, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(9, 4)).astype(np.float32)
    found = tuple(
        replace(detection, embedding=vector)
        for detection, vector in zip(labels.detections, vectors[1:])
    )
    own = None if labels.status == "failed" else vectors[0]
    return replace(labels, detections=found, embedding=own)


def test_embeddings_round_trip_and_are_only_read_when_asked_for(tmp_path):
    rows = [_embedded(row, n) for n, row in enumerate(ROWS.values()) if row.entry.key is None]
    table = shards.with_embeddings(rows)
    data = shards.table_to_bytes(table, shards.unit_metadata(0, table, embedded=True))
    Storage().publish_bytes(shard_uri(str(tmp_path), 0), data)
    plain = shards.read_shard(str(tmp_path), 0, Storage())
    assert plain.column_names == shards.SCHEMA.names
    assert list(shards.iter_labels(plain)) == rows
    assert all(row.embedding is None for row in shards.iter_labels(plain))
    read = shards.read_shard(str(tmp_path), 0, Storage(), embeddings=True)
    assert shards.has_embeddings(pq.read_schema(tmp_path / "labels" / "shard-000000.parquet"))
    found = list(shards.iter_labels(read, embedded=True))
    assert found == rows
    for row, wanted in zip(found, rows, strict=True):
        assert (row.embedding is None) == (wanted.embedding is None) == (row.status == "failed")
        if row.embedding is not None:
            np.testing.assert_array_equal(row.embedding, wanted.embedding)
        for detection, one in zip(row.detections, wanted.detections, strict=True):
            np.testing.assert_array_equal(detection.embedding, one.embedding)
    _publish(tmp_path, shards.labels_to_table(rows))
    with pytest.raises(InputError, match="it has no embeddings"):
        shards.read_shard(str(tmp_path), 0, Storage(), embeddings=True)


def test_kept_columns_of_such_names_are_no_embeddings():
    table = shards.with_embeddings([_embedded(make_labels())])
    said = shards.unit_metadata(0, table)
    assert json.loads(said["kept"]) == ["embedding", "embeddings"]
    assert not shards.has_embeddings(table.schema.with_metadata(said))
    assert "kept" not in shards.unit_metadata(0, table, embedded=True)
    assert {field.name for field in shards.EMBEDDING_FIELDS} == EMBEDDING_COLUMNS


def _publish(folder, table: pa.Table) -> str:
    uri = shard_uri(str(folder), 0)
    Storage().publish_bytes(uri, shards.table_to_bytes(table, {"newer_key": "x"}))
    return str(folder)


def test_unknown_nullable_columns_are_passed_over(tmp_path):
    rows = list(ROWS.values())
    output = _publish(tmp_path, with_unknown_columns(shards.labels_to_table(rows)))
    read = shards.read_shard(output, 0, Storage())
    assert read.column_names == [*shards.SCHEMA.names, "key", "source"]
    assert list(shards.iter_labels(read)) == rows


def test_a_column_that_was_added_may_be_missing(tmp_path, monkeypatch):
    rows = list(ROWS.values())
    output = _publish(tmp_path, shards.labels_to_table(rows))
    monkeypatch.setattr(shards, "SCHEMA", shards.SCHEMA.append(UNKNOWN))
    with pytest.raises(InputError, match="wrong shard format: sharpness is missing"):
        shards.read_shard(output, 0, Storage())
    monkeypatch.setattr(shards, "ADDED", {"sharpness"})
    assert list(shards.iter_labels(shards.read_shard(output, 0, Storage()))) == rows


def test_a_shard_carries_what_the_manifest_has_of_its_images(tmp_path):
    table = shards.labels_to_table([make_labels(1), make_labels(2)])
    kept = (pa.field("caption", pa.string()), pa.field("year", pa.int16()))
    images = pa.Table.from_pylist(
        [
            {"image_id": n, "file_name": f"img/{n}.jpg", "uri": "/x", "key": f"{n}", "source": None}
            | {"caption": f"of {n}", "year": None}
            for n in (1, 2)
        ],
        schema=packed_schema(kept),
    )
    whole = shards.with_carried(table, images)
    data = shards.table_to_bytes(whole, shards.unit_metadata(0, whole))
    Storage().publish_bytes(shard_uri(str(tmp_path), 0), data)
    read = shards.read_shard(str(tmp_path), 0, Storage())
    assert read.select(["key", "source", "caption", "year"]).to_pylist() == [
        {"key": "1", "source": None, "caption": "of 1", "year": None},
        {"key": "2", "source": None, "caption": "of 2", "year": None},
    ]
    assert shards.kept_columns(read.schema) == ["caption", "year"]
    assert [labels.entry.key for labels in shards.iter_labels(read)] == ["1", "2"]
    with pytest.raises(InputError, match="other images than the shard"):
        shards.with_carried(table, images.slice(1))


def test_loose_files_add_nothing_to_a_shard():
    table = shards.labels_to_table([make_labels(1)])
    assert shards.with_carried(table, manifest_table([make_labels(1).entry])) is table
    assert table.column_names == shards.SCHEMA.names
    assert set(shards.unit_metadata(0, table)) == {"unit", "images"}


MISFITS = {
    "a missing column": (lambda t: t.drop_columns(["height"]), "height is missing"),
    "another type": (
        lambda t: with_column(t, pa.field("height", pa.int64()), [None] * len(t)),
        "height is int64, not int32",
    ),
    "nulls allowed": (
        lambda t: with_column(t, pa.field("status", pa.string()), ["ok"] * len(t)),
        "status is nullable",
    ),
    "an unknown column that is not nullable": (
        lambda t: with_column(t, pa.field("x", pa.int8(), nullable=False), [1] * len(t)),
        "x is unknown, and not nullable",
    ),
    "other detections": (
        lambda t: with_column(
            t,
            pa.field(
                "annotations",
                pa.list_(pa.field("item", pa.struct([("score", pa.string())]), nullable=False)),
                nullable=False,
            ),
            [[]] * len(t),
        ),
        "annotations.score is nullable; annotations.category_id is missing",
    ),
    "detections of another kind": (
        lambda t: with_column(
            t, pa.field("annotations", pa.list_(pa.string()), nullable=False), [[]] * len(t)
        ),
        "annotations.category_id is missing",
    ),
}


@pytest.mark.parametrize("case", MISFITS)
def test_known_columns_are_needed_as_they_are(tmp_path, case):
    change, said = MISFITS[case]
    output = _publish(tmp_path, change(shards.labels_to_table(list(ROWS.values()))))
    with pytest.raises(InputError, match="wrong shard format") as caught:
        shards.read_shard(output, 0, Storage())
    assert said in str(caught.value)


def test_rows_that_another_tool_wrote_again_are_told_from_those_that_were_labelled(tmp_path):
    path = tmp_path / "s.parquet"
    table = shards.labels_to_table([make_labels(1), make_labels(2)])
    path.write_bytes(shards.table_to_bytes(table, {"labels_hash": "h"}))
    found = pq.read_table(path)
    shards.check_body(found.schema, path.read_bytes(), "s")
    pq.write_table(found.slice(0, 1), path)  # with all its metadata
    with pytest.raises(InputError, match=r"^s: its rows are not those that were written; delete"):
        shards.check_body(pq.read_schema(path), path.read_bytes(), "s")


def test_a_shard_of_a_version_without_the_digest_says_nothing(tmp_path):
    path = tmp_path / "s.parquet"
    table = shards.labels_to_table([make_labels(1)])
    pq.write_table(table.replace_schema_metadata({"format_version": "1"}), path)
    shards.check_body(pq.read_schema(path), path.read_bytes(), "s")
