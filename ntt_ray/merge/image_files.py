"""Profiles with one file for each image: rows to images with their masks, files to the store.

A file is published in one step, so a merge that was killed leaves whole files only, and the next
one writes the same bytes over them. It does not know any format.
"""

from __future__ import annotations

import hashlib
import posixpath
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ntt_ray import storage
from ntt_ray.errors import InputError
from ntt_ray.merge import mask_parts
from ntt_ray.merge.digests import FolderDigest
from ntt_ray.merge.fragments import BY_IMAGE, Fragment
from ntt_ray.merge.instances import flat_instances
from ntt_ray.merge.mask_parts import MaskPart, iter_parts
from ntt_ray.merge.rendering import Loss, Merge, Source, iter_rows, naming_shard
from ntt_ray.merge.thresholds import Thresholds

THREADS = 16  # of a process that wait for the store
_AT_ONCE = 64  # files in memory
_SHOWN = 4


@dataclass(frozen=True)
class LabelledImage:
    """An image and its kept instances.

    Attributes:
        file_name: file name of the image, as in the manifest.
        size_hw: height and width in pixels.
        instances: category id in the files and mask of each instance, by rank; can be read once.
    """

    file_name: str
    size_hw: tuple[int, int]
    instances: Iterator[tuple[int, MaskPart]]


@dataclass(frozen=True)
class ImageFile:
    """A file of an image.

    Attributes:
        name: name of the file, relative to the output.
        data: content of the file.
        loss: how far the masks in it are from ours; None: the format holds them as they are.
    """

    name: str
    data: bytes
    loss: Loss | None = None


Render = Callable[[LabelledImage], ImageFile]
Published = tuple[FolderDigest, Loss | None]  # files of images, and the loss of all their masks


def write_image_files(merge: Merge, render: Render) -> Published:
    """Publish a file for every image that could be read, those without instances too.

    What renders it must be picklable.

    Raises:
        InputError: a shard is damaged, or a file name leads out of the output.
    """
    fragments = merge.layout.fragments(BY_IMAGE, 0, merge.layout.rows, 1)
    work = partial(publish_fragment, source=merge.source, render=render)
    done, files, losses = 0, FolderDigest(), []
    with closing(merge.mapper(work, fragments)) as results:
        for fragment, (published, loss) in zip(fragments, results, strict=True):
            done, files = done + fragment.items, files + published
            losses.append(loss)
            merge.progress(done, merge.layout.rows)
    return files, Loss.total(losses)


def publish_fragment(fragment: Fragment, source: Source, render: Render) -> Published:
    """Publish the files of the images of a fragment."""
    published, losses = FolderDigest(), []

    def publish(file: ImageFile) -> FolderDigest:
        return FolderDigest.of(file.name, source.publish(file.name, file.data))

    with ThreadPoolExecutor(THREADS, thread_name_prefix="publish") as pool:
        files = map(render, _labelled_images(fragment, source))
        while some := list(islice(files, _AT_ONCE)):
            published = sum(pool.map(publish, some), published)
            losses += [file.loss for file in some]
    return published, Loss.total(losses)


def path_below(folder: str, file_name: str) -> str:
    """Where the file of an image lies: as deep below a folder as the image in its own.

    The folder is relative to the output, with a slash at the end.

    Raises:
        InputError: the name is absolute or leads out.
    """
    return folder + posixpath.normpath(storage.join("", file_name))


def check_distinct(merge: Merge, name_of: Callable[[str], str], what: str) -> None:
    """Whether every image gets a file of its own.

    Eight bytes an image are held: names are compared by a hash, and by themselves where that is
    the same.

    Raises:
        InputError: two images would share a file; some are named.
    """
    fragments = merge.layout.fragments(BY_IMAGE, 0, merge.layout.rows, 1)
    hashing = partial(hash_names, source=merge.source, name_of=name_of)
    with closing(merge.mapper(hashing, fragments)) as results:
        hashes = np.concatenate([np.zeros(0, np.uint64), *results])
    values, counts = np.unique(hashes, return_counts=True)
    repeated = values[counts > 1]
    if not len(repeated):
        return
    of_image: dict[str, list[str]] = {}
    for name in readable_names(fragments, merge.source):
        if _hash(name_of(name)) in repeated:
            of_image.setdefault(name_of(name), []).append(name)
    shared = [names for names in of_image.values() if len(names) > 1]
    if shared:
        shown = "; ".join(", ".join(names[:_SHOWN]) for names in shared[:_SHOWN])
        raise InputError(
            f"{len(shared)} {what} would each be that of several images, whose names are too much "
            f"alike: {shown}. Rename them, or leave this profile out of merge.profiles"
        )


def hash_names(
    fragment: Fragment, source: Source, name_of: Callable[[str], str]
) -> npt.NDArray[np.uint64]:
    """The hash of every file name that a fragment's images lead to."""
    hashes = [_hash(name_of(name)) for name in readable_names([fragment], source)]
    return np.array(hashes, dtype=np.uint64)


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")


def readable_names(fragments: Iterable[Fragment], source: Source) -> Iterator[str]:
    """File names of the images that could be read: those that have a file of their own."""
    for fragment in fragments:
        for part in fragment.slices:
            for rows in iter_rows(part, ("file_name", "height"), source):
                names, heights = (rows.column(i).to_pylist() for i in ("file_name", "height"))
                yield from (n for n, height in zip(names, heights, strict=True) if height)


def _labelled_images(fragment: Fragment, source: Source) -> Iterator[LabelledImage]:
    for part in fragment.slices:
        with naming_shard(part.shard_id):
            for rows in iter_rows(part, ("file_name", *mask_parts.COLUMNS), source):
                yield from _images_of(rows, source.thresholds)


def _images_of(rows: pa.RecordBatch, thresholds: Thresholds) -> Iterator[LabelledImage]:
    instances = flat_instances(rows, thresholds)
    found = Counter(instances.column("image_id").to_pylist())
    masks = zip(instances.column("category_id").to_pylist(), iter_parts(instances), strict=True)
    names = ("image_id", "file_name", "height", "width")
    columns = (rows.column(name).to_pylist() for name in names)
    for image_id, name, height, width in zip(*columns, strict=True):
        if height is not None:
            yield LabelledImage(name, (height, width), islice(masks, found[image_id]))
