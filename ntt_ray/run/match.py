"""Proposals of a unit to its labels, where units are written or matched again: with torch, no Ray.

Both ways end in `matched`, so that matching again gives the bytes that labelling gave.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator
from functools import lru_cache

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from ntt_ray import storage
from ntt_ray.bank.memory import MemoryBank
from ntt_ray.errors import InputError, LabelError, StorageError
from ntt_ray.proposals.kept import ImageProposals
from ntt_ray.proposals.matching import Matcher
from ntt_ray.proposals.table import ROWS_AT_ONCE, completed, iter_images
from ntt_ray.records import ImageLabels
from ntt_ray.run.job import LabelJob, RematchJob, UnitDone
from ntt_ray.run.layout import proposals_uri, shard_uri
from ntt_ray.run.proposal_shard import (
    check_body,
    misfit,
    open_proposals,
    to_bytes,
    unit_metadata,
)
from ntt_ray.run.shard import (
    ACCELERATORS_KEY,
    SCHEMA,
    accelerators_of,
    labels_to_row,
    with_embeddings,
)
from ntt_ray.run.write import counts_of, publish_labels, replaced
from ntt_ray.settings import MethodSettings


def keep_and_match(
    shard_id: int,
    data: pa.Buffer,
    again: bool,
    accelerator: str | None,
    job: LabelJob,
    bank: bytes,
) -> pa.Table:
    """Publish the proposals of a unit, and then the labels that they make.

    Args:
        shard_id: the unit.
        data: the file of its proposals, as the labelling actor made it.
        again: whether these are only those images that were tried again.
        accelerator: the model of the GPU; None on a CPU.
        job: the run.
        bank: the memory bank's file.

    Returns:
        The labels of the images that went through the models now.

    Raises:
        InputError, StorageError: something cannot be read or written.
    """
    assert job.keeping is not None
    accelerators = {accelerator} if accelerator else set()
    with open_proposals(job.output, shard_id, job.store, data) as file:
        table = file.read()
    new_ids = table["image_id"]
    if again:
        old = _kept_before(job, shard_id)
        accelerators |= accelerators_of(old.schema)
        old, new = (completed(part).replace_schema_metadata(None) for part in (old, table))
        table = replaced(old, new)
    metadata = {**job.keeping.metadata, **unit_metadata(shard_id, table)}
    if accelerators:
        metadata[ACCELERATORS_KEY] = ", ".join(sorted(accelerators))
    kept = to_bytes(table, metadata)
    del table  # as large as the file again
    job.store.publish_bytes(proposals_uri(job.output, shard_id), kept)
    with open_proposals(job.output, shard_id, job.store, kept) as file:
        labels = matched(shard_id, file, matcher_of(bank, job.method, job.keeping.embeddings))
    publish_labels(shard_id, labels, accelerators, job)
    counted = labels.select(SCHEMA.names)  # counting needs no embeddings
    return counted.filter(pc.is_in(counted["image_id"], new_ids.combine_chunks()))


def _kept_before(job: LabelJob, shard_id: int) -> pa.Table:
    try:
        with open_proposals(job.output, shard_id, job.store) as file:
            return file.read()
    except InputError as error:
        name = storage.redact(shard_uri(job.output, shard_id))
        raise InputError(f"{error}; delete {name}, and all of its unit is labelled again") from None


def rematched(job: RematchJob, shard_id: int) -> UnitDone:
    """Match the kept proposals of a unit again and publish the labels: what a task does.

    A unit whose proposals cannot be read, or whose labels cannot be written, is given back.

    Raises:
        LabelError: the method failed on an image; it and the unit are named.
    """
    begun_at, started = time.time(), time.perf_counter()
    labels, given_back = SCHEMA.empty_table(), None
    read_s = matched_s = 0.0
    try:
        data = _proposals(job, shard_id)
        read_s = time.perf_counter() - started
        with open_proposals(job.source, shard_id, job.store, data) as file:
            problem = misfit(file, shard_id, job.proposals_hash, None) or check_body(file, data)
            if problem is not None:
                uri = storage.redact(proposals_uri(job.source, shard_id))
                raise InputError(f"{uri}: {problem}")
            accelerators = accelerators_of(file.schema_arrow)
            labels = matched(shard_id, file, matcher_of(job.bank, job.method, job.embeddings))
        matched_s = time.perf_counter() - started - read_s
        publish_labels(shard_id, labels, accelerators, job)
    except (InputError, StorageError) as error:
        labels, given_back = SCHEMA.empty_table(), str(error)
    return UnitDone(
        shard_id=shard_id,
        fetch_s=read_s,
        begun_at=begun_at,
        label_s=matched_s,
        write_s=time.perf_counter() - started - read_s - matched_s,
        given_back=given_back,
        actor=f"{platform.node()}:{os.getpid()}",
        **counts_of(labels),
    )


def _proposals(job: RematchJob, shard_id: int) -> bytes:
    uri = proposals_uri(job.source, shard_id)
    try:
        return job.store.read_bytes(uri)
    except FileNotFoundError:
        raise InputError(f"{storage.redact(uri)}: the proposals are missing") from None


@lru_cache(maxsize=2)  # a process writes or matches unit after unit
def matcher_of(bank: bytes, method: MethodSettings, embeddings: bool) -> Matcher:
    """A memory bank in a file's bytes, ready to be matched with, in one thread.

    Raises:
        InputError: the bank is damaged.
    """
    torch.set_num_threads(1)
    memory = MemoryBank.from_bytes(bank, "the memory bank")
    return Matcher(memory, method, embeddings=embeddings)


def matched(shard_id: int, file: pq.ParquetFile, matcher: Matcher) -> pa.Table:
    """The rows of a shard of labels, in the order of the proposals.

    Raises:
        InputError: the proposals are damaged.
        LabelError: the method failed on an image; it and the unit are named.
    """
    labels = (_labels(shard_id, image, matcher) for image in _images(file))
    if matcher.embeddings:
        return with_embeddings(list(labels))
    return pa.Table.from_pylist([labels_to_row(item) for item in labels], schema=SCHEMA)


def _images(file: pq.ParquetFile) -> Iterator[ImageProposals]:
    try:
        for batch in file.iter_batches(ROWS_AT_ONCE, use_threads=False):
            yield from iter_images(batch)
    except ValueError as error:
        raise InputError(f"damaged proposals: {error}") from None


def _labels(shard_id: int, image: ImageProposals, matcher: Matcher) -> ImageLabels:
    try:
        return matcher.labels(image)
    except Exception as error:
        where = f"unit {shard_id}, image {image.entry.file_name}"
        raise LabelError(f"{where}: {type(error).__name__}: {error}") from error
