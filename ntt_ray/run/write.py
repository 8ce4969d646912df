"""After labelling: shards are published. Its processes, too, start without torch."""

from __future__ import annotations

import json
import time
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ntt_ray.errors import InputError, StorageError, reason_of
from ntt_ray.run.cluster.interrupts import release_logging
from ntt_ray.run.job import WRITTEN, LabelJob
from ntt_ray.run.layout import again_uri, journal_uri, shard_uri
from ntt_ray.run.manifest import read_unit_table
from ntt_ray.run.shard import (
    ACCELERATORS_KEY,
    PENDING,
    SCHEMA,
    accelerators_of,
    read_shard,
    table_to_bytes,
    unit_metadata,
    with_carried,
)


def write_units(batch: pa.Table, job: LabelJob) -> pa.Table:
    """Publish the shards of labelled units, then remove the notes of their workers.

    A shard with images that are to be tried again has a note beside it, which is there first. A
    unit whose shard cannot be written is given back.
    """
    release_logging()
    done = []
    for index, unit in enumerate(batch.drop_columns(["rows"]).to_pylist()):
        started = time.perf_counter()
        rows = batch["rows"].combine_chunks()[index].values
        labelled = pa.Table.from_struct_array(rows).cast(SCHEMA)
        if unit["given_back"] is None:
            try:
                _publish(unit["shard_id"], labelled, unit["again"], unit["accelerator"], job)
            except (InputError, StorageError) as error:
                unit["given_back"] = str(error)
        counts = _counts(labelled.slice(0, 0) if unit["given_back"] else labelled)
        done.append({**unit, **counts, "write_s": time.perf_counter() - started})
    return pa.Table.from_pylist(done, schema=WRITTEN)


def _publish(
    shard_id: int, table: pa.Table, again: bool, accelerator: str | None, job: LabelJob
) -> None:
    accelerators = {accelerator} if accelerator else set()
    if again:
        old = read_shard(job.output, shard_id, job.store)
        accelerators |= accelerators_of(old.schema)
        table = _replaced(old.select(SCHEMA.names), table)
    if job.carries:
        images = read_unit_table(job.output, shard_id, job.manifest_digest, job.store)
        table = with_carried(table, images)
    if pending := _counts(table)["unreachable"]:
        note = json.dumps({"images": pending}).encode()
        job.store.publish_bytes(again_uri(job.output, shard_id), note)
    metadata = {**job.provenance, **unit_metadata(shard_id, table)}
    if accelerators:
        metadata[ACCELERATORS_KEY] = ", ".join(sorted(accelerators))
    data = table_to_bytes(table, metadata)
    job.store.publish_bytes(shard_uri(job.output, shard_id), data)
    job.store.delete(journal_uri(job.output, shard_id))


def _replaced(old: pa.Table, new: pa.Table) -> pa.Table:
    """The rows of a shard with new ones in the places of those of the same images."""
    places = {image_id: place for place, image_id in enumerate(old["image_id"].to_pylist())}
    chosen = list(range(len(old)))
    for row, image_id in enumerate(new["image_id"].to_pylist()):
        chosen[places[image_id]] = len(old) + row
    # cast: what a file adds to a schema must not show in the next one
    return pa.concat_tables([old, new]).combine_chunks().take(pa.array(chosen)).cast(SCHEMA)


def _counts(table: pa.Table) -> dict[str, Any]:
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
