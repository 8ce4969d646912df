r"""Columns to JSON texts, one for each image or instance, some hundred thousand a second.

Defines the exact bytes of COCO's images, annotations and results: keys sorted, no blanks, ASCII,
numbers as Python's ``json`` prints them. Each text starts with ``",\n"``, so that texts that lie
one after another in memory are a piece of a JSON list. It does not know files.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ntt_ray.errors import InputError

BETWEEN = ",\n"
SCORE_STEP = 1e7  # float32 has about 7 digits
_RLE_FIRST, _RLE_LAST = ord("0"), ord("o")  # COCO's alphabet for compressed counts
_EXACT = 1e15  # whole numbers below it print without an exponent
_SMALL = 1e-4  # Python prints an exponent below it


def image_texts(rows: pa.RecordBatch) -> pa.StringArray:
    """COCO images of rows with ``image_id``, ``file_name``, ``height`` and ``width``.

    Rows without a size (failed images) are left out.
    """
    rows = rows.filter(pc.is_valid(rows.column("height")))
    names = pa.array([json.dumps(name) for name in rows.column("file_name").to_pylist()], "string")
    return _joined(
        f'{BETWEEN}{{"file_name":', names,
        ',"height":', _text(rows, "height"),
        ',"id":', _text(rows, "image_id"),
        ',"width":', _text(rows, "width"),
        "}",
    )  # fmt: skip


def annotation_texts(
    instances: pa.Table, first_id: int, polygons: pa.StringArray | None = None
) -> pa.StringArray:
    """COCO annotations of a flat table (`instances.flat_instances`), with ids from `first_id`.

    Args:
        instances: the table.
        first_id: id of the first annotation.
        polygons: JSON texts that are the segmentations, instead of the RLEs.
    """
    ids = pa.array(np.arange(first_id, first_id + len(instances)))
    return _joined(
        f'{BETWEEN}{{"area":', _text(instances, "area"),
        *_box_and_class(instances),
        ',"id":', pc.cast(ids, pa.string()),
        ',"image_id":', _text(instances, "image_id"),
        ',"iscrowd":0',
        *_score_and_mask(instances, polygons),
    )  # fmt: skip


def result_texts(instances: pa.Table) -> pa.StringArray:
    """COCO results of a flat table."""
    box, *rest = _box_and_class(instances)
    return _joined(
        f"{BETWEEN}{{{box[1:]}", *rest,
        ',"image_id":', _text(instances, "image_id"),
        *_score_and_mask(instances),
    )  # fmt: skip


def float_texts(values: npt.NDArray[np.float64]) -> pa.StringArray:
    """Floats as Python prints them: ``2.0``, ``0.25``, ``1e-05``.

    Raises:
        InputError: one is not finite, which JSON does not know.
    """
    digits, ending = _digits(values)
    return pc.binary_join_element_wise(digits, ending, "") if ending else digits


def _digits(values: npt.NDArray[np.float64]) -> tuple[pa.StringArray, str]:
    """As `float_texts`; what all of them end in may be left out, and stands beside them."""
    if not np.isfinite(values).all():
        raise InputError("a score or a box is not a finite number; the shard is damaged")
    whole = values == np.rint(values)
    if whole.all() and not np.signbit(values).any() and (values < _EXACT).all():
        return pc.cast(pa.array(values.astype(np.int64)), pa.string()), ".0"
    texts = pc.cast(pa.array(values), pa.string())
    special = whole | (np.abs(values) < _SMALL) | (np.abs(values) >= _EXACT)
    if not special.any():
        return texts, ""
    replaced = pa.array([repr(value) for value in values[special].tolist()], pa.string())
    return pc.replace_with_mask(texts, pa.array(special), replaced), ""


def _box_and_class(instances: pa.Table) -> list[Any]:
    boxes = instances.column("bbox").combine_chunks().flatten().to_numpy().astype(np.float64)
    x, y, width, height = (_digits(side) for side in boxes.reshape(-1, 4).T)
    sides = [x[0], f"{x[1]},", y[0], f"{y[1]},", width[0], f"{width[1]},", height[0]]
    return [',"bbox":[', *sides, f'{height[1]}],"category_id":', _text(instances, "category_id")]


def score_texts(instances: pa.Table) -> pa.StringArray:
    """The scores of a flat table, to 7 digits behind the point."""
    scores = instances.column("score").to_numpy().astype(np.float64)
    # a float32 times 10^7 is exact in float64, so this rounds as Python's round(score, 7) does
    return float_texts(np.rint(scores * SCORE_STEP) / SCORE_STEP)


def _score_and_mask(instances: pa.Table, polygons: pa.StringArray | None = None) -> list[Any]:
    score = [',"score":', score_texts(instances)]
    if polygons is not None:
        return [*score, ',"segmentation":', polygons, "}"]
    counts = _counts(instances.column("counts").combine_chunks())
    height, width = _text(instances, "height"), _text(instances, "width")
    head, middle = ',"segmentation":{"counts":"', '","size":['
    return [*score, head, counts, middle, height, ",", width, "]}}"]


def _counts(counts: pa.StringArray) -> pa.StringArray:
    """The insides of JSON strings: of COCO's alphabet only the backslash needs an escape."""
    _, offsets, data = counts.buffers()
    if len(counts) and data is not None:
        ends = np.frombuffer(offsets, np.int32)[counts.offset : counts.offset + len(counts) + 1]
        characters = np.frombuffer(data, np.uint8)[ends[0] : ends[-1]]
        if (characters < _RLE_FIRST).any() or (characters > _RLE_LAST).any():
            raise InputError("a mask's counts are not a compressed COCO RLE; the shard is damaged")
    return pc.replace_substring(counts, "\\", "\\\\")


def _text(table: pa.Table | pa.RecordBatch, name: str) -> Any:
    column = table.column(name)
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return pc.cast(column, pa.string())


def _joined(*parts: Any) -> pa.StringArray:
    """Texts and columns of texts put together, element by element."""
    texts = pc.binary_join_element_wise(*parts, "")
    if texts.null_count:
        raise InputError("an instance lies in an image without a size; the shard is damaged")
    return texts
