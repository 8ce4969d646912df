import dataclasses

import numpy as np
import pyarrow as pa
import pytest

from ntt_ray.proposals.kept import ImageProposals
from ntt_ray.proposals.table import (
    ROWS_AT_ONCE,
    channels_of,
    completed,
    iter_images,
    proposal_schema,
    to_table,
)
from tests.support.kept_rows import four_rows, random_view


def plain(image: ImageProposals):
    def of(value):
        return value.tolist() if isinstance(value, np.ndarray) else value

    views = [{k: of(v) for k, v in vars(kept).items()} for kept in image.views]
    own = {f.name: getattr(image, f.name) for f in dataclasses.fields(image)}
    return {**own, "views": views}


@pytest.mark.parametrize("times", [1, ROWS_AT_ONCE])
def test_rows_come_back_as_they_were(times):
    wanted = four_rows() * times
    table = to_table(wanted, 6)
    assert channels_of(table.schema) == 6
    assert table.num_rows == len(wanted)
    found = [image for batch in table.to_batches() for image in iter_images(batch)]
    assert [plain(image) for image in found] == [plain(image) for image in wanted]
    (sliced,) = iter_images(table.slice(2, 1).combine_chunks().to_batches()[0])
    assert plain(sliced) == plain(wanted[2])


def test_tables_of_older_versions_know_no_features_of_views():
    wanted = four_rows()
    old = to_table(wanted, 6).drop_columns("view_feature")
    assert channels_of(old.schema) == 6
    (batch,) = old.to_batches()
    assert {v.mean_feature for image in iter_images(batch) for v in image.views} == {None}
    new = completed(old)
    assert new.schema == proposal_schema(6)
    assert new.drop_columns("view_feature").equals(old)
    assert completed(new) is new
    without = [
        dataclasses.replace(
            row, views=tuple(dataclasses.replace(view, mean_feature=None) for view in row.views)
        )
        for row in wanted
    ]
    (again,) = to_table(without, 6).to_batches()
    assert [plain(image) for image in iter_images(again)] == [plain(image) for image in without]


def test_images_without_proposals_have_rows_too():
    table = to_table(four_rows()[1:2], 6)
    assert [image.status for image in iter_images(table.to_batches()[0])] == ["failed"]


def test_other_tables_are_refused():
    with pytest.raises(ValueError, match="not the columns of proposals: feature"):
        channels_of(proposal_schema(4).remove(proposal_schema(4).names.index("feature")))
    place = proposal_schema(4).names.index("point")
    other = proposal_schema(4).set(place, pa.field("point", pa.int64()))
    with pytest.raises(ValueError, match="not the columns of proposals: point"):
        channels_of(other)


def test_damaged_rows_are_refused():
    (batch,) = to_table(four_rows()[:3], 6).to_batches()
    column = batch.schema.names.index("view")
    outside = pa.array([[5] * len(item) for item in batch["view"].to_pylist()])
    columns = list(batch.columns)
    columns[column] = outside.cast(batch.schema.field("view").type)
    wrong = pa.RecordBatch.from_arrays(columns, schema=batch.schema)
    with pytest.raises(ValueError, match="image 1: a proposal lies in no view"):
        list(iter_images(wrong))
    place = batch.schema.names.index("view_feature")
    fewer = pa.array([None, None, [b"x" * 12]]).cast(batch.schema.field("view_feature").type)
    wrong = batch.set_column(place, batch.schema.field(place), fewer)
    with pytest.raises(ValueError, match="image 3: not as many features of views as views"):
        list(iter_images(wrong))
    columns[column] = pa.array([[0], [], []]).cast(batch.schema.field("view").type)
    wrong = pa.RecordBatch.from_arrays(columns, schema=batch.schema)
    with pytest.raises(ValueError, match="different lengths"):
        list(iter_images(wrong))


WRONG = {
    "boxes_xyxy": np.zeros((2, 4), np.int32),
    "points": np.zeros(3, np.int32),
    "predicted_iou": np.zeros(2),
    "features": np.zeros((2, 6)),
    "mean_feature": np.zeros(5, np.int16),
}


@pytest.mark.parametrize("name", WRONG)
def test_records_check_their_fields(name):
    with pytest.raises(ValueError, match=f"{name} must be"):
        dataclasses.replace(random_view(2), **{name: WRONG[name]})


@pytest.mark.parametrize(
    "change", [{"error": "x"}, {"status": "empty"}, {"status": "failed"}, {"views": ()}]
)
def test_a_row_agrees_with_its_status(change):
    with pytest.raises(ValueError, match="status"):
        dataclasses.replace(four_rows()[0], **change)
