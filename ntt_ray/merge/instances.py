"""Rows of a shard as a flat table of instances, the form that output profiles are made from.

Works on whole columns, because a run has more annotations than Python can visit one by one. It
does not know any output format.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ntt_ray.errors import InputError, reason_of
from ntt_ray.merge.digests import digest_of_bytes
from ntt_ray.merge.thresholds import IntArray, Thresholds
from ntt_ray.run.failures import Reasons
from ntt_ray.run.layout import shard_name, shard_uri
from ntt_ray.run.shard import check_body, iter_batches, open_shard, read_shard_bytes
from ntt_ray.storage import Storage


def annotation_columns(*names: str) -> tuple[str, ...]:
    """Paths in the Parquet file of a shard of some fields of its annotations."""
    return tuple(f"annotations.list.element.{name}" for name in names)


@dataclass(frozen=True)
class ShardIndex:
    """What pass one knows of a shard; about 8 bytes an image.

    Attributes:
        shard_id: the unit.
        sha256: SHA-256 of the file, in hex.
        found: how many detections of the classes that are kept each row has, int32 ``(rows,)``.
        kept: how many of these reach their threshold, int32 ``(rows,)``.
        ok, empty, failed: how many rows have this status.
        reasons: the failed rows by kind of failure and reason.
        notes: the rows by note, see `records.NOTES`.
        counts_bytes: length of all ``counts`` of the shard, about.
        names_bytes: length of all file names, about.
    """

    shard_id: int
    sha256: str
    found: IntArray
    kept: IntArray
    ok: int
    empty: int
    failed: int
    counts_bytes: int
    names_bytes: int
    reasons: Reasons = field(default_factory=dict)
    notes: Mapping[str, int] = field(default_factory=dict)
    readable_bits: npt.NDArray[np.uint8] | None = None

    @property
    def rows(self) -> int:
        """Number of images."""
        return len(self.found)

    @property
    def readable(self) -> IntArray:
        """1 for each row with a size and 0 for others, ``(rows,)``."""
        if self.readable_bits is None:
            return np.ones(self.rows, np.int32)
        return np.unpackbits(self.readable_bits, count=self.rows)


def index_shard(
    output: str,
    shard_id: int,
    store: Storage,
    thresholds: Thresholds,
    misfit: Callable[[pq.ParquetFile, int], str | None] = lambda _file, _unit: None,
) -> ShardIndex:
    """Count the instances of a shard, from its statuses, scores and category ids.

    The file is read whole for its digest, which takes about 1 ms of a core for each megabyte.
    `misfit` says of an open shard why it is not the one of its unit, if it is not.

    Raises:
        InputError: the shard is missing, damaged or edited, or not that of its unit.
    """
    found, kept, readable, statuses = [], [], [], {"ok": 0, "empty": 0, "failed": 0}
    reasons: Counter[tuple[str, str]] = Counter()
    notes: Counter[str] = Counter()
    anything = thresholds.any_score()
    data = read_shard_bytes(output, shard_id, store)
    of_images = ("height", "status", "error", "failure", "notes")
    columns = (*of_images, *annotation_columns("category_id", "score"))
    with open_shard(output, shard_id, store, data) as file:
        if (problem := misfit(file, shard_id)) is not None:
            raise InputError(
                f"{shard_name(shard_id)}: {problem}; the same command labels its unit again"
            )
        check_body(file.schema_arrow, data, shard_uri(output, shard_id))
        for batch in iter_batches(file, columns):
            lengths, instances = _flattened(batch)
            if not np.isfinite(instances.field("score").to_numpy()).all():  # it reaches nothing
                raise ValueError("a score is not a finite number")
            found.append(_of_each_row(_reached(instances, anything), lengths))
            kept.append(_of_each_row(_reached(instances, thresholds), lengths))
            readable.append(pc.is_valid(batch.column("height")).to_numpy(zero_copy_only=False))
            for item in pc.value_counts(batch.column("status")).to_pylist():
                if item["values"] not in statuses:  # open_shard names the shard
                    raise ValueError(f"{item['values']!r} is no status")
                statuses[item["values"]] += item["counts"]
            if "notes" in batch.schema.names:
                notes.update(batch.column("notes").flatten().to_pylist())
            failed = batch.filter(pc.equal(batch.column("status"), "failed")).to_pylist()
            reasons.update((r.get("failure") or "content", reason_of(r["error"])) for r in failed)
        sizes = _column_bytes(file.metadata)
    none = [np.zeros(0, np.int32)]
    return ShardIndex(
        shard_id,
        digest_of_bytes(data).sha256,
        np.concatenate(found or none),
        np.concatenate(kept or none),
        **statuses,
        counts_bytes=sizes["annotations.list.element.counts"],
        names_bytes=sizes["file_name"],
        reasons=reasons,
        notes=notes,
        readable_bits=_bits(readable),
    )


def _bits(readable: Sequence[npt.NDArray[np.bool_]]) -> npt.NDArray[np.uint8] | None:
    rows = np.concatenate(readable) if readable else np.zeros(0, np.bool_)
    return None if rows.all() else np.packbits(rows)


def flat_instances(
    rows: pa.RecordBatch, thresholds: Thresholds | None = None, *, embedded: bool = False
) -> pa.Table:
    """The instances of some rows of a shard, one row each, in manifest order, then by rank.

    Args:
        rows: some rows of a shard, with all of its columns or some.
        thresholds: keep only what reaches them; None keeps all.
        embedded: whether the column ``embeddings`` has one for each annotation.

    Returns:
        The columns of `rows` but ``annotations``, ``error``, ``failure`` and ``notes``, repeated
        for every instance, and the fields of ``annotations``, with the category ids of the merged
        files; in the place of ``embeddings`` each instance has its ``embedding``.

    Raises:
        ValueError: an image has another number of embeddings than of annotations.
    """
    lengths, instances = _flattened(rows)
    row = np.repeat(np.arange(len(rows)), lengths)
    embeddings = _embeddings(rows, lengths) if embedded else None
    if thresholds is not None:
        reached = _reached(instances, thresholds)
        if not reached.all():
            row, instances = row[reached], instances.filter(pa.array(reached))
            embeddings = None if embeddings is None else embeddings.filter(pa.array(reached))
    others = ("annotations", "error", "failure", "notes", *(("embeddings",) if embedded else ()))
    columns = {
        name: rows.column(name).take(pa.array(row))
        for name in rows.schema.names
        if name not in others
    }
    if embeddings is not None:
        columns["embedding"] = embeddings
    columns |= {item.name: instances.field(item.name) for item in instances.type}
    if thresholds is not None and "category_id" in columns:
        ids = columns["category_id"].to_numpy()
        columns["category_id"] = pa.array(thresholds.categories_of(ids))
    return pa.table(columns)


def _flattened(rows: pa.RecordBatch) -> tuple[IntArray, pa.StructArray]:
    annotations = rows.column("annotations")
    return annotations.value_lengths().to_numpy(), annotations.flatten()


def _embeddings(rows: pa.RecordBatch, lengths: IntArray) -> pa.Array:
    found = rows.column("embeddings")
    own = pc.fill_null(pc.list_value_length(found), 0).to_numpy()
    if (own != lengths).any():
        raise ValueError("an image has another number of embeddings than of annotations")
    return found.flatten()


def _reached(instances: pa.StructArray, thresholds: Thresholds) -> npt.NDArray[np.bool_]:
    scores = instances.field("score").to_numpy().astype(np.float64)
    return np.asarray(scores >= thresholds.of(instances.field("category_id").to_numpy()))


def _of_each_row(chosen: npt.NDArray[np.bool_], lengths: IntArray) -> IntArray:
    """How many instances of each row are chosen."""
    ends = np.concatenate(([0], np.cumsum(chosen)))
    borders = np.concatenate(([0], np.cumsum(lengths)))
    return np.diff(ends[borders]).astype(np.int32)


def _column_bytes(metadata: Any) -> dict[str, int]:
    """Uncompressed size of each column of a Parquet file, by its path."""
    sizes: dict[str, int] = {metadata.schema.column(i).path: 0 for i in range(metadata.num_columns)}
    for group in range(metadata.num_row_groups):
        for column in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(column)
            sizes[chunk.path_in_schema] += chunk.total_uncompressed_size
    return sizes
