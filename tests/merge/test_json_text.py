"""Rendered columns against Python's json, value by value."""

import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntt_ray.errors import InputError
from ntt_ray.merge.instances import flat_instances
from ntt_ray.merge.json_text import annotation_texts, float_texts, image_texts, result_texts
from ntt_ray.records import ImageEntry, ImageLabels
from ntt_ray.run.shard import labels_to_row, labels_to_table
from tests.support.run_files import make_labels

float32 = st.floats(width=32, allow_nan=False, allow_infinity=False)


@pytest.mark.parametrize(
    "values",
    [
        [],
        [0.0, 1.0, 639.0],
        [0.5, 1.0, 1e-5, 0.0001, 0.00012],
        [-0.0, -1.0, -0.25],
        [1e15, 1e16, 1e22, 123456789.125],
    ],
    ids=["none", "whole", "scores", "negative", "large"],
)
def test_floats_are_printed_as_python_does(values):
    assert float_texts(np.array(values, float)).to_pylist() == [repr(float(v)) for v in values]


@given(st.lists(float32, max_size=20))
def test_any_float_is_printed_as_python_does(values):
    assert float_texts(np.array(values, float)).to_pylist() == [repr(v) for v in values]


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=20))
def test_scores_are_rounded_as_python_does(scores):
    rows = pa.RecordBatch.from_pylist([labels_to_row(make_labels(1, (0.5,)))])
    flat = flat_instances(rows)
    table = pa.concat_tables([flat] * len(scores))
    where = table.schema.get_field_index("score")
    table = table.set_column(where, "score", pa.array(scores, pa.float32()))
    texts = result_texts(table).to_pylist()
    shown = [text.split('"score":')[1].split(",")[0] for text in texts]
    assert shown == [json.dumps(round(score, 7)) for score in scores]


def _batch(*labels):
    (batch,) = labels_to_table(labels).to_batches()
    return batch


def test_names_are_escaped_and_images_without_a_size_left_out():
    rows = _batch(
        make_labels(1, name='ünï "x"\\\n.jpg'),
        ImageLabels.failed(ImageEntry(2, "b.jpg", ""), "no image"),
        make_labels(3, (), (9, 7)),
    )
    texts = image_texts(rows).to_pylist()
    assert all(text.startswith(",\n") and text.isascii() for text in texts)
    assert [json.loads(text[2:]) for text in texts] == [
        {"file_name": 'ünï "x"\\\n.jpg', "height": 6, "id": 1, "width": 8},
        {"file_name": "img/3.jpg", "height": 9, "id": 3, "width": 7},
    ]


def test_backslashes_of_an_rle_are_escaped():
    row = labels_to_row(make_labels(1, (0.5, 0.25)))
    row["annotations"][0]["counts"] = "0\\o\\\\"
    (batch,) = pa.Table.from_pylist([row], schema=labels_to_table([]).schema).to_batches()
    first, second = (
        json.loads(text[2:]) for text in annotation_texts(flat_instances(batch), 5).to_pylist()
    )
    assert first["segmentation"]["counts"] == "0\\o\\\\"
    assert (first["id"], second["id"]) == (5, 6)


@pytest.mark.parametrize("counts", ['0"1', "0\n1", "0p1", "0é1"])
def test_what_is_no_rle_is_refused(counts):
    row = labels_to_row(make_labels(1, (0.5,)))
    row["annotations"][0]["counts"] = counts
    (batch,) = pa.Table.from_pylist([row], schema=labels_to_table([]).schema).to_batches()
    with pytest.raises(InputError, match="not a compressed COCO RLE"):
        result_texts(flat_instances(batch))


def test_an_instance_in_an_image_without_a_size_is_refused():
    row = labels_to_row(make_labels(1, (0.5,))) | {"height": None, "width": None}
    (batch,) = pa.Table.from_pylist([row], schema=labels_to_table([]).schema).to_batches()
    with pytest.raises(InputError, match="without a size"):
        annotation_texts(flat_instances(batch), 1)
