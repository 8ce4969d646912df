"""The profile ``hf``: a Parquet data set with a row for each image, for ``datasets.load_dataset``.

``hf/data/train-00000-of-00012.parquet`` and so on, in the order of the manifest. ``objects`` has a
list for each field, as the object detection examples of Transformers want it: ``id`` as in
``annotations.json``, ``bbox`` xywh in pixels, ``category`` as `ClassLabel`, ``counts`` the
compressed COCO RLE of the mask. Images without an object and images that failed have empty lists.
Of packed images there are ``key`` and ``source``, and the columns that were kept of a table.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ntt_ray import storage
from ntt_ray.merge.digests import FileDigest
from ntt_ray.merge.fragments import LABELLED, Fragment
from ntt_ray.merge.instances import annotation_columns, flat_instances
from ntt_ray.merge.profiles.coco import split
from ntt_ray.merge.rendering import Merge, Source, Written, iter_rows, naming_shard
from ntt_ray.records import ClassLabel
from ntt_ray.run.layout import COCO_FILE, DATASET_FOLDER, dataset_name

_IMAGE = ("image_id", "file_name", "uri", "key", "source", "height", "width", "status", "error")
_COLUMNS = (
    *_IMAGE,
    *annotation_columns("category_id", "score", "bbox.list.element", "area", "counts"),
)
_IMAGE_TYPES = {"image_id": pa.int64(), "height": pa.int32(), "width": pa.int32()}
_OBJECTS: dict[str, pa.DataType] = {
    "id": pa.int64(),
    "area": pa.int64(),
    "bbox": pa.list_(pa.float32(), 4),
    "category": pa.int64(),
    "category_id": pa.int32(),
    "score": pa.float32(),
    "counts": pa.string(),
}
_PART = re.compile(r"train-\d{5,}-of-\d{5,}\.parquet")
_DTYPES = {"float": "float32", "double": "float64", "halffloat": "float16"}

Job = tuple[str, Fragment, tuple[int, ...]]  # a part's name and rows, first ids of their slices


def write_dataset(merge: Merge) -> Written:
    """Write the parts; of an earlier merge with other parts nothing stays."""
    fragments = [
        fragment
        for _, start, stop in split(merge, COCO_FILE)
        for fragment in merge.layout.fragments(LABELLED, start, stop, 1)
    ] or [Fragment((), 1, 0)]
    jobs: list[Job] = [
        (
            dataset_name(number, len(fragments)),
            fragment,
            tuple(1 + merge.layout.kept_before(piece) for piece in fragment.slices),
        )
        for number, fragment in enumerate(fragments)
    ]
    source = merge.source
    source.store.discard_unfinished(storage.join(source.target, DATASET_FOLDER), _PART)
    some = fragments[0].slices
    carried = source.carried(some[0].shard_id) if some else []
    kept = tuple(field for field in carried if field.name not in _IMAGE)
    work = partial(publish_part, source=source, classes=merge.classes, kept=kept)
    digests = merge.mapped(work, jobs, [fragment.items for fragment in fragments])
    files = dict(zip((name for name, _, _ in jobs), digests, strict=True))
    source.delete_others(_PART, files, DATASET_FOLDER)
    return Written(files)


def publish_part(
    job: Job, source: Source, classes: Sequence[ClassLabel], kept: Sequence[pa.Field]
) -> FileDigest:
    """Publish a part, with columns that were kept of a table; gives its digest."""
    name, fragment, first_ids = job
    schema = schema_of(classes, kept)
    tables = [schema.empty_table()]
    for piece, first_id in zip(fragment.slices, first_ids, strict=True):
        next_id = first_id
        with naming_shard(piece.shard_id):
            for rows in iter_rows(piece, (*_COLUMNS, *(f.name for f in kept)), source):
                numbers = pa.array(np.arange(len(rows)))
                instances = flat_instances(rows.append_column("\0row", numbers), source.thresholds)
                tables.append(_table(rows, instances, next_id, classes, schema))
                next_id += len(instances)
    sink = io.BytesIO()
    pq.write_table(pa.concat_tables(tables), sink, compression="zstd")
    return source.publish(name, sink.getvalue())


def schema_of(classes: Sequence[ClassLabel], kept: Sequence[pa.Field]) -> pa.Schema:
    """The columns, with the features of `datasets` as metadata, which give the classes' names."""
    objects = [pa.field(name, pa.list_(kind)) for name, kind in _OBJECTS.items()]
    fields = [
        *(pa.field(name, _IMAGE_TYPES.get(name, pa.string())) for name in _IMAGE),
        *kept,
        pa.field("objects", pa.struct(objects)),
    ]
    features: dict[str, Any] = {field.name: _value(field.type) for field in fields[:-1]}
    features["objects"] = {name: _sequence(_value(kind)) for name, kind in _OBJECTS.items()}
    features["objects"]["bbox"] = _sequence({**_sequence(_value(pa.float32())), "length": 4})
    names = [label.name for label in classes]
    features["objects"]["category"] = _sequence({"names": names, "_type": "ClassLabel"})
    info = json.dumps({"info": {"features": features}})  # not sorted: columns by their order
    return pa.schema(fields, {"huggingface": info})


def _value(kind: pa.DataType) -> dict[str, Any]:
    return {"dtype": _DTYPES.get(str(kind), str(kind)), "_type": "Value"}


def _sequence(feature: dict[str, Any]) -> dict[str, Any]:
    return {"feature": feature, "_type": "Sequence"}  # which datasets before 4 know, too


def _table(
    rows: pa.RecordBatch,
    instances: pa.Table,
    first_id: int,
    classes: Sequence[ClassLabel],
    schema: pa.Schema,
) -> pa.Table:
    counts = np.bincount(instances.column("\0row").to_numpy(), minlength=len(rows))
    offsets = pa.array(np.concatenate(([0], np.cumsum(counts))), pa.int32())
    ids = instances.column("category_id").to_numpy()
    known = np.array([label.category_id for label in classes], dtype=np.int64)
    added = {
        "id": pa.array(np.arange(first_id, first_id + len(instances))),
        "category": pa.array(np.searchsorted(known, ids)),
    }
    lists = [
        pa.ListArray.from_arrays(offsets, _flat(added.get(name), instances, name, kind))
        for name, kind in _OBJECTS.items()
    ]
    objects = pa.StructArray.from_arrays(lists, fields=list(schema.field("objects").type))
    columns = [rows.column(name).cast(schema.field(name).type) for name in schema.names[:-1]]
    return pa.table([*columns, objects], schema=schema)


def _flat(given: pa.Array | None, instances: pa.Table, name: str, kind: pa.DataType) -> pa.Array:
    array = instances.column(name).combine_chunks() if given is None else given
    return array.cast(kind)
