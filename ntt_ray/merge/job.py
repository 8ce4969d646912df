"""The merge of a run: which shards, classes and thresholds, and whether the run is complete.

Reads a run by its record. Only the merge of a large run needs Ray, and nothing the models.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ntt_ray import storage
from ntt_ray.config import Config
from ntt_ray.errors import InputError, RunIncompleteError
from ntt_ray.json_input import read_json
from ntt_ray.merge.calibration import Calibration, calibrated, unlike_run
from ntt_ray.merge.classes import ClassChoice, choose_classes
from ntt_ray.merge.digests import digest_of_file
from ntt_ray.merge.fragments import Layout
from ntt_ray.merge.instances import ShardIndex
from ntt_ray.merge.leftovers import remove_files, remove_image_files
from ntt_ray.merge.passes import (
    MergeCounts,
    OnProgress,
    check_sizes,
    count_shards,
    write_profiles,
)
from ntt_ray.merge.record import (
    MergeRecord,
    read_merge_record,
    stretches,
    version_of,
    write_merge_record,
)
from ntt_ray.merge.rendering import Mapper, Merge, Source, Written, map_here
from ntt_ray.merge.target import check_target, target_of
from ntt_ray.merge.thresholds import Thresholds
from ntt_ray.run import manifest as manifest_file
from ntt_ray.run.failures import Allowed
from ntt_ray.run.identity import scores_content
from ntt_ray.run.layout import MANIFEST_FILE, MERGE_LOCK_FILE, RECORD_FILE
from ntt_ray.run.lock import RunLock
from ntt_ray.run.record import RunRecord, recorded_run
from ntt_ray.run.shard import existing_shards
from ntt_ray.storage import Storage

logger = logging.getLogger(__name__)
UNITS_SHOWN = 20
DIFFERENCES_SHOWN = 5
IMAGES_HERE = 20_000  # up to so many images, Ray would take longer to start than to merge them


def merge(
    config: Config,
    *,
    partial: bool = False,
    on_progress: OnProgress | None = None,
    to: str | None = None,
) -> tuple[list[str], MergeCounts]:
    """Merge the shards of a run into the files of its profiles.

    Args:
        config: the run.
        partial: merge what is there although shards are missing; the files say so in ``info``, and
            `check_complete` refuses the counts, because the run is not done.
        on_progress: called with the profile, its items written so far and its items in all.
        to: another prefix for the files and their ``merge.json``; those of the output stay.

    Returns:
        Names of the files that were written, but for folders with a file for every image; and
        what went through the merge.

    Raises:
        RunIncompleteError: shards are missing and `partial` is not set.
        InputError: `to` is not free, see `target`.
    """
    target = target_of(config.output, to)
    store = Storage(config.storage_options)
    recorded = recorded_run(config.output, store)
    choice, profiles = class_choice(config, recorded), config.profiles
    calibration = _calibration(config, store)
    thresholds = _thresholds(config, recorded, calibration)
    if calibration is not None:
        _warn_of(calibration, config, recorded)
    manifest = (config.output, recorded.identity.manifest, store)
    before = _merge_before(target, store)
    if to is not None:
        check_target(target, before, recorded.labels_hash, store)
    with RunLock(target, store, MERGE_LOCK_FILE) as lock:

        def progress(profile: str, done: int, total: int) -> None:
            lock.check()
            if on_progress is not None:
                on_progress(profile, done, total)

        before = _merge_before(target, store)
        units, missing = _shards(config, recorded, store, partial)
        mapper = mapper_of(recorded.plan.images)
        uris = functools.partial(_listed, "uri", *manifest)
        ids = functools.partial(_listed, "image_id", *manifest)
        source = Source(
            config.output, store, thresholds, uris, recorded.labels_hash, ids, to and target
        )
        shards = count_shards(source, units, mapper)
        info, per_file = merge_info(recorded, len(missing)), config.merge.images_per_file
        plan = Merge(
            *(source, Layout(shards), choice.labels, info, per_file, mapper),
            image_url=config.merge.image_url,
            val_share=config.merge.val_share,
            split_seed=config.merge.split_seed,
        )
        check_sizes(plan, profiles)
        if before is not None and before.labels_hash == recorded.labels_hash:
            names_of = functools.partial(_listed, "file_name", *manifest)
            remove_image_files(before, plan, shards, profiles, names_of)
        written = write_profiles(plan, profiles, progress)
        settings = config.resolved()["merge"]
        record = _record(recorded, plan, choice, shards, written, settings)
        lock.check()
        if before is not None:
            remove_files(before, record.files, source)
        write_merge_record(target, record, store)
    return list(record.files), MergeCounts.of(shards, len(missing))


def class_choice(config: Config, recorded: RunRecord) -> ClassChoice:
    """The classes of the merged files: `merge.classes` and `merge.rename`.

    Raises:
        InputError: the run has no class of that name.
    """
    return choose_classes(recorded.class_labels, config.merge.classes, config.merge.rename)


def _recorded_choice(choice: ClassChoice) -> tuple[tuple[int, int, str], ...] | None:
    if choice.categories is None:
        return None
    names = {label.category_id: label.name for label in choice.labels}
    return tuple((own, new, names[new]) for own, new in sorted(choice.categories.items()))


def _listed(column: str, output: str, digest: str, store: Storage, shard_id: int) -> list[Any]:
    """A column of the manifest: what it says of the images of a unit."""
    try:
        entries = manifest_file.read_unit(output, shard_id, digest, store)
    except FileNotFoundError:  # not that of the shard, which may be open
        where = storage.redact(storage.join(output, MANIFEST_FILE))
        raise InputError(f"{where}: no such file; `ntt-ray run` writes it again") from None
    return [getattr(entry, column) for entry in entries]


def _merge_before(target: str, store: Storage) -> MergeRecord | None:
    """The record of the merge before; one that is damaged is no reason not to merge again."""
    try:
        return read_merge_record(target, store)
    except InputError as error:
        logger.warning("files of the merge before may stay: %s", error)
        return None


def _record(
    recorded: RunRecord,
    plan: Merge,
    choice: ClassChoice,
    shards: Sequence[ShardIndex],
    written: Mapping[str, Written],
    settings: Mapping[str, Any],
) -> MergeRecord:
    source, thresholds, profiles = plan.source, plan.source.thresholds, written.values()
    run_uri = storage.join(source.output, RECORD_FILE)
    files = {name: digest for one in profiles for name, digest in one.files.items()}
    return MergeRecord(
        format_version=version_of(files.values()),
        labels_hash=recorded.labels_hash,
        run_sha256=digest_of_file(run_uri, source.store).sha256,
        min_score=thresholds.min_score,
        class_scores=tuple(sorted(thresholds.by_category.items())),
        classes=_recorded_choice(choice),
        settings=dict(settings),
        profiles=tuple(written),
        images_per_file=plan.images_per_file,
        units=stretches(shard.shard_id for shard in shards),
        shards=tuple(shard.sha256 for shard in shards),
        files=dict(files),
        folders={name: digest for one in profiles for name, digest in one.folders.items()},
        losses={name: one.loss for name, one in written.items() if one.loss is not None},
    )


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
            "`ntt-ray label` with the same config labels the rest; or merge what is there with "
            "--partial"
        )
    return [unit for unit in units if unit in existing], missing


def merge_thresholds(config: Config, recorded: RunRecord, store: Storage) -> Thresholds:
    """What ``annotations.json`` keeps: `merge.min_score`, `merge.calibration` over it, and classes.

    Raises:
        InputError: the calibration is missing or does not fit the run, or the run has no class of
            a name that is kept.
    """
    return _thresholds(config, recorded, _calibration(config, store))


def _calibration(config: Config, store: Storage) -> Calibration | None:
    uri = config.merge.calibration
    return None if uri is None else Calibration.parse(read_json(uri, store), uri)


def _thresholds(config: Config, recorded: RunRecord, calibration: Calibration | None) -> Thresholds:
    uri, thresholds = config.merge.calibration, Thresholds(config.merge.min_score)
    if calibration is not None and uri is not None:
        thresholds = calibrated(calibration, uri, recorded.class_labels, thresholds.min_score)
    return replace(thresholds, categories=class_choice(config, recorded).categories)


def _warn_of(calibration: Calibration, config: Config, recorded: RunRecord) -> None:
    """Say in the log that a calibration is of scores that were made in another way."""
    made_with = scores_content(recorded.identity.plain())
    found = unlike_run(calibration, recorded.identity.bank, made_with)
    if found:
        logger.warning(
            "merge.calibration: %s was made with other settings than the labels, so its scores may "
            "not mean here what they meant there: %s%s; `ntt-ray calibrate` with the config of the "
            "labels makes one that fits",
            storage.redact(config.merge.calibration or ""),
            "; ".join(found[:DIFFERENCES_SHOWN]),
            "; ..." if len(found) > DIFFERENCES_SHOWN else "",
        )


def check_complete(config: Config, counts: MergeCounts) -> None:
    """Whether the exit status may be 0.

    Raises:
        RunIncompleteError: shards are missing, or more images failed than `job` allows.
    """
    if counts.missing_shards:
        raise RunIncompleteError(
            f"{counts.missing_shards} shards are missing: the merged files hold a part of the run. "
            "`ntt-ray label` with the same config labels the rest, then merge again"
        )
    if (problem := Allowed.of(config.job).problem(counts.images, counts.reasons)) is not None:
        raise RunIncompleteError(problem)


def merge_info(recorded: RunRecord, missing: int) -> dict[str, Any]:
    """The ``info`` block: provenance without clocks, so that merging again gives the same bytes.

    It says how many shards were missing in a partial merge.
    """
    identity, units = recorded.identity, recorded.plan.units
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


def mapper_of(images: int) -> Mapper:
    """What works on the shards of so many images, for the same bytes: this process, or Ray."""
    if images <= IMAGES_HERE:
        return map_here
    from ntt_ray.run.cluster.tasks import map_on_ray

    return map_on_ray


def units_text(units: list[int]) -> str:
    """Units by number, the first of them, for a message."""
    text = ", ".join(str(unit) for unit in units[:UNITS_SHOWN])
    return text + (", ..." if len(units) > UNITS_SHOWN else "")
