"""The profile parquet: a row for every annotation of annotations.json."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ntt_ray.errors import InputError
from ntt_ray.merge import fragments
from ntt_ray.merge.profiles.instance_table import SCHEMA
from ntt_ray.run.layout import shard_uri
from ntt_ray.run.shard import (
    VECTOR,
    labels_to_table,
    table_to_bytes,
    unit_metadata,
    with_embeddings,
)
from ntt_ray.storage import Storage
from tests.support.odd_masks import MASKS
from tests.support.profile_run import CLASSES, labelled_images, merged, uris, write_run


@pytest.fixture
def output(tmp_path):
    write_run(str(tmp_path))
    return tmp_path


def test_rows_are_annotations(output):
    written = merged(output, "coco", "parquet")["parquet"]
    assert list(written.files) == ["instances/part-00001-of-00001.parquet"]
    table = pq.read_table(output / "instances/part-00001-of-00001.parquet")
    assert table.schema.equals(SCHEMA)
    coco = json.loads((output / "annotations.json").read_text())
    files = {image["id"]: image["file_name"] for image in coco["images"]}
    names = {label.category_id: label.name for label in CLASSES}
    for row, annotation in zip(table.to_pylist(), coco["annotations"], strict=True):
        size, counts = annotation["segmentation"]["size"], annotation["segmentation"]["counts"]
        assert (row["instance_id"], row["image_id"]) == (annotation["id"], annotation["image_id"])
        assert row["file_name"] == files[row["image_id"]]
        assert row["category"] == names[annotation["category_id"]]
        assert (row["category_id"], row["score"]) == (
            annotation["category_id"],
            annotation["score"],
        )
        box = [row[f"bbox_{side}"] for side in ("x", "y", "width", "height")]
        assert (box, row["area"]) == (annotation["bbox"], annotation["area"])
        assert ([row["height"], row["width"]], row["counts"]) == (size, counts)
    found = dict.fromkeys(table["uri"].to_pylist())
    assert list(found) == [uri for shard in (0, 1) for uri in uris(shard)][:4]


def test_parts_follow_one_another_and_old_ones_go(output, monkeypatch):
    (name,) = merged(output, "parquet")["parquet"].files
    whole = pq.read_table(output / name)
    monkeypatch.setattr(fragments, "FRAGMENT_BYTES", 1)
    names = merged(output, "parquet")["parquet"].files
    assert len(names) > 1
    left = {f"instances/{path.name}" for path in (output / "instances").iterdir()}
    assert left == set(names)
    assert pq.read_table(output / "instances").equals(whole)
    assert len(whole) == len(MASKS)


def test_without_instances_there_is_a_table_all_the_same(output):
    (name,) = merged(output, "parquet", min_score=1.0)["parquet"].files
    assert pq.read_table(output / name).num_rows == 0
    (name,) = merged(output, "parquet", shard_ids=[])["parquet"].files
    assert pq.read_schema(output / name).equals(SCHEMA)


def test_without_a_manifest_addresses_are_names(output):
    (name,) = merged(output, "parquet", uris=None)["parquet"].files
    table = pq.read_table(output / name)
    assert table["uri"].equals(table["file_name"])


def test_columns_of_packed_images_stand_after_the_others(output):
    images = labelled_images()
    for shard_id, rows in enumerate((images[:3], images[3:])):
        table = labels_to_table(
            [
                replace(i, entry=replace(i.entry, key=i.entry.file_name, source="a.tar"))
                for i in rows
            ]
        )
        years = pa.array(range(len(rows)), pa.int16())
        table = table.append_column(pa.field("area of town", pa.int16()), years)
        data = table_to_bytes(table, unit_metadata(shard_id, table))
        Storage().publish_bytes(shard_uri(str(output), shard_id), data)
    (name,) = merged(output, "parquet")["parquet"].files
    table = pq.read_table(output / name)
    assert table.column_names == [*SCHEMA.names, "key", "source", "area of town"]
    assert table["key"].equals(table["file_name"])
    assert set(table["source"].to_pylist()) == {"a.tar"}
    assert table["area of town"].to_pylist() == [(i - 1) % 3 for i in table["image_id"].to_pylist()]


def test_instances_have_their_embeddings_where_the_run_made_them(output, monkeypatch):
    images, vectors = [], iter(np.arange(400, dtype=np.float32).reshape(100, 4))
    for image in labelled_images():
        found = tuple(replace(d, embedding=next(vectors)) for d in image.detections)
        images.append(replace(image, detections=found))
    for shard_id, rows in enumerate((images[:3], images[3:])):
        table = with_embeddings(rows)
        data = table_to_bytes(table, unit_metadata(shard_id, table, embedded=True))
        Storage().publish_bytes(shard_uri(str(output), shard_id), data)
    scores = [d.score for image in images for d in image.detections]
    least = sorted(scores)[len(scores) // 2]
    (name,) = merged(output, "parquet", min_score=least)["parquet"].files
    table = pq.read_table(output / name)
    assert table.schema.equals(SCHEMA.append(pa.field("embedding", VECTOR)))
    kept = [d for image in images for d in image.detections if d.score >= least]
    assert 0 < len(kept) < len(scores)
    assert table["embedding"].to_pylist() == [d.embedding.tolist() for d in kept]
    assert table["score"].to_pylist() == [d.score for d in kept]
    monkeypatch.setattr(fragments, "FRAGMENT_BYTES", 2 * fragments.EMBEDDING_BYTES)
    names = merged(output, "parquet", min_score=least)["parquet"].files
    assert len(names) > 1  # by what embeddings weigh; of masks alone it would be one
    assert pq.read_table(output / "instances").equals(table)


def test_an_image_with_fewer_embeddings_than_annotations_is_damaged(output):
    images = labelled_images()[:1]
    table = with_embeddings(images)
    column = pa.array([[]], table["embeddings"].type)
    table = table.set_column(table.column_names.index("embeddings"), "embeddings", column)
    data = table_to_bytes(table, unit_metadata(0, table, embedded=True))
    Storage().publish_bytes(shard_uri(str(output), 0), data)
    with pytest.raises(InputError, match="another number of embeddings than of annotations"):
        merged(output, "parquet", shard_ids=[0])


def test_credentials_stay_out(output):
    def signed(shard_id):
        return [f"{uri}?v=1&X-Amz-Signature=abc" for uri in uris(shard_id)]

    (name,) = merged(output, "parquet", uris=signed)["parquet"].files
    found = pq.read_table(output / name)["uri"].to_pylist()
    assert found[0] == "s3://bucket/photos/deep/er/img 1.jpg?v=1"
