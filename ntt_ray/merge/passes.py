"""Merging the shards of a run: pass one counts them, pass two lets each profile write its files.

Two processes or two hundred, killed or not: the bytes depend on the shards and settings alone.
It does not know Ray; what runs the functions is handed in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from ntt_ray.merge.fragments import Layout
from ntt_ray.merge.instances import ShardIndex, index_shard
from ntt_ray.merge.profiles.class_maps import write_class_maps
from ntt_ray.merge.profiles.coco import write_coco, write_results
from ntt_ray.merge.profiles.instance_table import write_table
from ntt_ray.merge.profiles.label_studio import write_label_studio
from ntt_ray.merge.profiles.polygons import write_polygons
from ntt_ray.merge.profiles.yolo import write_yolo
from ntt_ray.merge.rendering import Mapper, Merge, Progress, Source, Written, map_here
from ntt_ray.merge.thresholds import Thresholds
from ntt_ray.records import ClassLabel
from ntt_ray.storage import Storage

SHARDS_PER_COUNT = 16
# a profile is a function: it publishes its files and gives their names
WRITERS: dict[str, Callable[[Merge], Written]] = {
    "coco": write_coco,
    "coco-results": write_results,
    "coco-polygon": write_polygons,
    "yolo-seg": write_yolo,
    "labelstudio": write_label_studio,
    "parquet": write_table,
    "semantic-png": write_class_maps,
}


@dataclass(frozen=True)
class MergeCounts:
    """What went through a merge; failed images have a row and are listed nowhere else.

    Attributes:
        images: rows of all merged shards, and by status: `ok`, `empty`, `failed`.
        detections: of all rows, of the classes that are kept.
        annotations: detections that reach their threshold.
        missing_shards: how many the run lacks (a partial merge).
    """

    images: int
    ok: int
    empty: int
    failed: int
    detections: int
    annotations: int
    missing_shards: int = 0


def merge_shards(
    output: str,
    shard_ids: Sequence[int],
    store: Storage,
    *,
    classes: Sequence[ClassLabel],
    info: Mapping[str, Any],
    thresholds: Thresholds,
    profiles: Sequence[str],
    images_per_file: int | None = None,
    uris: Callable[[int], Sequence[str]] | None = None,
    mapper: Mapper = map_here,
    progress: Callable[[str, int, int], None] = lambda _profile, _done, _total: None,
) -> tuple[dict[str, Written], MergeCounts]:
    """Write the files of some profiles.

    Args:
        output: the run's prefix.
        shard_ids: the shards to merge, in order.
        store: access to files.
        classes: that the files name, also those without a detection.
        info: goes into the ``info`` block; no clock in it, so the same run gives the same bytes.
        thresholds: the files have what reaches them; the results have every score.
        profiles: names from `WRITERS`.
        images_per_file: split ``annotations.json`` into self-contained files of so many images,
            with ids that are unique across them.
        uris: gives the addresses of a shard's images in their order; picklable.
        mapper: runs functions over items; in this process unless another is given.
        progress: called with a profile, its items written so far and its items in all.

    Returns:
        What each profile wrote, and counts.

    Raises:
        InputError: a shard is missing or damaged.
        StorageError: a file could not be written.
    """
    source = Source(output, store, thresholds, uris)
    shards = _index(source, shard_ids, mapper)
    layout, written = Layout(shards), {}
    for profile in profiles:
        told: Progress = partial(progress, profile)
        merge = Merge(source, layout, classes, info, images_per_file, mapper, told)
        written[profile] = WRITERS[profile](merge)
    return written, _counts(shards)


def index_shards(shard_ids: Sequence[int], source: Source) -> list[ShardIndex]:
    """Count some shards; see `instances.index_shard`."""
    return [
        index_shard(source.output, shard_id, source.store, source.thresholds)
        for shard_id in shard_ids
    ]


def _index(source: Source, shard_ids: Sequence[int], mapper: Mapper) -> list[ShardIndex]:
    starts = range(0, len(shard_ids), SHARDS_PER_COUNT)
    groups = [list(shard_ids[start : start + SHARDS_PER_COUNT]) for start in starts]
    counted = mapper(partial(index_shards, source=source), groups)
    return [shard for group in counted for shard in group]


def _counts(shards: Sequence[ShardIndex]) -> MergeCounts:
    return MergeCounts(
        images=sum(shard.rows for shard in shards),
        ok=sum(shard.ok for shard in shards),
        empty=sum(shard.empty for shard in shards),
        failed=sum(shard.failed for shard in shards),
        detections=sum(int(shard.found.sum()) for shard in shards),
        annotations=sum(int(shard.kept.sum()) for shard in shards),
    )
