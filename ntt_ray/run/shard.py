"""The shard: one Parquet file of labels per work unit. Defines its schema, names and conversions.

One row per image of the unit, in manifest order, always. A shard exists or it does not: its
presence means that the unit is done. Columns that this version does not know are passed over if
they are nullable, in the structs too; so a nullable column may be added without a new version.
After the columns of `SCHEMA` stand the embeddings, where they were asked for (`EMBEDDING_FIELDS`),
and those of the manifest that only packed images and tables with keys have: `PACKED`, and those
that are kept of a table, which `kept_columns` names.
It does not know how labels are made.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ntt_ray import storage
from ntt_ray.errors import InputError
from ntt_ray.masks import Rle
from ntt_ray.records import Detection, Embedding, ImageEntry, ImageLabels
from ntt_ray.run.layout import (
    AGAIN_SUFFIX,
    LABELS_FOLDER,
    SHARD_SUFFIX,
    shard_ids,
    shard_name,
    shard_uri,
)
from ntt_ray.sources.schema import PACKED, carried

FORMAT_VERSION = "1"
ACCELERATORS_KEY = "accelerators"  # of the metadata: models of GPUs; shards of CPUs lack it
KEPT_KEY = "kept"  # of the metadata: a JSON list of the kept columns; missing where there are none
BODY_KEY = "body_sha256"  # of the metadata; shards written before it lack it
# where a long listing of shards may be divided, whatever units there are
NAMES_BETWEEN = tuple(shard_name(unit) for unit in range(0, 1_000_000, 4000))
BATCH_ROWS = 512  # a column of 100 large masks in each is some tens of megabytes

ANNOTATION = pa.struct(
    [
        pa.field("category_id", pa.int32(), nullable=False),
        pa.field("score", pa.float32(), nullable=False),
        pa.field("predicted_iou", pa.float32(), nullable=False),
        pa.field("bbox", pa.list_(pa.float32(), 4), nullable=False),
        pa.field("area", pa.int64(), nullable=False),
        pa.field("counts", pa.string(), nullable=False),
    ]
)
LIST = pa.list_(pa.field("item", ANNOTATION, nullable=False))
ROW_FIELDS = [
    pa.field("image_id", pa.int64(), nullable=False),
    pa.field("file_name", pa.string(), nullable=False),
    pa.field("height", pa.int32()),
    pa.field("width", pa.int32()),
    pa.field("status", pa.string(), nullable=False),
    pa.field("error", pa.string()),
    pa.field("failure", pa.string()),
    pa.field("notes", pa.list_(pa.string())),
    pa.field("annotations", LIST, nullable=False),
]
SCHEMA = pa.schema(ROW_FIELDS)
# columns that shards have where they were asked for, see `with_embeddings`
VECTOR = pa.list_(pa.float32())
EMBEDDING_FIELDS = (
    pa.field("embedding", VECTOR),
    pa.field("embeddings", pa.list_(pa.field("item", VECTOR, nullable=False))),
)
PENDING = ("access", "worker")  # failures that are tried again
ADDED = frozenset({"failure", "notes"})  # nullable columns that shards written before them lack


def existing_shards(output: str, store: storage.Storage) -> set[int]:
    """Ids of the shards that a run has so far."""
    folder = storage.join(output, LABELS_FOLDER)
    return shard_ids(store.list_files(folder, (SHARD_SUFFIX,), divide_at=NAMES_BETWEEN))


def noted_units(output: str, store: storage.Storage) -> set[int]:
    """Ids of the units some of whose images are to be tried again."""
    folder = storage.join(output, LABELS_FOLDER)
    names = store.list_files(folder, (AGAIN_SUFFIX,), divide_at=NAMES_BETWEEN)
    return shard_ids(names, AGAIN_SUFFIX)


def labels_to_row(labels: ImageLabels) -> dict[str, Any]:
    """One image's labels as a row of `SCHEMA`."""
    return {
        "image_id": labels.entry.image_id,
        "file_name": labels.entry.file_name,
        "height": labels.height,
        "width": labels.width,
        "status": labels.status,
        "error": labels.error,
        "failure": labels.failure,
        "notes": list(labels.notes) or None,
        "annotations": [
            {
                "category_id": d.category_id,
                "score": d.score,
                "predicted_iou": d.predicted_iou,
                "bbox": list(d.bbox_xywh),
                "area": d.area,
                "counts": d.rle["counts"],
            }
            for d in labels.detections
        ],
    }


def row_to_labels(row: Mapping[str, Any]) -> ImageLabels:
    """The inverse of `labels_to_row`; the image's URI is not in a shard and comes back empty."""
    size = [row["height"], row["width"]]
    return ImageLabels(
        entry=ImageEntry(row["image_id"], row["file_name"], "", row.get("key"), row.get("source")),
        status=row["status"],
        height=row["height"],
        width=row["width"],
        error=row["error"],
        failure=row.get("failure"),
        notes=tuple(row.get("notes") or ()),
        detections=tuple(
            Detection(
                category_id=a["category_id"],
                score=a["score"],
                predicted_iou=a["predicted_iou"],
                bbox_xywh=tuple(a["bbox"]),
                area=a["area"],
                rle=Rle(size=size, counts=a["counts"]),
            )
            for a in row["annotations"]
        ),
    )


def labels_to_table(labels: Sequence[ImageLabels]) -> pa.Table:
    """Labels of a unit as a table of `SCHEMA`, with `PACKED` where an image has a key or source."""
    table = pa.Table.from_pylist([labels_to_row(item) for item in labels], schema=SCHEMA)
    entries = [item.entry for item in labels]
    if all(entry.key is None and entry.source is None for entry in entries):
        return table
    for field in PACKED:
        column = pa.array([getattr(entry, field.name) for entry in entries], field.type)
        table = table.append_column(field, column)
    return table


def with_embeddings(labels: Sequence[ImageLabels]) -> pa.Table:
    """Labels of a unit as a table of `SCHEMA`, with the embeddings of images and detections.

    ``embedding`` is that of the image, null where it failed; ``embeddings`` has one for each of its
    annotations, in their order. Both are float32 of length 1.
    """
    table = pa.Table.from_pylist([labels_to_row(item) for item in labels], schema=SCHEMA)
    own = pa.array([item.embedding for item in labels], VECTOR)
    found = [
        None if item.status == "failed" else [d.embedding for d in item.detections]
        for item in labels
    ]
    for field, column in zip(EMBEDDING_FIELDS, (own, pa.array(found, EMBEDDING_FIELDS[1].type))):
        table = table.append_column(field, column)
    return table


def has_embeddings(schema: pa.Schema) -> bool:
    """Whether a shard has the columns of `with_embeddings`; a table may have had such, too."""
    names = {field.name for field in EMBEDDING_FIELDS}
    return names.issubset(schema.names) and names.isdisjoint(kept_columns(schema))


def with_carried(table: pa.Table, images: pa.Table) -> pa.Table:
    """The rows of a unit with the columns of the manifest that shards get too.

    Args:
        table: the rows of the unit, with the columns of `SCHEMA`.
        images: the unit's rows of the manifest; a list of loose files adds nothing.

    Raises:
        InputError: they are not the same images.
    """
    if not (names := carried(images.schema)):
        return table
    if table["image_id"].to_pylist() != images["image_id"].to_pylist():
        raise InputError("the manifest has other images than the shard")
    for name in names:
        table = table.append_column(images.schema.field(name), images[name])
    return table


def kept_columns(schema: pa.Schema) -> list[str]:
    """The columns of a shard that were kept of the table of images, in their order.

    Raises:
        ValueError: the metadata of the shard are damaged.
    """
    said = json.loads((schema.metadata or {}).get(KEPT_KEY.encode(), b"[]"))
    return [name for name in said if name in schema.names]


def carried_columns(schema: pa.Schema) -> list[str]:
    """Those of `PACKED` that a shard has, and its kept columns; errors as for `kept_columns`."""
    packed = [field.name for field in PACKED if field.name in schema.names]
    return [*packed, *kept_columns(schema)]


def table_to_bytes(table: pa.Table, provenance: Mapping[str, str]) -> bytes:
    """A shard file: zstd Parquet, provenance in the schema metadata; same table, same bytes.

    The metadata have the digest of all that stands before them in the file, so that rows that
    somebody edits, or writes again with other tools, are told from those that were labelled.
    """
    metadata = {"format_version": FORMAT_VERSION, **provenance}
    body = sha256_before_footer(_parquet(table, metadata))
    return _parquet(table, {**metadata, BODY_KEY: body})


def _parquet(table: pa.Table, metadata: Mapping[str, str]) -> bytes:
    sink = io.BytesIO()
    table = table.replace_schema_metadata(dict(sorted(metadata.items())))
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def unit_metadata(shard_id: int, table: pa.Table, *, embedded: bool = False) -> dict[str, str]:
    """What the metadata of a shard say of its unit: its number, and a digest of its image ids.

    Of columns that were kept of a table, their names; with `embedded` those of `with_embeddings`
    are none of them.
    """
    own = {*SCHEMA.names, *(field.name for field in PACKED)}
    own |= {field.name for field in EMBEDDING_FIELDS} if embedded else set()
    kept = [name for name in table.column_names if name not in own]
    said = {KEPT_KEY: json.dumps(kept)} if kept else {}
    return {"unit": str(shard_id), "images": ids_digest(table["image_id"]), **said}


def accelerators_of(schema: pa.Schema) -> set[str]:
    """The models of the GPUs that labelled the images of a shard; none where CPUs did."""
    named = (schema.metadata or {}).get(ACCELERATORS_KEY.encode(), b"").decode()
    return set(named.split(", ")) if named else set()


def misfit(
    file: pq.ParquetFile,
    shard_id: int,
    labels_hash: str,
    image_ids: Sequence[int] | None = None,
) -> str | None:
    """Why an open shard is not that of a unit of a run; None where it is.

    Args:
        file: what `open_shard` gave.
        shard_id: the unit.
        labels_hash: the hash of settings that the run's shards carry, see `record.Identity.digest`.
        image_ids: ids of the unit's images in the order of the manifest; None: as the metadata of
            the shard say, which those of older versions do not.
    """
    said = {k.decode(): v.decode() for k, v in (file.schema_arrow.metadata or {}).items()}
    if said.get("labels_hash") != labels_hash:
        return "it is a shard of another run"
    if (unit := said.get("unit", str(shard_id))) != str(shard_id):
        return f"it is the shard of unit {unit}"
    found = file.read(["image_id"])["image_id"]
    digests = [said["images"]] if "images" in said else []
    digests += [] if image_ids is None else [ids_digest(pa.array(image_ids, pa.int64()))]
    if any(digest != ids_digest(found) for digest in digests):
        return f"its {len(found)} rows are not those of its unit"
    return None


def ids_digest(image_ids: pa.Array | pa.ChunkedArray) -> str:
    """SHA-256 of image ids as little-endian int64, in hex."""
    return hashlib.sha256(image_ids.to_numpy().astype("<i8").tobytes()).hexdigest()


def pending_ids(output: str, shard_id: int, store: storage.Storage) -> set[int]:
    """Ids of the images of a shard that are to be tried again; errors as for `open_shard`."""
    with open_shard(output, shard_id, store) as file:
        if "failure" not in file.schema_arrow.names:
            return set()
        table = file.read(["image_id", "failure"])
    chosen = pc.is_in(table["failure"], pa.array(PENDING))
    return set(table["image_id"].filter(chosen).to_pylist())


def sha256_before_footer(data: bytes) -> str:
    """SHA-256 of a Parquet file up to its footer, which the metadata are a part of."""
    footer = int.from_bytes(data[-8:-4], "little")  # its length, then four letters
    return hashlib.sha256(memoryview(data)[: max(0, len(data) - 8 - footer)]).hexdigest()


def read_shard(
    output: str,
    shard_id: int,
    store: storage.Storage,
    data: bytes | None = None,
    *,
    embeddings: bool = False,
) -> pa.Table:
    """Read a shard, with what it carries of the manifest, and check its format.

    With `embeddings` its embeddings come too. Arguments and errors as for `open_shard`.
    """
    with open_shard(output, shard_id, store, data) as file:
        names = [*SCHEMA.names, *carried_columns(file.schema_arrow)]
        if embeddings:
            if not has_embeddings(file.schema_arrow):
                raise ValueError("it has no embeddings")
            names += [field.name for field in EMBEDDING_FIELDS]
        table = file.read(names)
        table.validate(full=True)
    for name in ADDED.difference(table.column_names):
        field = SCHEMA.field(name)
        table = table.append_column(field, pa.nulls(len(table), field.type))
    return table.select(names)


def read_shard_bytes(output: str, shard_id: int, store: storage.Storage) -> bytes:
    """The file of a shard as it lies in the store.

    Raises:
        InputError: the shard is missing.
    """
    uri = shard_uri(output, shard_id)
    try:
        return store.read_bytes(uri)
    except FileNotFoundError:
        raise InputError(f"{storage.redact(uri)}: the shard is missing") from None


@contextmanager
def open_shard(
    output: str, shard_id: int, store: storage.Storage, data: bytes | None = None
) -> Iterator[pq.ParquetFile]:
    """Open a shard to read some of its columns or rows, and check its format.

    Args:
        output: the run's prefix.
        shard_id: the unit.
        store: access to files.
        data: the file of the shard where it was read before; else only what is needed is read.

    Raises:
        InputError: missing, truncated or of another format; also for what is read in the block.
    """
    uri = shard_uri(output, shard_id)
    opened = store.open_read(uri) if data is None else io.BytesIO(data)
    try:
        with opened as stream, pq.ParquetFile(stream, pre_buffer=True) as file:
            _check_format(file.schema_arrow, uri)
            yield file
    except FileNotFoundError:
        raise InputError(f"{storage.redact(uri)}: the shard is missing") from None
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{storage.redact(uri)}: damaged shard ({error})") from None


def check_body(schema: pa.Schema, data: bytes, where: str) -> None:
    """Whether the rows of a shard are those that were written; older shards do not say.

    Args:
        schema: the schema of the file, with its metadata.
        data: the file.
        where: the file's URI or name, for the message.

    Raises:
        InputError: they were edited, or written again by another tool.
    """
    wanted = (schema.metadata or {}).get(BODY_KEY.encode())
    if wanted is not None and wanted.decode("ascii", "replace") != sha256_before_footer(data):
        raise InputError(
            f"{storage.redact(where)}: its rows are not those that were written; delete it, and "
            "start the same command again"
        )


def iter_batches(file: pq.ParquetFile, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Rows of an open shard in order, `BATCH_ROWS` at a time.

    Args:
        file: what `open_shard` gave.
        columns: paths as in the Parquet file, e.g. ``annotations.list.element.score``.
    """
    for batch in file.iter_batches(BATCH_ROWS, columns=list(columns), use_threads=False):
        batch.validate(full=True)
        yield batch


def _check_format(schema: pa.Schema, uri: str) -> None:
    version = (schema.metadata or {}).get(b"format_version", b"").decode()
    if version != FORMAT_VERSION:
        raise InputError(
            f"{storage.redact(uri)}: shard format {version or 'unknown'!r}, not {FORMAT_VERSION!r}"
        )
    if problems := _misfits(schema, [*SCHEMA, *PACKED]):
        raise InputError(f"{storage.redact(uri)}: wrong shard format: {'; '.join(problems)}")


def _misfits(found: Iterable[pa.Field], known: Iterable[pa.Field], within: str = "") -> list[str]:
    """Known columns that are missing or of another type, and unknown ones that may not be null."""
    wanted, problems = {field.name: field for field in known}, []
    for field in found:
        own, name = wanted.pop(field.name, None), within + field.name
        if own is None:
            problems += [] if field.nullable else [f"{name} is unknown, and not nullable"]
        elif own.nullable != field.nullable:
            problems.append(f"{name} is {'' if field.nullable else 'not '}nullable")
        elif own.type == LIST and pa.types.is_list(field.type):
            problems += _misfits(_inner(field.type), _inner(own.type), f"{name}.")
        elif own.type != field.type:
            problems.append(f"{name} is {field.type}, not {own.type}")
    may = ADDED.union(field.name for field in PACKED)
    return [*problems, *(f"{within}{name} is missing" for name in wanted if name not in may)]


def _inner(kind: pa.ListType) -> Iterable[pa.Field]:
    inner = kind.value_field
    if not pa.types.is_struct(inner.type) or inner.nullable:
        return [inner.with_name("item")]
    return [inner.type.field(index) for index in range(inner.type.num_fields)]


def iter_labels(table: pa.Table, *, embedded: bool = False) -> Iterator[ImageLabels]:
    """The rows of a shard as records, a few at a time in memory.

    Args:
        table: what `read_shard` gave.
        embedded: whether the table has embeddings, which the records get then.

    Raises:
        InputError: a row contradicts itself: it was not written by this package.
    """
    plain = table.drop_columns([field.name for field in EMBEDDING_FIELDS]) if embedded else table
    vectors = iter(_vectors(table)) if embedded else None
    for batch in plain.to_batches(max_chunksize=64):
        for row in batch.to_pylist():
            try:
                labels = row_to_labels(row)
                if vectors is not None:
                    labels = _with_vectors(labels, *next(vectors))
            except ValueError as error:
                raise InputError(f"a damaged row of image {row['image_id']}: {error}") from None
            yield labels


def _vectors(table: pa.Table) -> Iterator[tuple[Embedding | None, list[Embedding]]]:
    """Of each row the embedding of the image, and those of its annotations; views, no copies."""
    names = [field.name for field in EMBEDDING_FIELDS]
    for batch in table.select(names).to_batches(max_chunksize=64):
        own, found = (batch.column(name) for name in names)
        of_images = iter(_split(own))
        of_annotations = iter(_split(found.flatten()))
        counts = pc.fill_null(pc.list_value_length(found), 0).to_pylist()
        for is_known, count in zip(pc.is_valid(own).to_pylist(), counts, strict=True):
            image = next(of_images)
            yield image if is_known else None, list(itertools.islice(of_annotations, count))


def _split(vectors: pa.ListArray) -> list[Embedding]:
    """The lists of an array, each as an array of its own; one that is null is empty."""
    values = vectors.flatten().to_numpy()
    ends = np.cumsum(pc.fill_null(pc.list_value_length(vectors), 0).to_numpy())
    return np.split(values, ends[:-1]) if len(ends) else []


def _with_vectors(
    labels: ImageLabels, own: Embedding | None, found: Sequence[Embedding]
) -> ImageLabels:
    return replace(
        labels,
        embedding=own,
        detections=tuple(
            replace(detection, embedding=vector)
            for detection, vector in zip(labels.detections, found, strict=True)
        ),
    )
