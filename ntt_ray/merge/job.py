"""The merge of a run: which shards, classes and thresholds, and whether the run is complete.

Reads a run by its record. Only the merge of a large run needs Ray, and nothing the models.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ntt_ray.config import Config
from ntt_ray.errors import RunIncompleteError
from ntt_ray.merge.classes import ClassChoice, choose_classes
from ntt_ray.merge.passes import MergeCounts, merge_shards
from ntt_ray.merge.record import MergeRecord, stretches, write_merge_record
from ntt_ray.merge.rendering import Mapper, map_here
from ntt_ray.merge.thresholds import Thresholds, calibrated
from ntt_ray.references.dataset import read_json
from ntt_ray.run import manifest as manifest_file
from ntt_ray.run.layout import MERGE_LOCK_FILE
from ntt_ray.run.lock import RunLock
from ntt_ray.run.record import RunRecord, recorded_run
from ntt_ray.run.shard import existing_shards
from ntt_ray.storage import Storage

UNITS_SHOWN = 20
IMAGES_HERE = 20_000  # up to so many images, Ray would take longer to start than to merge them
OnProgress = Callable[[str, int, int], None]


def merge(
    config: Config, *, partial: bool = False, on_progress: OnProgress | None = None
) -> tuple[list[str], MergeCounts]:
    """Merge the shards of a run into its COCO files.

    Args:
        config: the run.
        partial: merge what is there although shards are missing; the files say so in ``info``, and
            `check_complete` refuses the counts, because the run is not done.
        on_progress: called with the profile, its items written so far and its items in all.

    Raises:
        RunIncompleteError: shards are missing and `partial` is not set.
    """
    store = Storage(config.storage_options)
    recorded = recorded_run(config.output, store)
    choice, settings = class_choice(config, recorded), config.merge
    thresholds = replace(merge_thresholds(config, recorded, store), categories=choice.categories)
    with RunLock(config.output, store, MERGE_LOCK_FILE) as lock:
        merged, missing = _shards(config, recorded, store, partial)

        def progress(profile: str, done: int, total: int) -> None:
            lock.check()
            if on_progress is not None:
                on_progress(profile, done, total)

        written, counts = merge_shards(
            config.output,
            merged,
            store,
            classes=choice.labels,
            info=merge_info(recorded, len(missing)),
            thresholds=thresholds,
            profiles=settings.profiles,
            images_per_file=settings.images_per_file,
            uris=functools.partial(_uris, config.output, recorded.identity.manifest, store),
            mapper=_mapper(int(recorded.plan.images)),
            progress=progress,
        )
        record = MergeRecord(
            recorded.labels_hash,
            settings.min_score,
            settings.profiles,
            settings.images_per_file,
            stretches(merged),
            tuple(name for profile in written.values() for name in profile.names),
            tuple(sorted(thresholds.by_category.items())),
            _recorded_choice(choice),
            {name: n for profile in written.values() for name, n in profile.folders.items()},
            {name: profile.loss for name, profile in written.items() if profile.loss is not None},
        )
        lock.check()
        write_merge_record(config.output, record, store)
    return list(record.files), replace(counts, missing_shards=len(missing))


def class_choice(config: Config, recorded: RunRecord) -> ClassChoice:
    """The classes of the merged files: `merge.classes` and `merge.rename`.

    Raises:
        InputError: the run has no class of that name.
    """
    classes = recorded.class_labels
    return choose_classes(classes, config.merge.classes, config.merge.rename)


def _recorded_choice(choice: ClassChoice) -> tuple[tuple[int, int, str], ...] | None:
    if choice.categories is None:
        return None
    names = {label.category_id: label.name for label in choice.labels}
    return tuple((own, new, names[new]) for own, new in sorted(choice.categories.items()))


def _uris(output: str, digest: str, store: Storage, shard_id: int) -> list[str]:
    entries = manifest_file.read_unit(output, shard_id, digest, store)
    return [entry.uri for entry in entries]


def _shards(
    config: Config, recorded: RunRecord, store: Storage, partial: bool
) -> tuple[list[int], list[int]]:
    """The shards to merge, and those that are missing."""
    units = range(int(recorded.plan.units))
    existing = existing_shards(config.output, store)
    missing = [unit for unit in units if unit not in existing]
    if missing and not partial:
        raise RunIncompleteError(
            f"{len(missing)} of {len(units)} shards are missing: {units_text(missing)}. "
            "Label the rest with the same command, or merge what is there with --partial"
        )
    return [unit for unit in units if unit in existing], missing


def merge_thresholds(config: Config, recorded: RunRecord, store: Storage) -> Thresholds:
    """What ``annotations.json`` keeps: `merge.min_score`, and `merge.calibration` over it.

    Raises:
        InputError: the calibration is missing or does not fit the run.
    """
    uri, min_score = config.merge.calibration, config.merge.min_score
    if uri is None:
        return Thresholds(min_score)
    classes = recorded.class_labels
    return calibrated(read_json(uri, store), uri, classes, min_score)


def check_complete(config: Config, counts: MergeCounts) -> None:
    """Whether the exit status may be 0.

    Raises:
        RunIncompleteError: shards are missing, or more images failed than
            `job.max_failed_fraction` allows.
    """
    if counts.missing_shards:
        raise RunIncompleteError(
            f"{counts.missing_shards} shards are missing: the merged files hold a part of the run. "
            "Label the rest with the same command, then merge again"
        )
    allowed = config.job.max_failed_fraction
    if counts.failed > allowed * counts.images:
        raise RunIncompleteError(
            f"{counts.failed} of {counts.images} images failed, more than job.max_failed_fraction "
            f"{allowed:g} allows; the reasons are in the column 'error' of the shards"
        )


def merge_info(recorded: RunRecord, missing: int) -> dict[str, Any]:
    """The ``info`` block: provenance without clocks, so that merging again gives the same bytes.

    Args:
        recorded: the run record.
        missing: shards that were not there to be merged.
    """
    identity = recorded.identity
    units = recorded.plan.units
    partial = {"partial": f"{missing} of {units} shards are missing"} if missing else {}
    return {
        "description": "Instance masks proposed by ntt-ray from annotated references",
        "version": recorded.versions.get("ntt-ray", ""),
        "labels_hash": recorded.labels_hash,
        "bank": identity.bank,
        "models": identity.models.plain(),
        "decode": identity.decode,
        "method": identity.method,
        **partial,
    }


def _mapper(images: int) -> Mapper:
    """What runs the merge of so many images: this process, or Ray; the bytes are the same."""
    if images <= IMAGES_HERE:
        return map_here
    from ntt_ray.run.cluster.tasks import map_on_ray

    return map_on_ray


def units_text(units: list[int]) -> str:
    """Units by number, the first of them, for a message."""
    text = ", ".join(str(unit) for unit in units[:UNITS_SHOWN])
    return text + (", ..." if len(units) > UNITS_SHOWN else "")
