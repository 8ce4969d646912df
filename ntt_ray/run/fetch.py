"""Before labelling: the bytes of a unit's images. Processes that fetch start without torch."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import asdict
from threading import Thread
from typing import Any

import pyarrow as pa

from ntt_ray import storage
from ntt_ray.errors import MissingPackageError, NttRayError
from ntt_ray.records import FetchedImage, ImageEntry
from ntt_ray.run.job import FETCHED, LabelJob
from ntt_ray.run.manifest import read_unit

FETCH_THREADS = 16


def fetch_units(batch: pa.Table, job: LabelJob) -> pa.Table:
    """Read the bytes of a unit's images; an image that cannot be read keeps the reason."""
    rows = []
    for shard_id in batch["shard_id"].to_pylist():
        started = time.perf_counter()
        entries = read_unit(job.output, shard_id, job.manifest_digest, job.store)
        images = fetch_images(entries, job.store.read_bytes, job.image_timeout_s)
        rows.append(
            {
                "shard_id": shard_id,
                "fetch_s": time.perf_counter() - started,
                "images": [
                    {**asdict(image.entry), "data": image.data, "error": image.error}
                    for image in images
                ],
            }
        )
    return pa.Table.from_pylist(rows, schema=FETCHED)


def fetch_images(
    entries: Sequence[ImageEntry], read: Callable[[str], bytes], timeout_s: float
) -> list[FetchedImage]:
    """Read images concurrently; each has `timeout_s`, retries included, once its read began.

    A read that never returns keeps its thread: the image fails, a new thread takes its place.
    """
    results: dict[int, FetchedImage] = {}
    running: dict[Future[bytes], tuple[int, float]] = {}
    waiting = deque(enumerate(entries))
    while waiting or running:
        while waiting and len(running) < FETCH_THREADS:
            position, entry = waiting.popleft()
            running[_in_thread(read, entry.uri)] = (position, time.monotonic() + timeout_s)
        deadline = min(end for _, end in running.values())
        wait(running, max(0.0, deadline - time.monotonic()), return_when=FIRST_COMPLETED)
        for future, (position, end) in list(running.items()):
            if future.done() or time.monotonic() >= end:
                del running[future]
                results[position] = _fetched(entries[position], future, timeout_s)
    return [results[position] for position in range(len(entries))]


def _in_thread(read: Callable[[str], bytes], uri: str) -> Future[bytes]:
    """Run a read in a daemon thread of its own, which a stalled store cannot make us wait for."""
    future: Future[bytes] = Future()

    def work() -> None:
        try:
            future.set_result(read(uri))
        except Exception as error:
            future.set_exception(error)

    Thread(target=work, daemon=True).start()
    return future


def _fetched(entry: ImageEntry, future: Future[bytes], timeout_s: float) -> FetchedImage:
    if not future.done():
        return FetchedImage(entry, None, f"timeout: not read within {timeout_s:g} s")
    try:
        return FetchedImage(entry, future.result(), None)
    except FileNotFoundError:
        return FetchedImage(entry, None, "there is no such file")
    except MissingPackageError:
        raise  # no fault of the image: all of them would end as failed rows, for good
    except NttRayError as error:
        return FetchedImage(entry, None, storage.printable(str(error)))


def fetched_image(row: Mapping[str, Any]) -> FetchedImage:
    """An image out of a row of `FETCHED`."""
    entry = ImageEntry(row["image_id"], row["file_name"], row["uri"])
    return FetchedImage(entry, row["data"], row["error"])
