"""The report of a run, from its record, shards, references and ground truth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ntt_ray import storage
from ntt_ray.coco_input import CocoFile, checked_truth, read_coco
from ntt_ray.config import Config
from ntt_ray.errors import InputError
from ntt_ray.json_input import read_json
from ntt_ray.merge.digests import SEAL, sealed
from ntt_ray.merge.job import mapper_of, merge_thresholds
from ntt_ray.merge.record import read_merge_record
from ntt_ray.merge.rendering import map_here
from ntt_ray.references.dataset import chosen_references
from ntt_ray.report.report import write_report
from ntt_ray.run import manifest as manifest_file
from ntt_ray.run.drift_watch import read_alarms
from ntt_ray.run.layout import ESTIMATE_FILE, METRICS_FILE
from ntt_ray.run.record import recorded_run
from ntt_ray.run.shard import existing_shards
from ntt_ray.storage import Storage


def report_run(
    config: Config,
    images_per_s: float | None = None,
    plan: Sequence[tuple[str, str]] = (),
) -> dict[str, Any]:
    """Write ``report.html`` and ``report.json`` of a run, whole or not.

    Args:
        config: the configuration of the run.
        images_per_s: speed of the labelling that has just ended, in images per second; None where
            there was none.
        plan: what the whole run will take, where this run is a sample of it; name and text of each.
    """
    store = Storage(config.storage_options)
    recorded = recorded_run(config.output, store)
    digest = recorded.identity.manifest
    block = config.references
    references = None
    if block is not None:
        references = chosen_references(block, store)
        if block.extends is not None:  # the extended bank may have given other ids
            classes = recorded.class_labels
            references = references.renumbered({c.name: c.category_id for c in classes})
    truth = read_coco(config.ground_truth, store) if config.ground_truth is not None else None
    metrics_uri = storage.join(config.output, METRICS_FILE)
    with_metrics = truth is not None and store.exists(metrics_uri)
    merged = read_merge_record(config.output, store)
    return write_report(
        config.output,
        store,
        record=recorded,
        shard_ids=sorted(existing_shards(config.output, store)),
        read_unit=lambda unit: manifest_file.read_unit(config.output, unit, digest, store),
        thresholds=merge_thresholds(config, recorded, store),
        references=references,
        ground_truth=truth if truth is not None and _has_masks(truth) else None,
        metrics=read_json(metrics_uri, store) if with_metrics else None,
        images_per_s=images_per_s,
        plan=plan,
        review=_review_of(config.output, recorded.labels_hash, store),
        drift=[alarm["text"] for alarm in read_alarms(config.output, store)],
        # the truth is only here
        mapper=mapper_of(recorded.plan.images) if truth is None else map_here,
        losses=merged.losses if merged and merged.labels_hash == recorded.labels_hash else None,
    )


def _review_of(output: str, labels_hash: str, store: Storage) -> Any:
    """What a review of these labels has estimated; None where there is none."""
    uri = storage.join(output, ESTIMATE_FILE)
    if not store.exists(uri):
        return None
    content = read_json(uri, store)
    if not isinstance(content, dict) or sealed(content).get(SEAL) != content.get(SEAL):
        raise InputError(
            f"{storage.redact(uri)}: is not as it was written; ntt-ray review estimate again"
        )
    return content if content.get("labels_hash") == labels_hash else None


def _has_masks(truth: CocoFile) -> bool:
    """Boxes have nothing to show beside masks: from them come metrics, and no pictures."""
    items = checked_truth(truth).annotations
    return not items.records or any(items.raw(n).get("segmentation") for n, _ in items.sound())
