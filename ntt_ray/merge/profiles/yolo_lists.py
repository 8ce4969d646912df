"""The lists of images that YOLO trains and validates on, ``train.txt`` and ``val.txt``.

A line is ``./images/<file name>``, relative to the list, as Ultralytics takes it. Whether an image
is for validation depends on the hash of its name and a seed, so that a split stays as it is when
the labels change. Eight bytes an image are held.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ntt_ray import storage
from ntt_ray.errors import InputError
from ntt_ray.merge.digests import FileDigest
from ntt_ray.merge.fragments import BY_IMAGE, IMAGES, Fragment
from ntt_ray.merge.image_files import readable_names
from ntt_ray.merge.rendering import Merge, Source, Texts
from ntt_ray.merge.text_files import Section, TextFile, publish_files
from ntt_ray.merge.thresholds import Thresholds
from ntt_ray.run.layout import YOLO_TRAIN, YOLO_VAL

_NAMES = [re.escape(posixpath.basename(name)) for name in (YOLO_TRAIN, YOLO_VAL)]


def write_lists(merge: Merge) -> Mapping[str, FileDigest]:
    """Publish the lists; without `val_share`, or of one image, there is none for validation.

    Raises:
        InputError: a file name has a line break in it.
    """
    fragments = merge.layout.fragments(BY_IMAGE, 0, merge.layout.rows, 1)
    places = partial(places_of, source=merge.source, seed=merge.split_seed)
    hashes = np.concatenate([np.zeros(0, np.uint64), *merge.mapper(places, fragments)])
    first_train = first_place(hashes, merge.val_share)
    lists = {YOLO_TRAIN: False, **({YOLO_VAL: True} if first_train else {})}
    source, images = merge.source, merge.layout.fragments(IMAGES, 0, merge.layout.rows, 1)
    files = []
    for name, is_val in lists.items():
        lines = partial(_lines, seed=merge.split_seed, first_train=first_train, is_val=is_val)
        files.append(TextFile(name, (Section("", 0, "", images, ("file_name", "height"), lines),)))
    folder, ours = storage.join(source.target, posixpath.dirname(YOLO_TRAIN)), "|".join(_NAMES)
    source.store.discard_unfinished(folder, re.compile(ours))
    return publish_files(replace(merge, progress=lambda _done, _total: None), files).files


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


def _lines(
    rows: pa.RecordBatch,
    _thresholds: Thresholds,
    _first_id: int,
    *,
    seed: int,
    first_train: int,
    is_val: bool,
) -> Texts:
    names = rows.filter(pc.is_valid(rows.column("height"))).column("file_name").to_pylist()
    chosen = [name for name in names if (place_of(name, seed) < first_train) == is_val]
    return pa.array([list_line(name) for name in chosen], pa.string()), None


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
