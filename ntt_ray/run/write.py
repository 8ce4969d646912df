"""After labelling: shards are published. Its processes, too, start without torch."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Mapping
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from ntt_ray.errors import InputError, StorageError, reason_of
from ntt_ray.run.cluster.interrupts import release_logging
from ntt_ray.run.job import WRITTEN, LabelJob
from ntt_ray.run.layout import again_uri, journal_uri, shard_uri
from ntt_ray.run.manifest import read_unit_table
from ntt_ray.run.shard import (
    ACCELERATORS_KEY,
    EMBEDDING_FIELDS,
    PENDING,
    SCHEMA,
    accelerators_of,
    read_shard,
    table_to_bytes,
    unit_metadata,
    with_carried,
)
from ntt_ray.storage import Storage


class Published(Protocol):
    """What is known of a run where a shard of labels is published; see `LabelJob`."""

    @property
    def output(self) -> str:
        """The prefix below which the run writes."""

    @property
    def store(self) -> Storage:
        """Access to files."""

    @property
    def manifest_digest(self) -> str:
        """SHA-256 of the manifest."""

    @property
    def provenance(self) -> Mapping[str, str]:
        """What the metadata of every shard says."""

    @property
    def carries(self) -> bool:
        """Whether the manifest has columns that go into the shards too."""


def write_units(batch: pa.Table, job: LabelJob, bank: bytes | None = None) -> pa.Table:
    """Publish the shards of labelled units, then remove the notes of their workers.

    A shard with images that are to be tried again has a note beside it, which is there first. A
    unit whose shard cannot be written is given back. Where proposals are kept they are published
    first, and labels are made of them here, with the bank.
    """
    release_logging()
    done = []
    large = ["rows", "proposals"]
    for index, unit in enumerate(batch.drop_columns(large).to_pylist()):
        started = time.perf_counter()
        rows = batch["rows"].combine_chunks()[index].values
        labelled = pa.Table.from_struct_array(rows).cast(SCHEMA)
        if unit["given_back"] is None:
            accelerator, again = unit["accelerator"], unit["again"]
            try:
                if job.keeping is None:
                    _publish(unit["shard_id"], labelled, again, accelerator, job)
                else:
                    from ntt_ray.run.match import keep_and_match  # it needs torch

                    assert bank is not None
                    kept = batch["proposals"][index].as_buffer()
                    labelled = keep_and_match(unit["shard_id"], kept, again, accelerator, job, bank)
            except (InputError, StorageError) as error:
                unit["given_back"] = str(error)
        counts = counts_of(labelled.slice(0, 0) if unit["given_back"] else labelled)
        done.append({**unit, **counts, "write_s": time.perf_counter() - started})
    return pa.Table.from_pylist(done, schema=WRITTEN)


def _publish(
    shard_id: int, table: pa.Table, again: bool, accelerator: str | None, job: LabelJob
) -> None:
    accelerators = {accelerator} if accelerator else set()
    if again:
        old = read_shard(job.output, shard_id, job.store)
        accelerators |= accelerators_of(old.schema)
        table = replaced(old.select(SCHEMA.names), table)
    publish_labels(shard_id, table, accelerators, job)


def publish_labels(
    shard_id: int, table: pa.Table, accelerators: Collection[str], run: Published
) -> None:
    """Publish the shard of a unit, after the note on what is to be tried again.

    Args:
        shard_id: the unit.
        table: its rows, with the columns of `SCHEMA`, or those of `shard.with_embeddings`.
        accelerators: the models of the GPUs that the images went through.
        run: the run.

    Raises:
        InputError, StorageError: it cannot be written.
    """
    embedded = {field.name for field in EMBEDDING_FIELDS}.issubset(table.column_names)
    if run.carries:
        images = read_unit_table(run.output, shard_id, run.manifest_digest, run.store)
        table = with_carried(table, images)
    if pending := counts_of(table)["unreachable"]:
        note = json.dumps({"images": pending}).encode()
        run.store.publish_bytes(again_uri(run.output, shard_id), note)
    metadata = {**run.provenance, **unit_metadata(shard_id, table, embedded=embedded)}
    if accelerators:
        metadata[ACCELERATORS_KEY] = ", ".join(sorted(accelerators))
    data = table_to_bytes(table, metadata)
    run.store.publish_bytes(shard_uri(run.output, shard_id), data)
    run.store.delete(journal_uri(run.output, shard_id))


def replaced(old: pa.Table, new: pa.Table) -> pa.Table:
    """The rows of a unit with new ones in the places of those of the same images."""
    places = {image_id: place for place, image_id in enumerate(old["image_id"].to_pylist())}
    chosen = list(range(len(old)))
    for row, image_id in enumerate(new["image_id"].to_pylist()):
        chosen[places[image_id]] = len(old) + row
    # cast: what a file adds to a schema must not show in the next one
    plain = new.schema.remove_metadata()
    return pa.concat_tables([old, new]).combine_chunks().take(pa.array(chosen)).cast(plain)


def counts_of(table: pa.Table) -> dict[str, Any]:
    """What the driver hears of some rows: how many of each kind, and why most of them failed."""
    failed = table.filter(pc.equal(table["status"], "failed"))
    found = pc.list_flatten(table["annotations"])
    unreachable = pc.sum(pc.is_in(failed["failure"], pa.array(PENDING))).as_py() or 0
    reasons = [reason_of(error) for error in failed["error"].to_pylist()]
    return {
        "images": len(table),
        "failed": len(failed),
        "unreachable": unreachable,
        "empty": pc.sum(pc.equal(table["status"], "empty")).as_py() or 0,
        "detections": len(found),
        "score_sum": pc.sum(pc.struct_field(found, "score")).as_py() or 0.0,
        "reason": max(reasons, key=reasons.count, default=None),
    }
