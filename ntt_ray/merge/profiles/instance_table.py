"""The profile ``parquet``: a flat table of instances, one row each, for DuckDB, Spark and others.

``instances/part-00001-of-00012.parquet`` and so on, in the order of ``annotations.json`` and with
its ids; a part holds instances of at most `images_per_file` images. The masks are the compressed
RLEs of the shards. Of packed images there are ``key`` and ``source`` too, and the columns that were
kept of a table, as in the shards; and an ``embedding`` where the run made them.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ntt_ray import storage
from ntt_ray.errors import InputError
from ntt_ray.merge.digests import FileDigest
from ntt_ray.merge.fragments import EMBEDDED, KEPT, Fragment, Measure
from ntt_ray.merge.instances import annotation_columns, flat_instances
from ntt_ray.merge.profiles.coco import split
from ntt_ray.merge.rendering import Merge, Source, Written, iter_rows
from ntt_ray.records import ClassLabel
from ntt_ray.run.layout import COCO_FILE, INSTANCES_FOLDER, PART, part_name, shard_name
from ntt_ray.run.shard import VECTOR

_ANNOTATION = ("category_id", "score", "predicted_iou", "bbox.list.element", "area", "counts")
_IMAGE = ("image_id", "file_name", "uri", "height", "width")
_COLUMNS = (*_IMAGE, *annotation_columns(*_ANNOTATION))
_BOX = ("bbox_x", "bbox_y", "bbox_width", "bbox_height")
_EMBEDDING = pa.field("embedding", VECTOR)
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
    first = merge.layout.shard_ids[:1]
    embedded = any(merge.source.embedded(shard_id) for shard_id in first)
    fragments = _fragments(merge, EMBEDDED if embedded else KEPT) or [Fragment((), 1, 0)]
    names = [part_name(number, len(fragments)) for number in range(1, len(fragments) + 1)]
    parts = list(zip(names, fragments, strict=True))
    source = merge.source
    source.store.discard_unfinished(storage.join(source.target, INSTANCES_FOLDER), PART)
    some = fragments[0].slices
    carried = tuple(source.carried(some[0].shard_id)) if some else ()
    work = partial(
        publish_part, source=source, classes=merge.classes, carried=carried, embedded=embedded
    )
    items = [fragment.items for fragment in fragments]
    files = dict(zip(names, merge.mapped(work, parts, items), strict=True))
    source.delete_others(PART, files, INSTANCES_FOLDER)
    return Written(files)


def _fragments(merge: Merge, measure: Measure) -> list[Fragment]:
    found: list[Fragment] = []
    for _, start, stop in split(merge, COCO_FILE):
        next_id = found[-1].first_id + found[-1].items if found else 1
        found += merge.layout.fragments(measure, start, stop, next_id)
    return found


def publish_part(
    part: tuple[str, Fragment],
    source: Source,
    classes: Sequence[ClassLabel],
    carried: Sequence[pa.Field] = (),
    embedded: bool = False,
) -> FileDigest:
    """Publish a part, by its name and its rows; gives its digest.

    Args:
        part: name and rows.
        source: the shards.
        classes: the classes of the merged files.
        carried: columns of the shards that instances have of their image.
        embedded: whether instances have their embeddings.
    """
    name, fragment = part
    schema = pa.schema([*SCHEMA, *carried, *([_EMBEDDING] if embedded else [])])
    columns = (*_COLUMNS, *(field.name for field in carried), *(["embeddings"] * embedded))
    tables, next_id = [schema.empty_table()], fragment.first_id
    for piece in fragment.slices:
        for rows in iter_rows(piece, columns, source):
            try:
                instances = flat_instances(rows, source.thresholds, embedded=embedded)
            except ValueError as error:
                unit = shard_name(piece.shard_id)
                raise InputError(f"{unit}: damaged shard ({error})") from None
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
