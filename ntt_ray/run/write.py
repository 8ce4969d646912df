"""After labelling: the shard of a unit is published. Processes that write start without torch."""

from __future__ import annotations

import time

import pyarrow as pa

from ntt_ray.run.job import WORK_FIELDS, WRITTEN, LabelJob
from ntt_ray.run.layout import journal_uri, shard_uri
from ntt_ray.run.shard import table_to_bytes


def write_units(batch: pa.Table, job: LabelJob) -> pa.Table:
    """Publish the shards of labelled units, then remove their notes."""
    done = []
    for index, shard_id in enumerate(batch["shard_id"].to_pylist()):
        started = time.perf_counter()
        rows = batch["rows"].combine_chunks()[index].values
        table = pa.Table.from_struct_array(rows)
        data = table_to_bytes(table, job.provenance)
        job.store.publish_bytes(shard_uri(job.output, shard_id), data)
        job.store.delete(journal_uri(job.output, shard_id))
        statuses = table["status"].to_pylist()
        done.append(
            {
                "shard_id": shard_id,
                "images": len(statuses),
                "failed": statuses.count("failed"),
                "detections": sum(len(item) for item in table["annotations"]),
                "fetch_s": batch["fetch_s"][index].as_py(),
                "begun_at": batch["begun_at"][index].as_py(),
                "label_s": batch["label_s"][index].as_py(),
                **{field.name: batch[field.name][index].as_py() for field in WORK_FIELDS},
                "write_s": time.perf_counter() - started,
            }
        )
    return pa.Table.from_pylist(done, schema=WRITTEN)
