"""Shards with columns that this version does not know, or that are not as it knows them."""

from __future__ import annotations

import pyarrow as pa

from ntt_ray.run.shard import ANNOTATION

UNKNOWN = pa.field("sharpness", pa.float32())


def with_column(table: pa.Table, field: pa.Field, values: list[object]) -> pa.Table:
    """The table with one more column, or another one of that name."""
    if field.name in table.column_names:
        index = table.column_names.index(field.name)
        return table.set_column(index, field, pa.array(values, field.type))
    return table.append_column(field, pa.array(values, field.type))


def with_unknown_columns(table: pa.Table) -> pa.Table:
    """With a nullable column more in the rows, and one in the detections."""
    fields = [*(ANNOTATION.field(i) for i in range(ANNOTATION.num_fields)), UNKNOWN]
    kind = pa.list_(pa.field("item", pa.struct(fields), nullable=False))
    annotations = pa.field("annotations", kind, nullable=False)
    rows = table["annotations"].to_pylist()
    for row in rows:
        for number, item in enumerate(row):
            item["sharpness"] = None if number else 0.5
    return with_column(with_column(table, annotations, rows), UNKNOWN, [0.25] * len(table))
