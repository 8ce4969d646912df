"""Before labelling: the bytes of a unit's images. Processes that fetch start without torch.

What a store refuses or loses is bad weather, not a bad image. Images that could not be read are
tried again for as long as the run has patience, after growing waits; those that cannot be read then
are rows of the kind ``access``, which the next start tries again. Where most of a unit cannot be
read, no image is marked: the unit is given back without a shard.

Once a unit has more than `LabelJob.unit_bytes`, the rest of its images stay unread, and whoever
labels them reads them when their turn comes (`read_later`): sizes of images need not be known.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import replace
from threading import Thread
from typing import Any

import pyarrow as pa

from ntt_ray import storage
from ntt_ray.errors import (
    GivenBackError,
    ImageError,
    InputError,
    MissingPackageError,
    NttRayError,
    StorageError,
    reason_of,
)
from ntt_ray.images import looks_cut
from ntt_ray.records import FetchedImage, ImageEntry
from ntt_ray.run.cluster.interrupts import release_logging
from ntt_ray.run.fetched import fetched_table, give_memory_back, keep_no_memory
from ntt_ray.run.job import LabelJob
from ntt_ray.run.manifest import read_unit
from ntt_ray.run.shard import pending_ids
from ntt_ray.sources.stretches import Stretches
from ntt_ray.storage.cells import cell_of
from ntt_ray.storage.retries import LONGEST_DELAY_S

logger = logging.getLogger(__name__)

FETCH_THREADS = 16
MOST = 8  # so many images, and more than half of the unit: the weather, not the images
MORE_BYTES = 1.25  # times what a unit may have: sizes of cells are means, and files may grow
_FIRST_WAIT_S = 1.0
_PROBES = 4  # images tried before all that wait


def fetch_units(batch: pa.Table, job: LabelJob) -> pa.Table:
    """Read the bytes of a unit's images, all or those that are to be tried again."""
    release_logging()
    keep_no_memory()
    rows = [_fetched_unit(unit["shard_id"], unit["again"], job) for unit in batch.to_pylist()]
    give_memory_back()
    return pa.concat_tables(rows)


def read_later(entries: Sequence[ImageEntry], job: LabelJob) -> list[FetchedImage]:
    """Read images of a unit whose other images fill what a unit may have of memory.

    Raises:
        GivenBackError: most of them cannot be read.
    """
    images = _read(entries, job, None)
    if (reason := weather(images)) is not None:
        raise GivenBackError(reason)
    return images


def _fetched_unit(shard_id: int, again: bool, job: LabelJob) -> pa.Table:
    started, images, given_back = time.perf_counter(), list[FetchedImage](), None
    try:
        entries = read_unit(job.output, shard_id, job.manifest_digest, job.store)
        if again and (pending := _pending(shard_id, job)) is not None:
            entries = [entry for entry in entries if entry.image_id in pending]
        else:
            again = False
        images = _read(entries, job, round(MORE_BYTES * job.unit_bytes))
        given_back = weather(images)
    except StorageError as error:
        given_back = str(error)
    unit = {"shard_id": shard_id, "again": again, "given_back": given_back}
    fetch_s = time.perf_counter() - started
    return fetched_table({**unit, "fetch_s": fetch_s}, [] if given_back else images)


def _read(
    entries: Sequence[ImageEntry], job: LabelJob, most_bytes: int | None
) -> list[FetchedImage]:
    alone = replace(job.store, patience_s=0.0)
    read = Stretches([entry.uri for entry in entries], alone.read_bytes, alone.read_cells)
    return fetch_images(entries, read, job.image_timeout_s, job.patience_s, most_bytes)


def _pending(shard_id: int, job: LabelJob) -> set[int] | None:
    """Ids of the images of a shard that are to be tried again; None where it must be made anew."""
    try:
        return pending_ids(job.output, shard_id, job.store)
    except InputError as error:
        logger.warning("%s; unit %d is done again", error, shard_id)
        return None


def weather(images: Sequence[FetchedImage]) -> str | None:
    """The commonest reason where most images of a unit could not be read; None where few."""
    reasons = Counter(
        reason_of(image.error) for image in images if image.error is not None and not image.final
    )
    failed = reasons.total()
    if failed < MOST or failed <= len(images) / 2:
        return None
    return f"{failed} of {len(images)} images could not be read: {reasons.most_common(1)[0][0]}"


def fetch_images(
    entries: Sequence[ImageEntry],
    read: Callable[[str], bytes],
    timeout_s: float,
    patience_s: float = 0.0,
    most_bytes: int | None = None,
) -> list[FetchedImage]:
    """Read images concurrently; each has `timeout_s`, retries included, once its read began.

    A read that never returns keeps its thread: the image fails, a new thread takes its place.
    Images that fail in a way that passes, or most of all images, are tried again for `patience_s`.
    Once `most_bytes` are read, no read is begun any more: what is left is unread.
    """
    passing: set[int] = set()
    found = _read_all(dict(enumerate(entries)), read, timeout_s, passing, most_bytes)
    deadline, wait_s, most = time.monotonic() + patience_s, _FIRST_WAIT_S, False
    while True:
        failed = [
            position
            for position, image in found.items()
            if image.error is not None and not image.final
        ]
        most = most or weather(list(found.values())) is not None
        waited_for = failed if most else [position for position in failed if position in passing]
        left_s = deadline - time.monotonic()
        if not waited_for or left_s <= 0:
            return [
                found.get(position) or FetchedImage(entry, None, None)
                for position, entry in enumerate(entries)
            ]
        time.sleep(min(wait_s, left_s))
        wait_s = min(2 * wait_s, LONGEST_DELAY_S)
        for some in (waited_for[:_PROBES], waited_for[_PROBES:]):
            chosen = {position: entries[position] for position in some}
            tried = _read_all(chosen, read, timeout_s, passing)
            found |= tried
            if all(image.error is not None for image in tried.values()):
                break


def _read_all(
    entries: Mapping[int, ImageEntry],
    read: Callable[[str], bytes],
    timeout_s: float,
    passing: set[int],
    most_bytes: int | None = None,
) -> dict[int, FetchedImage]:
    """One attempt at each image, by its position; `passing` is told whose failure may pass.

    After `most_bytes` the images that are left are none of the results.
    """
    results: dict[int, FetchedImage] = {}
    read_bytes = 0
    running: dict[Future[bytes], tuple[int, float]] = {}
    waiting = deque(entries.items())
    while waiting or running:
        if most_bytes is not None and read_bytes >= most_bytes:
            waiting.clear()
        while waiting and len(running) < FETCH_THREADS:
            position, entry = waiting.popleft()
            future = _in_thread(_whole, read, entry.uri)
            running[future] = (position, time.monotonic() + timeout_s)
        if not running:
            break
        deadline = min(end for _, end in running.values())
        wait(running, max(0.0, deadline - time.monotonic()), return_when=FIRST_COMPLETED)
        for future, (position, end) in list(running.items()):
            if future.done() or time.monotonic() >= end:
                del running[future]
                results[position], passes = _fetched(entries[position], future, timeout_s)
                (passing.add if passes else passing.discard)(position)
                read_bytes += len(results[position].data or b"")
    return results


def _whole(read: Callable[[str], bytes], uri: str) -> bytes:
    """A file; one that seems cut short is read twice: not every store says how long it is."""
    data = read(uri)
    if not looks_cut(data) or cell_of(uri) is not None:
        return data
    return max(data, read(uri), key=len)


def _in_thread(action: Callable[..., bytes], *arguments: Any) -> Future[bytes]:
    """Run a read in a daemon thread of its own, which a stalled store cannot make us wait for."""
    future: Future[bytes] = Future()

    def work() -> None:
        try:
            future.set_result(action(*arguments))
        except Exception as error:
            future.set_exception(error)

    Thread(target=work, daemon=True).start()
    return future


def _fetched(
    entry: ImageEntry, future: Future[bytes], timeout_s: float
) -> tuple[FetchedImage, bool]:
    """What came of a read, and whether its failure may pass."""
    if not future.done():
        return FetchedImage(entry, None, f"timeout: not read within {timeout_s:g} s"), True
    try:
        return FetchedImage(entry, future.result(), None), False
    except FileNotFoundError:
        return FetchedImage(entry, None, "there is no such file"), False
    except ImageError as error:
        return FetchedImage(entry, None, storage.printable(str(error)), final=True), False
    except MissingPackageError:
        raise  # no fault of the image: all of them would end as failed rows
    except NttRayError as error:
        passes = isinstance(error, StorageError) and error.passing
        return FetchedImage(entry, None, storage.printable(str(error))), passes
