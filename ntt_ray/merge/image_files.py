"""Profiles with one file for each image: rows to images with their masks, files to the store.

A file is published in one step, so a merge that was killed leaves whole files only, and the next
one writes the same bytes over them. It does not know any format.
"""

from __future__ import annotations

import hashlib
import posixpath
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
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


# content of the file of an image; None where its format holds the masks as they are
Render = Callable[[LabelledImage], tuple[bytes, Loss | None]]
NameOf = Callable[[str], str]  # of the file of an image, relative to the output, by its file name
Published = tuple[FolderDigest, Loss | None]  # files of images, and the loss of all their masks


def write_image_files(merge: Merge, render: Render, name_of: NameOf, what: str) -> Published:
    """Publish a file for every image that could be read, those without instances too.

    Args:
        merge: the merge.
        render: makes the content of a file; picklable.
        name_of: gives the name of a file; picklable.
        what: what the files are, in the plural.

    Raises:
        InputError: a shard is damaged, a file name leads out of the output, or two images would
            share a file.
    """
    fragments = merge.layout.fragments(BY_IMAGE, 0, merge.layout.rows, 1)
    _check_distinct(merge, fragments, name_of, what)
    work = partial(publish_fragment, source=merge.source, render=render, name_of=name_of)
    published = list(merge.mapped(work, fragments, [f.items for f in fragments]))
    files = sum((folder for folder, _ in published), FolderDigest())
    return files, Loss.total(loss for _, loss in published)


def publish_fragment(
    fragment: Fragment, source: Source, render: Render, name_of: NameOf
) -> Published:
    """Publish the files of the images of a fragment."""
    published, losses = FolderDigest(), list[Loss | None]()

    def publish(name: str, data: bytes) -> FolderDigest:
        return FolderDigest.of(name, source.publish(name, data))

    with ThreadPoolExecutor(THREADS, thread_name_prefix="publish") as pool:
        images = _labelled_images(fragment, source)
        files = ((name_of(image.file_name), *render(image)) for image in images)
        while some := list(islice(files, _AT_ONCE)):
            names, contents, own = zip(*some)
            published = sum(pool.map(publish, names, contents), published)
            losses += own
    return published, Loss.total(losses)


def path_below(folder: str, file_name: str) -> str:
    """Where the file of an image lies: as deep below a folder as the image in its own.

    The folder is relative to the output, with a slash at the end.

    Raises:
        InputError: the name is absolute or leads out.
    """
    return folder + posixpath.normpath(storage.join("", file_name))


def _check_distinct(
    merge: Merge, fragments: Sequence[Fragment], name_of: NameOf, what: str
) -> None:
    """Whether every image gets a file of its own.

    Eight bytes an image are held: names are compared by a hash, and by themselves where that is
    the same.

    Raises:
        InputError: two images would share a file; some are named.
    """
    hashing = partial(hash_names, source=merge.source, name_of=name_of)
    hashes = [np.zeros(0, np.uint64), *merge.mapper(hashing, fragments)]
    values, counts = np.unique(np.concatenate(hashes), return_counts=True)
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


def hash_names(fragment: Fragment, source: Source, name_of: NameOf) -> npt.NDArray[np.uint64]:
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
