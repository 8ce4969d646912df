"""After labelling: the shard of a unit is published. Processes that write start without torch."""

from __future__ import annotations

import time

import pyarrow as pa

from ntt_ray.run.job import MEASURED, WRITTEN, LabelJob
from ntt_ray.run.layout import journal_uri, shard_uri
from ntt_ray.run.shard import table_to_bytes


def write_units(batch: pa.Table, job: LabelJob) -> pa.Table:
    """Publish the shards of labelled units, then remove their notes."""
    done = []
    for index, unit in enumerate(batch.select(["shard_id", *MEASURED]).to_pylist()):
        started = time.perf_counter()
        table = pa.Table.from_struct_array(batch["rows"].combine_chunks()[index].values)
        data = table_to_bytes(table, job.provenance)
        job.store.publish_bytes(shard_uri(job.output, unit["shard_id"]), data)
        job.store.delete(journal_uri(job.output, unit["shard_id"]))
        statuses = table["status"].to_pylist()
        done.append(
            {
                **unit,
                "images": len(statuses),
                "failed": statuses.count("failed"),
                "detections": sum(len(item) for item in table["annotations"]),
                "write_s": time.perf_counter() - started,
            }
        )
    return pa.Table.from_pylist(done, schema=WRITTEN)
