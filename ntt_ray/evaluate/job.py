"""The evaluation of a merged run against its ground truth."""

from __future__ import annotations

from itertools import chain
from typing import Any

from ntt_ray import storage
from ntt_ray.coco_input import read_coco
from ntt_ray.config import Config
from ntt_ray.errors import InputError, RunIncompleteError
from ntt_ray.evaluate.evaluation import evaluate, evaluate_classes
from ntt_ray.json_input import read_json
from ntt_ray.merge.digests import digest_of_file, json_file, sealed
from ntt_ray.merge.job import class_choice, merge_thresholds, units_text
from ntt_ray.merge.record import MergeRecord, read_merge_record, results_digest
from ntt_ray.records import ClassLabel
from ntt_ray.run import manifest as manifest_file
from ntt_ray.run.layout import METRICS_FILE, RESULTS_FILE
from ntt_ray.run.record import RunRecord, recorded_run
from ntt_ray.storage import Storage


def evaluate_run(config: Config) -> dict[str, Any]:
    """Compare ``results.json`` of a merged run with the ground truth; writes ``metrics.json``.

    It says by its digest of which ``results.json`` it is.

    Raises:
        InputError: it is not of the last merge of this run.
        RunIncompleteError: it was merged without some of the shards.
    """
    store = Storage(config.storage_options)
    found = evaluate(*_judged(config), evaluator=config.evaluator)
    metrics = sealed({**found, "results_sha256": _digest_of_results(config.output, store)})
    store.publish_bytes(storage.join(config.output, METRICS_FILE), json_file(metrics))
    return metrics


def class_maps_of_run(config: Config) -> dict[str, Any]:
    """Class mIoU and FB-IoU of a merged run, of the detections that its `merge` settings keep.

    Raises:
        InputError, RunIncompleteError: see `evaluate_run`.
    """
    store = Storage(config.storage_options)
    thresholds = merge_thresholds(config, recorded_run(config.output, store), store)
    return evaluate_classes(*_judged(config), thresholds)


def _judged(config: Config) -> tuple[Any, Any, dict[int, str], tuple[ClassLabel, ...]]:
    """Ground truth, results, file names and classes of a merged run."""
    if config.ground_truth is None:
        raise InputError("ground_truth: is needed to evaluate")
    store = Storage(config.storage_options)
    recorded = recorded_run(config.output, store)
    merge = _merge_with_results(config, recorded, store)
    return (
        read_coco(config.ground_truth, store),
        _results(config.output, merge, store),
        manifest_file.file_names(manifest_file.read_manifest(config.output, store)),
        class_choice(config, recorded).labels,
    )


def _results(output: str, merge: MergeRecord, store: Storage) -> Any:
    """All detections, also where they are in several files."""
    found = [read_json(storage.join(output, name), store) for name in merge.results()]
    if len(found) == 1:
        return found[0]
    for name, part in zip(merge.results(), found, strict=True):
        if not isinstance(part, list):
            where = storage.redact(storage.join(output, name))
            raise InputError(f"{where}: is no list of results; merge again")
    return list(chain.from_iterable(found))


def _digest_of_results(output: str, store: Storage) -> str:
    """What `results_digest` gives for the files that lie there."""
    merge = read_merge_record(output, store)
    files = merge.results() if merge is not None else {}
    return results_digest(
        {
            name: digest_of_file(storage.join(output, name), store, file.parts if file else ())
            for name, file in files.items()
        }
    )


def _merge_with_results(config: Config, recorded: RunRecord, store: Storage) -> MergeRecord:
    merge = read_merge_record(config.output, store)
    if merge is None or merge.labels_hash != recorded.labels_hash or not merge.results():
        where = storage.redact(storage.join(config.output, RESULTS_FILE))
        raise InputError(
            f"{where}: is not of the last merge of this run; merge with the profile coco-results"
        )
    if missing := merge.missing(recorded.plan.units):
        raise RunIncompleteError(
            f"{RESULTS_FILE} was merged without {len(missing)} shards: {units_text(missing)}. "
            "Label what is missing, then merge again"
        )
    return merge
