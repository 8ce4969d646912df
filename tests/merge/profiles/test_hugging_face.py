"""The profile hf: a row for each image, with lists of its objects."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ntt_ray.merge import fragments
from ntt_ray.merge.profiles.hugging_face import schema_of
from ntt_ray.run.layout import MERGED_FILE
from tests.support.profile_run import (
    CLASSES,
    in_tars,
    labelled_images,
    merged,
    uris,
    write_packed,
    write_run,
)


@pytest.fixture
def output(tmp_path):
    write_run(str(tmp_path))
    return tmp_path


def test_objects_are_annotations(output):
    (name,) = merged(output, "coco", "hf")["hf"].files
    assert name == "hf/data/train-00000-of-00001.parquet"
    assert MERGED_FILE.fullmatch(name)
    rows = pq.read_table(output / name).to_pylist()
    coco = json.loads((output / "annotations.json").read_text())
    names = {label.category_id: label.name for label in CLASSES}
    found = []
    for row in rows:
        objects = row["objects"]
        assert {len(values) for values in objects.values()} == {len(objects["id"])}
        for n in range(len(objects["id"])):
            one = {key: values[n] for key, values in objects.items()}
            assert CLASSES[one["category"]].name == names[one["category_id"]]
            found.append({**one, "row": row})
    for one, annotation in zip(found, coco["annotations"], strict=True):
        assert (one["id"], one["row"]["image_id"]) == (annotation["id"], annotation["image_id"])
        for key in ("area", "bbox", "category_id", "score"):
            assert one[key] == annotation[key]
        size = [one["row"]["height"], one["row"]["width"]]
        assert {"size": size, "counts": one["counts"]} == annotation["segmentation"]
    assert [row["uri"] for row in rows] == [uri for shard in (0, 1) for uri in uris(shard)]


def test_every_image_has_a_row(output):
    (name,) = merged(output, "hf")["hf"].files
    rows = pq.read_table(output / name).to_pylist()
    assert [row["image_id"] for row in rows] == [i.entry.image_id for i in labelled_images()]
    empty, failed = rows[-2:]
    assert (empty["status"], empty["objects"]["id"], empty["height"]) == ("empty", [], 40)
    assert (failed["status"], failed["error"], failed["height"]) == ("failed", "truncated", None)
    assert failed["objects"]["counts"] == []


def test_packed_images_have_key_and_source(tmp_path):
    shards = write_packed(tmp_path, in_tars)
    (name,) = merged(tmp_path, "hf", shard_ids=shards, uris=None)["hf"].files
    rows = pq.read_table(tmp_path / name).to_pylist()
    for number, row in enumerate(rows):
        assert (row["source"], row["key"]) == in_tars(number, row["file_name"])


def test_parts_follow_one_another_and_old_ones_go(output, monkeypatch):
    (name,) = merged(output, "hf")["hf"].files
    whole = pq.read_table(output / name)
    monkeypatch.setattr("ntt_ray.run.shard.BATCH_ROWS", 1)
    merged(output, "hf")
    assert pq.read_table(output / name).equals(whole)
    monkeypatch.setattr(fragments, "FRAGMENT_BYTES", 1)
    names = merged(output, "hf")["hf"].files
    assert len(names) > 2
    assert {f"hf/data/{path.name}" for path in (output / "hf" / "data").iterdir()} == set(names)
    assert pq.read_table(output / "hf" / "data").equals(whole)


def test_without_images_there_is_a_table_all_the_same(output):
    (name,) = merged(output, "hf", shard_ids=[])["hf"].files
    assert pq.read_table(output / name).schema.equals(schema_of(CLASSES, ()))


def test_kept_columns_have_their_types():
    kept = [pa.field("taken", pa.float64()), pa.field("cm", pa.float32())]
    schema = schema_of(CLASSES, kept)
    features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    assert list(features) == schema.names
    objects = [field.name for field in schema.field("objects").type]
    assert list(features["objects"]) == objects  # in another order, datasets takes no features
    assert (features["taken"]["dtype"], features["cm"]["dtype"]) == ("float64", "float32")
