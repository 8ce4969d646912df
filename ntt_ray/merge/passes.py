"""Merging the shards of a run: pass one counts them, pass two lets each profile write its files.

Two processes or two hundred, killed or not: the bytes depend on the shards and settings alone.
It does not know Ray; what runs the functions is handed in.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from ntt_ray import storage
from ntt_ray.errors import InputError
from ntt_ray.merge.fragments import FOUND, IMAGES, KEPT, OUTLINES, Measure
from ntt_ray.merge.instances import ShardIndex, index_shard
from ntt_ray.merge.profiles.class_maps import write_class_maps
from ntt_ray.merge.profiles.coco import write_coco, write_results
from ntt_ray.merge.profiles.hugging_face import write_dataset
from ntt_ray.merge.profiles.instance_table import write_table
from ntt_ray.merge.profiles.label_studio import TASKS, write_label_studio
from ntt_ray.merge.profiles.polygons import write_polygons
from ntt_ray.merge.profiles.webdataset import write_webdataset
from ntt_ray.merge.profiles.yolo import write_yolo
from ntt_ray.merge.rendering import Mapper, Merge, Source, Written
from ntt_ray.run.failures import Reasons

SHARDS_PER_COUNT = 16
# a profile is a function: it publishes its files and gives their digests
WRITERS: dict[str, Callable[[Merge], Written]] = {
    "coco": write_coco,
    "coco-results": write_results,
    "coco-polygon": write_polygons,
    "yolo-seg": write_yolo,
    "labelstudio": write_label_studio,
    "parquet": write_table,
    "semantic-png": write_class_maps,
    "webdataset": write_webdataset,
    "hf": write_dataset,
}
# of the profiles with one file for all images: what makes up its bytes
MEASURES: dict[str, tuple[Measure, ...]] = {
    "coco": (IMAGES, KEPT),
    "coco-results": (FOUND,),
    "coco-polygon": (IMAGES, OUTLINES),
    "labelstudio": (TASKS,),
}
OnProgress = Callable[[str, int, int], None]  # profile, its items written so far, and in all


@dataclass(frozen=True)
class MergeCounts:
    """What went through a merge; failed images have a row and are listed nowhere else.

    Attributes:
        images: how many rows all merged shards have.
        ok, empty, failed: how many of these rows have this status.
        detections: how many detections of the classes that are kept all rows have.
        annotations: how many of these detections reach their threshold.
        missing_shards: how many shards the run lacks (a partial merge).
        reasons: the images that failed, by kind of failure and reason.
        notes: the images by note, see `records.NOTES`.
    """

    images: int
    ok: int
    empty: int
    failed: int
    detections: int
    annotations: int
    missing_shards: int = 0
    reasons: Reasons = field(default_factory=dict)
    notes: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if sum(self.reasons.values()) != self.failed:  # by the reasons the exit status is decided
            raise ValueError("every failed image needs a reason")

    @classmethod
    def of(cls, shards: Sequence[ShardIndex], missing_shards: int = 0) -> MergeCounts:
        """Add up what was counted in the shards."""
        return cls(
            images=sum(shard.rows for shard in shards),
            ok=sum(shard.ok for shard in shards),
            empty=sum(shard.empty for shard in shards),
            failed=sum(shard.failed for shard in shards),
            detections=sum(int(shard.found.sum()) for shard in shards),
            annotations=sum(int(shard.kept.sum()) for shard in shards),
            missing_shards=missing_shards,
            reasons=sum((Counter(shard.reasons) for shard in shards), Counter[tuple[str, str]]()),
            notes=sum((Counter(shard.notes) for shard in shards), Counter[str]()),
        )


def count_shards(source: Source, shard_ids: Sequence[int], mapper: Mapper) -> list[ShardIndex]:
    """Pass one: count the instances of every shard, in order, and take its digest.

    Raises:
        InputError: a shard is missing, damaged or not that of its unit; it is named.
    """
    starts = range(0, len(shard_ids), SHARDS_PER_COUNT)
    groups = [list(shard_ids[start : start + SHARDS_PER_COUNT]) for start in starts]
    counted = mapper(partial(index_shards, source=source), groups)
    return [shard for group in counted for shard in group]


def index_shards(shard_ids: Sequence[int], source: Source) -> list[ShardIndex]:
    """Count some shards; see `instances.index_shard`."""
    return [
        index_shard(source.output, shard_id, source.store, source.thresholds, source.misfit)
        for shard_id in shard_ids
    ]


def check_sizes(merge: Merge, profiles: Sequence[str]) -> None:
    """Whether every file fits into the store, by what the shards say, before any is written.

    Raises:
        InputError: one is too large; the message has the setting that helps.
    """
    limit, rows = merge.source.store.largest_file(merge.source.target), merge.layout.rows
    if limit is None or not rows:
        return
    for profile in profiles:
        image_bytes = merge.layout.size(MEASURES.get(profile, ())) / rows
        if image_bytes * min(rows, merge.images_per_file or rows) > limit:
            fitting = 10 ** int(math.log10(max(1.0, limit / 2 / image_bytes)))
            raise InputError(
                f"merge.images_per_file: a file of the profile {profile} would have about "
                f"{image_bytes * min(rows, merge.images_per_file or rows) / 1e12:.1f} TB, and one "
                f"in {storage.redact(merge.source.target)} may have {limit / 1e12:.1f} TB; set "
                f"merge.images_per_file to {fitting} or less"
            )


def write_profiles(
    merge: Merge,
    profiles: Sequence[str],
    progress: OnProgress = lambda _profile, _done, _total: None,
) -> dict[str, Written]:
    """Pass two: write the files of some profiles, by their names in `WRITERS`.

    Raises:
        InputError: a shard is missing or damaged; it is named.
        StorageError: a file could not be written.
    """
    return {
        profile: WRITERS[profile](replace(merge, progress=partial(progress, profile)))
        for profile in profiles
    }
