"""Planning, the bank and labelling; what comes after the shards is in `outcome`.

Holds the order of checks: everything that can be known without a GPU is refused before one is
asked for, and nothing is written into an output that belongs to another run.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ntt_ray import storage
from ntt_ray.bank.file import BankFile, bank_digest
from ntt_ray.bank.job import (
    BankInputs,
    BuiltBank,
    build,
    checked_inputs,
    examples_of,
    read_bank,
    report_bank,
    reusable_bank,
)
from ntt_ray.config import DINOV3_LICENCE, Config
from ntt_ray.errors import InputError, RunIncompleteError
from ntt_ray.models.spec import ModelSpec
from ntt_ray.run import manifest as manifest_file
from ntt_ray.run import record as run_record
from ntt_ray.run.chain import label_units
from ntt_ray.run.cluster.connect import connect, decide, layout
from ntt_ray.run.cluster.metrics import DriverMetrics
from ntt_ray.run.cluster.placement import Resources
from ntt_ray.run.cluster.tasks import run_task
from ntt_ray.run.job import LabelJob, Pace, UnitDone
from ntt_ray.run.journal import delete_finished
from ntt_ray.run.layout import BANK_FILE, MANIFEST_FILE, RECORD_FILE
from ntt_ray.run.lock import RunLock
from ntt_ray.run.shard import existing_shards
from ntt_ray.run.stall_watch import StallWatch
from ntt_ray.sources.image_list import list_images
from ntt_ray.storage import Storage

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """What a start of this config would do."""

    images: int
    units: int
    units_done: int
    classes: tuple[str, ...]


@dataclass(frozen=True)
class ReferenceRun:
    """Checked references, their bank, and what is needed to label with it."""

    inputs: BankInputs
    bank: bytes
    models: ModelSpec
    resources: Resources


@dataclass(frozen=True)
class Prepared:
    """A run whose inputs were checked, whose bank exists and whose record is written."""

    job: LabelJob
    bank: bytes
    todo: tuple[int, ...]
    images_by_unit: tuple[int, ...]
    resources: Resources


def make_plan(config: Config) -> Plan:
    """Check everything that can be checked without starting anything, and say what is to do."""
    store = Storage(config.storage_options)
    _check_checkpoints_exist(config, store)
    if config.bank is None:
        classes = checked_inputs(config, store).classes()
    else:
        classes = read_bank(config.bank, store).classes
    data = _existing_manifest(config.output, store)
    if data is None:
        images = list_images(config.images, config.image_root, store)
        data = manifest_file.manifest_bytes(images, config.job.images_per_unit)
    sizes = manifest_file.unit_sizes(data)
    done = len(existing_shards(config.output, store) & set(range(len(sizes))))
    return Plan(sum(sizes), len(sizes), done, tuple(label.name for label in classes))


def build_run_bank(config: Config) -> tuple[BankFile, dict[str, Any]]:
    """Build the memory bank of a config and publish it below its output, with its report.

    Returns:
        The bank, and the content of ``bank.json``. A bank that came ready is only reported on.
    """
    store = Storage(config.storage_options)
    if config.bank is not None:
        ready = read_bank(config.bank, store)
        found = report_bank(config.output, ready, store)
        return ready, found
    inputs = checked_inputs(config, store)
    with RunLock(config.output, store):
        connect()
        spec, resources = _models(config, store)
        digests = _checked_digests(spec)
        built = build(config, spec, resources, inputs, digests["encoder"], store)
        recorded = run_record.read_record(config.output, store)
        if recorded is not None:
            new = {**recorded["identity"], "bank": bank_digest(built.bank.data)}
            run_record.check_same_run(recorded, new, config.output)
        found = _report(config, inputs, built, store)
        store.publish_bytes(storage.join(config.output, BANK_FILE), built.bank.data)
    return built.bank, found


def _report(config: Config, inputs: BankInputs, built: BuiltBank, store: Storage) -> dict[str, Any]:
    examples = examples_of(inputs, built, config.method.context_ratio)
    return report_bank(config.output, built.bank, store, examples)


def prepare_references(config: Config, store: Storage) -> ReferenceRun:
    """Check the references of a config and make their bank, or take the one below its output."""
    inputs = checked_inputs(config, store)
    connect()
    spec, resources = _models(config, store)
    digest = _checked_digests(spec)["encoder"]
    bank = reusable_bank(config.output, store, spec.encoder_record(digest), inputs)
    if bank is None:
        bank = build(config, spec, resources, inputs, digest, store).bank
    return ReferenceRun(inputs, bank.data, spec, resources)


def label(config: Config, on_unit: Callable[[UnitDone, int, int], None]) -> None:
    """Label every image of a config that has no row yet.

    Args:
        config: the run.
        on_unit: called for each finished unit with the images done so far, resumed ones included,
            and the images in all.
    """
    store = Storage(config.storage_options)
    inputs = checked_inputs(config, store) if config.references is not None else None
    ready_bank = read_bank(config.bank, store) if config.bank is not None else None
    with RunLock(config.output, store) as lock:
        prepared = _prepare(config, store, lock.token, inputs, ready_bank)
        total = sum(prepared.images_by_unit)
        done = total - sum(prepared.images_by_unit[unit] for unit in prepared.todo)
        if not prepared.todo:
            logger.info("all %d units are done already", len(prepared.images_by_unit))
            delete_finished(config.output, store)
            return
        largest = max(prepared.images_by_unit)
        chain = label_units(prepared.job, prepared.todo, prepared.bank, prepared.resources, largest)
        pace, metrics = Pace(), DriverMetrics(storage.redact(config.output))
        metrics.progress(done, total)
        with StallWatch() as watch:
            for unit in chain:
                lock.check()
                watch.unit_done()
                done += unit.images
                lock.progress = {"images_done": done, "images_per_s": pace.unit(unit)}
                metrics.unit(unit.write_s)
                metrics.progress(done, total)
                on_unit(unit, done, total)
        delete_finished(config.output, store)
        missing = sorted(set(prepared.todo) - existing_shards(config.output, store))
        if missing:
            raise RunIncompleteError(
                f"{len(missing)} of {len(prepared.todo)} units have no shard, the first is "
                f"{missing[0]}; start the same command again"
            )


def _prepare(
    config: Config,
    store: Storage,
    token: str,
    inputs: BankInputs | None,
    ready_bank: BankFile | None,
) -> Prepared:
    manifest = _existing_manifest(config.output, store)
    if manifest is None:
        images = list_images(config.images, config.image_root, store)
        manifest = manifest_file.manifest_bytes(images, config.job.images_per_unit)
    recorded = run_record.read_record(config.output, store)
    connect()
    spec, resources = _models(config, store)
    digests = _checked_digests(spec)
    encoder = spec.encoder_record(digests["encoder"])
    built, bank = None, ready_bank
    if bank is not None:
        bank.check_encoder(encoder, str(config.bank))
    else:
        assert inputs is not None
        bank = reusable_bank(config.output, store, encoder, inputs)
        if bank is None:
            built = build(config, spec, resources, inputs, digests["encoder"], store)
            bank = built.bank
    identity = _identity(config, spec, digests, manifest, bank.data)
    sizes = manifest_file.unit_sizes(manifest)
    if recorded is not None:
        run_record.check_same_run(recorded, identity, config.output)
    else:
        if existing_shards(config.output, store):
            raise InputError(
                f"{storage.redact(config.output)}: holds shards but no {RECORD_FILE}; "
                "choose another output"
            )
        store.publish_bytes(storage.join(config.output, MANIFEST_FILE), manifest)
        if built is not None and inputs is not None:
            _report(config, inputs, built, store)
        store.publish_bytes(storage.join(config.output, BANK_FILE), bank.data)
        record = run_record.make_record(
            identity=identity,
            config=config.resolved(),
            classes=bank.classes,
            units=len(sizes),
            images=sum(sizes),
        )
        run_record.write_record(config.output, record, store)
    done = existing_shards(config.output, store)
    job = LabelJob(
        output=config.output,
        store=store,
        manifest_digest=identity["manifest"],
        models=spec,
        method=config.method,
        decode=config.decode,
        image_timeout_s=config.job.image_timeout_s,
        decode_threads=max(1, round(resources.cpus_per_actor)),
        run_token=token,
        # as recorded: an older record may lack what is None here, and has another hash for it
        provenance=run_record.provenance(identity if recorded is None else recorded["identity"]),
    )
    todo = tuple(unit for unit in range(len(sizes)) if unit not in done)
    return Prepared(job, bank.data, todo, tuple(sizes), resources)


def _identity(
    config: Config, spec: ModelSpec, digests: dict[str, str], manifest: bytes, bank: bytes
) -> dict[str, Any]:
    """Everything that can change labels, and nothing else."""
    encoder, proposer = config.models.encoder, config.models.proposer
    return {
        "images": storage.redact(config.images),
        "image_root": config.image_root and storage.redact(config.image_root),
        "manifest": manifest_file.manifest_digest(manifest),
        "bank": bank_digest(bank),
        "models": {
            "encoder": {
                "name": encoder.name,
                "image_size": encoder.image_size,
                "checkpoint": digests["encoder"],
                "architecture": encoder.architecture and encoder.architecture.model_dump(),
            },
            "proposer": {
                "name": proposer.name,
                "image_size": proposer.image_size,
                "checkpoint": digests["proposer"],
                "config": digests.get("proposer_config"),
            },
            "precision": spec.precision,
            "compile": config.models.compile,
            "device": spec.device,
        },
        "decode": config.decode.model_dump(mode="json"),
        # options that are off are no part of it: they were none when older runs began
        "method": config.method.model_dump(mode="json", exclude_none=True),
        "job": {"images_per_unit": config.job.images_per_unit},
    }


def _check_checkpoints_exist(config: Config, store: Storage) -> None:
    """Files named by path or URI must be there; published ones are fetched when a run starts."""
    for block in (config.models.encoder, config.models.proposer):
        for path in (block.checkpoint, getattr(block, "config", None)):
            if path is not None and not store.exists(path):
                raise InputError(f"models: {storage.redact(path)}: no such file")


def _existing_manifest(output: str, store: Storage) -> bytes | None:
    """The manifest of a run that was started; one without its run record was never used."""
    if run_record.read_record(output, store) is None:
        return None
    return manifest_file.read_manifest(output, store)


def _models(config: Config, store: Storage) -> tuple[ModelSpec, Resources]:
    if config.models.encoder.is_dinov3:
        logger.info("%s", DINOV3_LICENCE)
    resources = decide(config.job, config.models.device)
    precision = config.models.precision
    if precision == "auto":
        on_gpu = resources.device == "cuda"
        precision = "bf16" if on_gpu and _has_bf16(resources) else "fp32"
    return ModelSpec(config.models, resources.device, precision, store), resources


def _has_bf16(resources: Resources) -> bool:
    """Whether every kind of GPU of the cluster computes in bfloat16."""

    def look() -> bool:
        import torch

        return bool(torch.cuda.is_bf16_supported(including_emulation=False))

    options = resources.actor_options()
    kinds = {node.accelerator for node in layout().nodes if node.gpus and node.accelerator}
    kind_options = [{"accelerator_type": kind} for kind in sorted(kinds)]
    if resources.accelerator is not None or not kinds:
        kind_options = [{}]
    return all(run_task(look, options=options | kind) for kind in kind_options)


def _checked_digests(spec: ModelSpec) -> dict[str, str]:
    return run_task(spec.checked_digests, options={"num_cpus": 0.5, "max_retries": 1})
