"""The profile ``parquet``: a flat table of instances, one row each, for DuckDB, Spark and others.

``instances/part-00001-of-00012.parquet`` and so on, in the order of ``annotations.json`` and with
its ids. The masks are the compressed RLEs of the shards. Of packed images there are ``key`` and
``source`` too, and the columns that were kept of a table, as in the shards.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ntt_ray import storage
from ntt_ray.merge.digests import FileDigest
from ntt_ray.merge.fragments import KEPT, Fragment
from ntt_ray.merge.instances import annotation_columns, flat_instances
from ntt_ray.merge.rendering import Merge, Source, Written, iter_rows
from ntt_ray.records import ClassLabel
from ntt_ray.run.layout import INSTANCES_FOLDER, PART, part_name

_ANNOTATION = ("category_id", "score", "predicted_iou", "bbox.list.element", "area", "counts")
_IMAGE = ("image_id", "file_name", "uri", "height", "width")
_COLUMNS = (*_IMAGE, *annotation_columns(*_ANNOTATION))
_BOX = ("bbox_x", "bbox_y", "bbox_width", "bbox_height")
SCHEMA = pa.schema(
    [
        pa.field("instance_id", pa.int64()),
        pa.field("image_id", pa.int64()),
        pa.field("file_name", pa.string()),
        pa.field("uri", pa.string()),
        pa.field("height", pa.int32()),
        pa.field("width", pa.int32()),
        pa.field("category_id", pa.int32()),
        pa.field("category", pa.string()),
        *(pa.field(name, pa.float32()) for name in ("score", "predicted_iou", *_BOX)),
        pa.field("area", pa.int64()),
        pa.field("counts", pa.string()),
    ]
)


def write_table(merge: Merge) -> Written:
    """Write the parts; of an earlier merge with other parts nothing stays."""
    fragments = merge.layout.fragments(KEPT, 0, merge.layout.rows, 1) or [Fragment((), 1, 0)]
    names = [part_name(number, len(fragments)) for number in range(1, len(fragments) + 1)]
    parts = list(zip(names, fragments, strict=True))
    source = merge.source
    source.store.discard_unfinished(storage.join(source.target, INSTANCES_FOLDER), PART)
    some = fragments[0].slices
    carried = tuple(source.carried(some[0].shard_id)) if some else ()
    work = partial(publish_part, source=source, classes=merge.classes, carried=carried)
    files = dict(zip(names, merge.mapped(work, parts, fragments), strict=True))
    source.delete_others(PART, files, INSTANCES_FOLDER)
    return Written(files)


def publish_part(
    part: tuple[str, Fragment],
    source: Source,
    classes: Sequence[ClassLabel],
    carried: Sequence[pa.Field] = (),
) -> FileDigest:
    """Publish a part, by its name and its rows, with columns that are carried; gives its digest."""
    name, fragment = part
    schema = pa.schema([*SCHEMA, *carried])
    columns = (*_COLUMNS, *(field.name for field in carried))
    tables, next_id = [schema.empty_table()], fragment.first_id
    for piece in fragment.slices:
        for rows in iter_rows(piece, columns, source):
            instances = flat_instances(rows, source.thresholds)
            tables.append(_table(instances, next_id, classes, schema))
            next_id += len(tables[-1])
    sink = io.BytesIO()
    pq.write_table(pa.concat_tables(tables), sink, compression="zstd")
    return source.publish(name, sink.getvalue())


def _table(
    instances: pa.Table, first_id: int, classes: Sequence[ClassLabel], schema: pa.Schema
) -> pa.Table:
    names = {label.category_id: label.name for label in classes}
    boxes = instances.column("bbox").combine_chunks().flatten().to_numpy().reshape(-1, 4)
    added = {
        "instance_id": np.arange(first_id, first_id + len(instances)),
        "category": [names.get(c) for c in instances.column("category_id").to_pylist()],
        **{name: np.ascontiguousarray(boxes[:, side]) for side, name in enumerate(_BOX)},
    }
    columns = [
        pa.array(added[field.name], field.type)
        if field.name in added
        else instances.column(field.name).cast(field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)
