"""The profile ``webdataset``: labels beside packed images, a tar for each file that holds images.

``webdataset/shard-000.tar`` has a member ``KEY.json`` for each image of ``shard-000.tar``, in its
order and with its keys, so that training reads both side by side. Images without an object have a
member, and those that failed have one that says why. Where several images share a key, as
``0001.left.jpg`` and ``0001.right.jpg``, a member is called after its image
(``0001.left.jpg.json``). What WebDataset skips, for want of a key, has a member that it skips too.
Labels of a file that is no tar are in ``FILE.tar``; those of loose images in ``loose.tar``.

A member is a JSON object: ``annotations`` and their ids as in ``annotations.json``, ``categories``
that occur, and the image's ``file_name``, ``image_id``, ``key``, ``source``, ``height``, ``width``,
``status``, ``error`` and ``failure``. No clock in it: the same run gives the same bytes.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, groupby, pairwise
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from ntt_ray import storage
from ntt_ray.errors import InputError
from ntt_ray.merge.digests import DigestingStream, FileDigest
from ntt_ray.merge.fragments import IMAGES, Fragment, Slice
from ntt_ray.merge.image_files import path_below
from ntt_ray.merge.instances import annotation_columns, flat_instances
from ntt_ray.merge.json_text import BETWEEN, annotation_texts
from ntt_ray.merge.rendering import Merge, Source, Written, iter_rows, naming_shard
from ntt_ray.records import ClassLabel
from ntt_ray.run.layout import LABEL_TARS
from ntt_ray.sources.archives import webdataset_key

LOOSE = "loose.tar"
_IMAGE = ("error", "failure", "file_name", "height", "image_id", "key", "source", "status", "width")
_COLUMNS = (
    *_IMAGE,
    *annotation_columns("category_id", "score", "bbox.list.element", "area", "counts"),
)
_CHUNK_BYTES = 1 << 20
_TAR = re.compile(r".+\.tar")

Stretch = tuple[Slice, int]  # rows of a shard, and the id of their first annotation
Job = tuple[str, tuple[Stretch, ...]]  # name of a tar, relative to the output, and its rows


class _Member(NamedTuple):
    key: str | None  # WebDataset's
    file_name: str
    content: bytes


def write_webdataset(merge: Merge) -> Written:
    """Write a tar for each file that holds images.

    Raises:
        InputError: a shard is damaged, the name of a packed file leads out of the output, or two
            packed files would share a tar.
    """
    jobs = _jobs(merge)
    for folder in sorted({name.rpartition("/")[0] for name, _ in jobs}):
        merge.source.store.discard_unfinished(storage.join(merge.source.target, folder), _TAR)
    wholes = [
        Fragment(tuple(s for s, _ in own), 1, sum(s.stop - s.start for s, _ in own))
        for _, own in jobs
    ]
    work = partial(publish_tar, source=merge.source, classes=merge.classes)
    digests = merge.mapped(work, jobs, [whole.items for whole in wholes])
    return Written(dict(zip((name for name, _ in jobs), digests, strict=True)))


def _jobs(merge: Merge) -> list[Job]:
    """The tars to write, in the order of the manifest."""
    fragments = merge.layout.fragments(IMAGES, 0, merge.layout.rows, 1)
    stretches: dict[str | None, list[Stretch]] = {}
    for found in merge.mapper(partial(find_sources, source=merge.source), fragments):
        for name, rows in found:
            own = stretches.setdefault(name, [])
            last = own[-1][0] if own else None
            if last is not None and (last.shard_id, last.stop) == (rows.shard_id, rows.start):
                own[-1] = (Slice(rows.shard_id, last.start, rows.stop), own[-1][1])
            else:
                own.append((rows, 1 + merge.layout.kept_before(rows)))
    jobs: dict[str, Job] = {}
    for packed, all_rows in stretches.items():
        name = tar_name(packed)
        if name in jobs:
            raise InputError(f"{name}: would hold the labels of two packed files; rename one")
        jobs[name] = (name, tuple(all_rows))
    return list(jobs.values())


def tar_name(packed: str | None) -> str:
    """Name of the tar with the labels of a packed file, relative to the output.

    >>> tar_name("day 1/shard-000.tar"), tar_name("shard-000.tar.gz")
    ('webdataset/day 1/shard-000.tar', 'webdataset/shard-000.tar.gz.tar')
    """
    if packed is None:
        return LABEL_TARS + LOOSE
    return path_below(LABEL_TARS, packed if packed.endswith(".tar") else f"{packed}.tar")


def find_sources(fragment: Fragment, source: Source) -> list[tuple[str | None, Slice]]:
    """Which rows are of which packed file: stretches of rows, in order."""
    found = []
    for part in fragment.slices:
        start = part.start
        with naming_shard(part.shard_id):
            for rows in iter_rows(part, ("image_id", "source"), source):
                for name, own in groupby(rows.column("source").to_pylist()):
                    stop = start + sum(1 for _ in own)
                    found.append((name, Slice(part.shard_id, start, stop)))
                    start = stop
    return found


def publish_tar(job: Job, source: Source, classes: Sequence[ClassLabel]) -> FileDigest:
    """Publish a tar, by its name and its rows; gives its digest."""
    name, stretches = job
    stream = DigestingStream()
    uri = storage.join(source.target, name)
    chunks = _gathered(_tar_pieces(_members(stretches, source, classes)))
    source.store.publish_stream(uri, stream.through(chunks))
    return stream.digest()


def _members(
    stretches: Iterable[Stretch], source: Source, classes: Sequence[ClassLabel]
) -> Iterator[_Member]:
    names = {label.category_id: label.name for label in classes}
    for part, next_id in stretches:
        with naming_shard(part.shard_id):
            for rows in iter_rows(part, _COLUMNS, source):
                numbers = pa.array(np.arange(len(rows)))
                instances = flat_instances(rows.append_column("row", numbers), source.thresholds)
                texts = annotation_texts(instances, next_id).to_pylist()
                categories = instances.column("category_id").to_pylist()
                counts = np.bincount(instances.column("row").to_numpy(), minlength=len(rows))
                ends = np.cumsum(counts).tolist()
                stored = [name for name in _IMAGE if name in rows.schema.names]
                images = rows.select(stored).to_pylist()
                for image, start, end in zip(images, [0, *ends], ends, strict=False):
                    own = {c: names[c] for c in sorted(set(categories[start:end]))}
                    content = _content(image, texts[start:end], own)
                    key = _member_key(image["key"], image["source"], image["file_name"])
                    yield _Member(key, image["file_name"], content)
                next_id += len(texts)


def _content(image: dict[str, Any], texts: Sequence[str], categories: dict[int, str]) -> bytes:
    listed = "".join(texts).removeprefix(BETWEEN)
    others = {"categories": [{"id": i, "name": name} for i, name in categories.items()]}
    rest = json.dumps(
        {**dict.fromkeys(_IMAGE), **image, **others}, separators=(",", ":"), sort_keys=True
    )
    return f'{{"annotations":[{listed}],{rest[1:]}\n'.encode("ascii")


def _member_key(key: str | None, packed: str | None, file_name: str) -> str | None:
    """The key that WebDataset will find; keys of tables that it would cut are escaped."""
    if key is None:
        return webdataset_key(file_name) if packed is None else None
    is_safe = not {"", ".."} & set(key.split("/")) and webdataset_key(f"{key}.json") == key
    return key if is_safe else key.replace("%", "%25").replace(".", "%2E").replace("/", "%2F")


def _tar_pieces(members: Iterable[_Member]) -> Iterator[bytes]:
    before = None
    for member, after in pairwise(chain(members, [None])):
        assert member is not None  # only the last is
        near = (before, after.key if after is not None else None)
        name = _member_name(member, is_shared=member.key in near)
        yield _header(name, len(member.content))
        yield member.content
        yield bytes(-len(member.content) % tarfile.BLOCKSIZE)
        before = member.key
    yield bytes(2 * tarfile.BLOCKSIZE)


def _member_name(member: _Member, *, is_shared: bool) -> str:
    """Name of a member; `is_shared`: the image before or behind it has the same key."""
    if member.key is None:  # WebDataset takes no name that begins with a dot
        return f".{member.file_name.replace('%', '%25').replace('/', '%2F')}.json"
    base = member.file_name.rpartition("/")[2]
    ending = f".{base.partition('.')[2]}" if is_shared else ""
    return f"{member.key}{ending}.json"


def _header(name: str, size: int) -> bytes:
    header = tarfile.TarInfo(name)
    header.size = size
    return header.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _gathered(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in fewer chunks."""
    some, size = [], 0
    for piece in pieces:
        some.append(piece)
        size += len(piece)
        if size >= _CHUNK_BYTES:
            yield b"".join(some)
            some, size = [], 0
    yield b"".join(some)
