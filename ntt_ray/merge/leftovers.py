"""Files that the merge before wrote and the next one does not: which they are, and their removal.

Nothing else is ever removed: a file goes when ``merge.json`` names it, and one of a folder with a
file for every image when it is that of an image that the merge before wrote. Of which images that
was the shards say, and the manifest where a shard has changed or is gone since.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from ntt_ray.merge.fragments import Fragment, Slice
from ntt_ray.merge.image_files import THREADS, readable_names
from ntt_ray.merge.instances import ShardIndex
from ntt_ray.merge.profiles.class_maps import map_name
from ntt_ray.merge.profiles.yolo import label_name
from ntt_ray.merge.record import MergeRecord
from ntt_ray.merge.rendering import Merge, Source
from ntt_ray.run.layout import MERGED_FILE

# profile -> name of the file of an image
IMAGE_FILES = {"yolo-seg": label_name, "semantic-png": map_name}
NamesOf = Callable[[int], Sequence[str]]


# a shard whose images have files that have to go: its id, how many rows it has where it is the one
# that was merged before (else None), and the profiles whose files have to go
StaleShard = tuple[int, int | None, tuple[str, ...]]


def remove_image_files(
    before: MergeRecord,
    merge: Merge,
    shards: Sequence[ShardIndex],
    profiles: Sequence[str],
    names_of: NamesOf,
) -> None:
    """Remove files of images that the merge before wrote, before another of the same run begins.

    Args:
        before: the record of the merge before.
        merge: the merge to come.
        shards: the shards that it takes.
        profiles: the profiles that it writes.
        names_of: gives the file names of a unit's images in the manifest; picklable.
    """
    work = partial(remove_of_shard, source=merge.source, names_of=names_of)
    by_id = {shard.shard_id: shard for shard in shards}
    list(merge.mapper(work, _stale_shards(before, by_id, profiles)))


def _stale_shards(
    before: MergeRecord, shards: Mapping[int, ShardIndex], profiles: Sequence[str]
) -> Iterator[StaleShard]:
    for unit, sha256 in before.shard_digests().items():
        shard = shards.get(unit)
        same = shard is not None and shard.sha256 == sha256
        written = [p for p in IMAGE_FILES if p in before.profiles]
        if gone := tuple(p for p in written if not (same and p in profiles)):
            yield unit, shard.rows if shard is not None and same else None, gone


def remove_of_shard(shard: StaleShard, source: Source, names_of: NamesOf) -> None:
    """Remove the files of the images of a shard; those that are not there are fine."""
    shard_id, rows, profiles = shard
    if rows is None:
        names = names_of(shard_id)
    else:
        whole = Fragment((Slice(shard_id, 0, rows),), 1, rows)
        names = list(readable_names([whole], source))
    files = [IMAGE_FILES[profile](name) for profile in profiles for name in names]
    with ThreadPoolExecutor(THREADS, thread_name_prefix="remove") as pool:
        list(pool.map(source.delete, files))


def remove_files(before: MergeRecord, written: Collection[str], source: Source) -> None:
    """Remove the files of the merge before, after a merge has written its own."""
    for name in sorted(before.files.keys() - set(written)):
        if MERGED_FILE.fullmatch(name):  # a record that was edited is not trusted
            source.delete(name)
