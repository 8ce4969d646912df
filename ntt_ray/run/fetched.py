"""The images of a fetched unit as a row of `FETCHED`, laid out once; and memory that is given back.

A unit may have a hundred megabytes. Its bytes are moved one image after the other into one piece of
memory of the right size, so that they are there once, and that piece goes back to the system with
the row. Allocators keep what was freed: a worker gives it back before it waits for more.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from ntt_ray.records import FetchedImage, ImageEntry
from ntt_ray.run.job import FETCHED

_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1  # of glibc's malloc.h
_KEPT_BYTES = 128 << 10  # what both are before they begin to grow


def fetched_table(unit: Mapping[str, Any], images: list[FetchedImage]) -> pa.Table:
    """A unit and its images as a table of `FETCHED` with one row.

    Args:
        unit: the other columns of the row.
        images: is empty afterwards, so that no image is there twice.
    """
    kind = FETCHED.field("images").type
    entries = [image.entry for image in images]
    columns = {
        "image_id": [entry.image_id for entry in entries],
        "file_name": [entry.file_name for entry in entries],
        "uri": [entry.uri for entry in entries],
        "error": [image.error for image in images],
        "final": [image.final for image in images],
    }
    fields = list(kind.value_type)
    arrays = [
        _moved(images) if f.name == "data" else pa.array(columns[f.name], f.type) for f in fields
    ]
    structs = pa.StructArray.from_arrays(arrays, fields=fields)
    listed = pa.LargeListArray.from_arrays(pa.array([0, len(entries)], pa.int64()), structs)
    own = {name: [unit[name]] for name in FETCHED.names if name != "images"}
    return pa.table({**own, "images": listed.cast(kind)}, schema=FETCHED)


def _moved(images: list[FetchedImage]) -> pa.Array:
    """The bytes of images, null where there are none; takes the images out of their list."""
    count = len(images)
    sizes = [0 if image.data is None else len(image.data) for image in images]
    offsets = np.cumsum([0, *sizes], dtype=np.int64)
    there = np.array([image.data is not None for image in images], np.bool_)
    # the system's pool, not Arrow's own: what is freed there is free
    buffer = pa.allocate_buffer(int(offsets[-1]), memory_pool=pa.system_memory_pool())
    target = np.frombuffer(buffer, np.uint8)
    images.reverse()  # a list gives memory back at its end
    for start, end in pairwise(offsets):
        if (data := images.pop().data) is not None:
            target[start:end] = np.frombuffer(data, np.uint8)
    validity = pa.py_buffer(np.packbits(there, bitorder="little").tobytes())
    parts = [validity, pa.py_buffer(offsets.tobytes()), buffer]
    return pa.Array.from_buffers(pa.large_binary(), count, parts)


def fetched_image(row: Mapping[str, Any]) -> FetchedImage:
    """An image out of a row of `FETCHED`."""
    entry = ImageEntry(row["image_id"], row["file_name"], row["uri"])
    return FetchedImage(entry, row["data"], row["error"], bool(row["final"]))


def keep_no_memory() -> None:
    """Let this process keep little of what is freed in it, from now on.

    Arrow takes memory from the system alone, so that what Ray makes of a row goes back, too. The C
    library would keep twice the largest piece that was freed, in each thread that read an image.
    """
    pa.set_memory_pool(pa.system_memory_pool())
    for option in (_MMAP_THRESHOLD, _TRIM_THRESHOLD):
        _c_library("mallopt", option, _KEPT_BYTES)


def give_memory_back() -> None:
    """Return to the system what Arrow and the C library keep of what was freed."""
    pa.default_memory_pool().release_unused()
    _c_library("malloc_trim", 0)


def _c_library(function: str, *arguments: int) -> None:
    """Call a function of the C library, where it has it."""
    with contextlib.suppress(OSError, AttributeError):
        getattr(ctypes.CDLL(None), function)(*arguments)
