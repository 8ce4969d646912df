"""The lists of images that YOLO trains and validates on, ``train.txt`` and ``val.txt``.

A line is ``./images/<file name>``, relative to the list, as Ultralytics takes it. Whether an image
is for validation depends on the hash of its name and a seed, so that a split stays as it is when
the labels change. Eight bytes an image are held.
"""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Iterator
from functools import partial

import numpy as np
import numpy.typing as npt

from ntt_ray import storage
from ntt_ray.errors import InputError
from ntt_ray.merge.digests import DigestingStream, FileDigest
from ntt_ray.merge.fragments import BY_IMAGE, Fragment
from ntt_ray.merge.image_files import readable_names
from ntt_ray.merge.rendering import Merge, Source
from ntt_ray.run.layout import YOLO_TRAIN, YOLO_VAL

_LINES = 4096  # in a chunk


def write_lists(merge: Merge) -> dict[str, FileDigest]:
    """Publish the lists; without `val_share`, or of one image, there is none for validation.

    Raises:
        InputError: a file name has a line break in it.
    """
    fragments = merge.layout.fragments(BY_IMAGE, 0, merge.layout.rows, 1)
    places = partial(places_of, source=merge.source, seed=merge.split_seed)
    hashes = np.concatenate([np.zeros(0, np.uint64), *merge.mapper(places, fragments)])
    first_train = first_place(hashes, merge.val_share)
    lists = {YOLO_TRAIN: False, **({YOLO_VAL: True} if first_train else {})}
    digests = {}
    for name, is_val in lists.items():
        stream = DigestingStream()
        chunks = _chunks(merge, fragments, first_train, is_val)
        uri = storage.join(merge.source.target, name)
        merge.source.store.publish_stream(uri, stream.through(chunks))
        digests[name] = stream.digest()
    return digests


def first_place(places: npt.NDArray[np.uint64], val_share: float) -> int:
    """The lowest place, of uint64 ``(images,)``, of an image to train on; those below validate.

    A share above 0 gives at least one image to each side, where there are two; 0: none validates.
    """
    count = min(max(1, round(val_share * len(places))), len(places) - 1) if val_share else 0
    return int(np.partition(places, count)[count]) if count > 0 else 0


def place_of(file_name: str, seed: int) -> int:
    """Where an image stands in the drawing: 64 bits of a hash."""
    digest = hashlib.blake2b(f"{seed}/{file_name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def places_of(fragment: Fragment, source: Source, seed: int) -> npt.NDArray[np.uint64]:
    """The places of a fragment's images that could be read."""
    names = readable_names([fragment], source)
    return np.array([place_of(name, seed) for name in names], dtype=np.uint64)


def _chunks(
    merge: Merge, fragments: list[Fragment], first_train: int, is_val: bool
) -> Iterator[bytes]:
    lines: list[str] = []
    for name in readable_names(fragments, merge.source):
        if (place_of(name, merge.split_seed) < first_train) == is_val:
            lines.append(list_line(name))
        if len(lines) == _LINES:
            yield "".join(lines).encode()
            lines = []
    yield "".join(lines).encode()


def list_line(file_name: str) -> str:
    """The line of an image.

    Raises:
        InputError: the name would be several lines.
    """
    if len(file_name.splitlines()) != 1:
        raise InputError(
            f"{file_name!r} has a line break in its name, which no list of YOLO can hold. Rename "
            "it, or leave yolo-seg out of merge.profiles"
        )
    return f"./images/{posixpath.normpath(file_name)}\n"
