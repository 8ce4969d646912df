"""Kept proposals as rows of a table: one for each image, with lists in the order of the points.

Defines the columns of a proposal shard. Rows come `ROWS_AT_ONCE` together, in the order of the
manifest; `run.proposal_shard` knows the file that holds them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ntt_ray.proposals.kept import ImageProposals, KeptView
from ntt_ray.records import ImageEntry, View

ROWS_AT_ONCE = 32  # images of a row group: of published models some tens of megabytes
_VIEW = pa.struct([(name, pa.int32()) for name in ("left", "top", "width", "height")])
_VIEW_FEATURE = "view_feature"  # the only column that a table may lack
_LISTS: dict[str, pa.DataType] = {
    "view": pa.uint16(),
    "box": pa.list_(pa.uint16(), 4),
    "point": pa.int32(),
    "predicted_iou": pa.float32(),
    "area": pa.int64(),
    "counts": pa.string(),
}


def proposal_schema(channels: int) -> pa.Schema:
    """The columns of proposals whose features have so many channels, 2 bytes each.

    ``view`` says for each proposal which of the image's ``views`` it lies in; ``box`` is x1, y1,
    x2, y2 in pixels of the low-resolution mask, inclusive; ``counts`` is the mask at the size of
    the view; ``feature`` are little-endian int16, see `fixed_point`; and ``view_feature`` are
    those of ``views`` as a whole, null where they were not kept: tables of older versions lack it.
    """
    features = pa.binary(2 * channels)
    return pa.schema(
        [
            pa.field("image_id", pa.int64(), nullable=False),
            pa.field("file_name", pa.string(), nullable=False),
            pa.field("height", pa.int32()),
            pa.field("width", pa.int32()),
            pa.field("status", pa.string(), nullable=False),
            pa.field("error", pa.string()),
            pa.field("failure", pa.string()),
            pa.field("notes", pa.list_(pa.string())),
            pa.field("views", _list_of(_VIEW), nullable=False),
            *(pa.field(name, _list_of(kind), nullable=False) for name, kind in _LISTS.items()),
            pa.field("feature", _list_of(features), nullable=False),
            pa.field(_VIEW_FEATURE, _list_of(features)),
        ]
    )


def _list_of(kind: pa.DataType) -> pa.DataType:
    return pa.list_(pa.field("item", kind, nullable=False))


def channels_of(schema: pa.Schema) -> int:
    """How many channels the features of a table have.

    Raises:
        ValueError: it is not a table of proposals.
    """
    kind = pa.null()
    if "feature" in schema.names and pa.types.is_list(schema.field("feature").type):
        kind = schema.field("feature").type.value_type
    channels = kind.byte_width // 2 if pa.types.is_fixed_size_binary(kind) else 0
    found = {name: schema.field(name) for name in schema.names}
    wanted = {field.name: field for field in proposal_schema(channels)}
    found.setdefault(_VIEW_FEATURE, wanted[_VIEW_FEATURE])
    wrong = [n for n, field in wanted.items() if n not in found or found[n] != field]
    wrong += [] if pa.types.is_fixed_size_binary(kind) else ["feature"]
    if wrong:
        raise ValueError(f"not the columns of proposals: {', '.join(dict.fromkeys(wrong))}")
    return channels


def completed(table: pa.Table) -> pa.Table:
    """A table of an older version, with nulls in the column that it may lack."""
    if _VIEW_FEATURE in table.column_names:
        return table
    field = proposal_schema(channels_of(table.schema)).field(_VIEW_FEATURE)
    return table.append_column(field, pa.nulls(len(table), field.type))


def to_table(rows: Sequence[ImageProposals], channels: int) -> pa.Table:
    """Rows of a unit as a table of `proposal_schema`."""
    parts = [rows[start : start + ROWS_AT_ONCE] for start in range(0, len(rows), ROWS_AT_ONCE)]
    schema = proposal_schema(channels)
    batches = [_batch(part, schema, channels) for part in parts]
    return pa.Table.from_batches(batches, schema=schema)


def _batch(rows: Sequence[ImageProposals], schema: pa.Schema, channels: int) -> pa.RecordBatch:
    kept = [view for row in rows for view in row.views]
    of_row = [sum(map(len, row.views)) for row in rows]
    offsets = pa.array(np.cumsum([0, *of_row]), pa.int32())
    numbers = [np.full(len(v), n, np.uint16) for row in rows for n, v in enumerate(row.views)]
    boxes = _joined([view.boxes_xyxy for view in kept], np.uint16, 4)
    features = np.ascontiguousarray(
        _joined([view.features for view in kept], np.int16, channels), "<i2"
    )
    values: dict[str, pa.Array] = {
        "view": pa.array(_joined(numbers, np.uint16)),
        "box": pa.FixedSizeListArray.from_arrays(pa.array(boxes.ravel()), 4),
        "point": pa.array(_joined([view.points for view in kept], np.int32)),
        "predicted_iou": pa.array(_joined([view.predicted_iou for view in kept], np.float32)),
        "area": pa.array(_joined([view.areas for view in kept], np.int64)),
        "counts": pa.array([text for view in kept for text in view.counts], pa.string()),
        "feature": pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(2 * channels), len(features), [None, pa.py_buffer(features)]
        ),
    }
    plain = [
        {
            "image_id": row.entry.image_id,
            "file_name": row.entry.file_name,
            "height": row.height,
            "width": row.width,
            "status": row.status,
            "error": row.error,
            "failure": row.failure,
            "notes": list(row.notes) or None,
            "views": [
                {"left": v.left, "top": v.top, "width": v.width, "height": v.height}
                for v in (kept.view for kept in row.views)
            ],
            _VIEW_FEATURE: _means(row.views),
        }
        for row in rows
    ]
    columns = [
        pa.array([row[field.name] for row in plain], field.type)
        if field.name in plain[0]
        else pa.ListArray.from_arrays(offsets, values[field.name], type=field.type)
        for field in schema
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _means(views: Sequence[KeptView]) -> list[bytes] | None:
    found = [v.mean_feature.astype("<i2").tobytes() for v in views if v.mean_feature is not None]
    return found if len(found) == len(views) else None


def _joined(arrays: Sequence[npt.NDArray[Any]], dtype: Any, *inner: int) -> npt.NDArray[Any]:
    return np.concatenate([np.zeros((0, *inner), dtype), *arrays])


def iter_images(batch: pa.RecordBatch) -> Iterator[ImageProposals]:
    """The inverse of `to_table`, for the rows of a batch.

    Raises:
        ValueError: a row contradicts itself: it was not written by this package.
    """
    channels = channels_of(batch.schema)
    lists = {name: batch.column(name) for name in (*_LISTS, "feature")}
    offsets = {name: column.offsets.to_numpy() for name, column in lists.items()}
    starts = [own - own[0] for own in offsets.values()]
    if any((own != starts[0]).any() for own in starts):
        raise ValueError("the lists of an image have different lengths")
    values = {name: column.flatten() for name, column in lists.items()}
    arrays: dict[str, npt.NDArray[Any]] = {
        name: values[name].to_numpy() for name in ("view", "point", "predicted_iou", "area")
    }
    arrays["box"] = values["box"].flatten().to_numpy().reshape(-1, 4)
    arrays["feature"] = _bytes_of(values["feature"], channels)
    counts = values["counts"].to_pylist()
    names = [name for name in batch.schema.names if name not in lists]
    for number, row in enumerate(batch.select(names).to_pylist()):
        own = slice(starts[0][number], starts[0][number + 1])
        inside = {name: array[own] for name, array in arrays.items()}
        yield _image(row, inside, counts[own])


def _bytes_of(features: pa.FixedSizeBinaryArray, channels: int) -> npt.NDArray[np.int16]:
    width = features.type.byte_width
    start = features.offset * width
    data = memoryview(features.buffers()[1] or b"")[start : start + len(features) * width]
    return np.frombuffer(data, "<i2").reshape(len(features), channels).astype(np.int16, copy=False)


def _image(
    row: dict[str, Any], arrays: dict[str, npt.NDArray[Any]], counts: Sequence[str]
) -> ImageProposals:
    owner = arrays["view"]
    if len(owner) and int(owner.max()) >= len(row["views"]):
        raise ValueError(f"image {row['image_id']}: a proposal lies in no view")
    means = row.get(_VIEW_FEATURE)
    if means is None:
        means = [None] * len(row["views"])
    if len(means) != len(row["views"]):
        raise ValueError(f"image {row['image_id']}: not as many features of views as views")
    views = []
    for number, (rectangle, mean) in enumerate(zip(row["views"], means, strict=True)):
        own = np.flatnonzero(owner == number)
        views.append(
            KeptView(
                view=View(**rectangle),
                boxes_xyxy=arrays["box"][own],
                points=arrays["point"][own],
                predicted_iou=arrays["predicted_iou"][own],
                areas=arrays["area"][own],
                counts=tuple(counts[position] for position in own.tolist()),
                features=arrays["feature"][own],
                mean_feature=None if mean is None else np.frombuffer(mean, "<i2").astype(np.int16),
            )
        )
    return ImageProposals(
        entry=ImageEntry(row["image_id"], row["file_name"], ""),
        status=row["status"],
        height=row["height"],
        width=row["width"],
        error=row["error"],
        views=tuple(views),
        failure=row["failure"],
        notes=tuple(row["notes"] or ()),
    )
