"""What comes after the shards: merge, evaluate, report, and whether the run is complete.

Reads a run by its record; needs neither Ray nor the models.
"""

from __future__ import annotations

import json
from typing import Any

from ntt_ray import storage
from ntt_ray.config import Config
from ntt_ray.errors import InputError, RunIncompleteError
from ntt_ray.outputs.coco import RESULTS_FILE, MergeCounts, merge_shards
from ntt_ray.outputs.merge_record import MergeRecord, stretches, write_merge_record
from ntt_ray.outputs.shards import existing_shards
from ntt_ray.pipeline import manifest as manifest_file
from ntt_ray.pipeline import record as run_record
from ntt_ray.quality.evaluate import evaluate
from ntt_ray.quality.report import write_report
from ntt_ray.references.dataset import load_references, read_json
from ntt_ray.storage import Storage

METRICS_FILE = "metrics.json"
MISSING_SHOWN = 20


def merge(config: Config, *, partial: bool = False) -> tuple[list[str], MergeCounts]:
    """Merge the shards of a run into its COCO files.

    Raises:
        RunIncompleteError: shards are missing and `partial` is not set.
    """
    store = Storage(config.storage_options)
    recorded = _record(config, store)
    units = range(int(recorded["plan"]["units"]))
    existing = existing_shards(config.output, store)
    missing = [unit for unit in units if unit not in existing]
    if missing and not partial:
        raise RunIncompleteError(
            f"{len(missing)} of {len(units)} shards are missing: {_shown(missing)}. Label the rest "
            "with the same command, or merge what is there with --partial"
        )
    merged = [unit for unit in units if unit in existing]
    settings = config.merge
    names, counts = merge_shards(
        config.output,
        merged,
        store,
        classes=run_record.record_classes(recorded),
        info=merge_info(recorded, len(missing)),
        min_score=settings.min_score,
        profiles=settings.profiles,
        images_per_file=settings.images_per_file,
    )
    record = MergeRecord(
        recorded["labels_hash"],
        settings.min_score,
        settings.profiles,
        settings.images_per_file,
        stretches(merged),
        tuple(names),
    )
    write_merge_record(config.output, record, store)
    return names, counts


def evaluate_run(config: Config) -> dict[str, Any]:
    """Compare ``results.json`` of a merged run with the ground truth; writes ``metrics.json``."""
    if config.ground_truth is None:
        raise InputError("ground_truth: is needed to evaluate")
    store = Storage(config.storage_options)
    recorded = _record(config, store)
    metrics = evaluate(
        read_json(config.ground_truth, store),
        read_json(storage.join(config.output, RESULTS_FILE), store),
        manifest_file.file_names(manifest_file.read_manifest(config.output, store)),
        run_record.record_classes(recorded),
    )
    text = json.dumps(metrics, indent=1, sort_keys=True) + "\n"
    store.publish_bytes(storage.join(config.output, METRICS_FILE), text.encode())
    return metrics


def report_run(config: Config, images_per_s: float | None = None) -> dict[str, Any]:
    """Write ``report.html`` and ``report.json`` of a run, whole or not.

    Args:
        config: the run.
        images_per_s: of the labelling that has just ended, when there was one.
    """
    store = Storage(config.storage_options)
    recorded = _record(config, store)
    digest = recorded["identity"]["manifest"]
    block = config.references
    references = None
    if block is not None:
        references = load_references(block.annotations, block.image_root, store, **block.choice())
    truth = read_json(config.ground_truth, store) if config.ground_truth is not None else None
    metrics_uri = storage.join(config.output, METRICS_FILE)
    with_metrics = truth is not None and store.exists(metrics_uri)
    return write_report(
        config.output,
        store,
        record=recorded,
        shard_ids=sorted(existing_shards(config.output, store)),
        read_unit=lambda unit: manifest_file.read_unit(config.output, unit, digest, store),
        min_score=config.merge.min_score,
        references=references,
        ground_truth=truth,
        metrics=read_json(metrics_uri, store) if with_metrics else None,
        images_per_s=images_per_s,
    )


def check_complete(config: Config, counts: MergeCounts) -> None:
    """Whether the exit status may be 0.

    Raises:
        RunIncompleteError: more images failed than `job.max_failed_fraction` allows.
    """
    allowed = config.job.max_failed_fraction
    if counts.failed > allowed * counts.images:
        raise RunIncompleteError(
            f"{counts.failed} of {counts.images} images failed, more than job.max_failed_fraction "
            f"{allowed:g} allows; the reasons are in the column 'error' of the shards"
        )


def _record(config: Config, store: Storage) -> dict[str, Any]:
    recorded = run_record.read_record(config.output, store)
    if recorded is None:
        raise InputError(f"{storage.redact(config.output)}: there is no run here; label first")
    return recorded


def merge_info(recorded: dict[str, Any], missing: int) -> dict[str, Any]:
    """The ``info`` block: provenance without clocks, so that merging again gives the same bytes.

    Args:
        recorded: the run record.
        missing: shards that were not there to be merged.
    """
    identity = recorded["identity"]
    units = recorded["plan"]["units"]
    partial = {"partial": f"{missing} of {units} shards are missing"} if missing else {}
    return {
        "description": "Instance masks proposed by ntt-ray from annotated references",
        "version": recorded["versions"].get("ntt-ray", ""),
        "labels_hash": recorded["labels_hash"],
        "bank": identity["bank"],
        "models": identity["models"],
        "method": identity["method"],
        **partial,
    }


def _shown(missing: list[int]) -> str:
    text = ", ".join(str(unit) for unit in missing[:MISSING_SHOWN])
    return text + (", ..." if len(missing) > MISSING_SHOWN else "")
