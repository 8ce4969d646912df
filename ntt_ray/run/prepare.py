"""One order of checks, for labelling, the dry run, the bank and calibration.

The config was checked as it was read. Then: the files that it names, the references or the ready
bank (`check_sources`); the run that is there, the images (`check_images`); only now Ray, the models
and the digests of their checkpoints (`start_models`); the bank (`usable_bank`); whether all of it
is the run that is there; and last what is written. So everything that can be known without a GPU is
refused before one is asked for, and nothing is written into an output of another run.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ntt_ray import storage
from ntt_ray.bank.file import BankFile, bank_digest
from ntt_ray.bank.inputs import BankInputs, bank_sources, existing_bank
from ntt_ray.bank.job import BuiltBank, build, examples_of
from ntt_ray.bank.report import write_bank_report
from ntt_ray.config import Config
from ntt_ray.errors import InputError, NttRayError
from ntt_ray.models.spec import ModelSpec
from ntt_ray.records import ClassLabel
from ntt_ray.run import manifest as manifest_file
from ntt_ray.run import manifest_writer
from ntt_ray.run.bank_ahead import check_bank
from ntt_ray.run.boxes_ahead import Boxes, check_boxes
from ntt_ray.run.cluster.placement import Resources
from ntt_ray.run.done import whole_shards
from ntt_ray.run.first_look import LOOKED_AT, look
from ntt_ray.run.identity import (
    Found,
    identity_of,
    recorded_unit_bytes,
    recorded_unit_images,
    with_unit_images,
)
from ntt_ray.run.layout import BANK_FILE, MANIFEST_FILE, RECORD_FILE
from ntt_ray.run.local_manifest import ManifestFile, local_manifest
from ntt_ray.run.lock import RunLock, say_held
from ntt_ray.run.models import CheckedModels, start_models
from ntt_ray.run.outlook import Weights, check_outlook
from ntt_ray.run.record import (
    Identity,
    RunRecord,
    check_same_run,
    make_record,
    read_record,
    write_record,
)
from ntt_ray.run.resume import check_listing, check_versions, list_digest
from ntt_ray.run.shard import existing_shards
from ntt_ray.sources.archives import check_packed_tars
from ntt_ray.sources.image_list import check_names, image_pieces
from ntt_ray.sources.schema import SCHEMA, Piece
from ntt_ray.stages import Stage
from ntt_ray.storage import Storage

logger = logging.getLogger(__name__)

# what comes after labelling may refuse the classes, and then the images' names, a batch at a time
CheckNames = Callable[[Iterator[list[str]]], None]
CheckClasses = Callable[[Sequence[ClassLabel]], CheckNames]


@dataclass(frozen=True)
class Plan:
    """What a start of this config would do: how much there is and is done, with which weights."""

    images: int
    units: int
    units_done: int
    classes: tuple[ClassLabel, ...]
    weights: tuple[Weights, ...]


@dataclass(frozen=True)
class Images:
    """The images of a run, and what is there of the run.

    Attributes:
        manifest: the manifest file, as it lies there or will be written; on this machine.
        sizes: how many images each unit has; the position is the shard id.
        done: ids of the units whose shard is there.
        recorded: the run record; None where no run was begun.
        lost: the manifest there is damaged or missing, and `manifest` was listed again.
    """

    manifest: ManifestFile
    sizes: tuple[int, ...]
    done: frozenset[int]
    recorded: RunRecord | None
    lost: bool = False


@dataclass(frozen=True)
class ReferenceRun:
    """Checked references, their bank, and what is needed to label with it.

    Attributes:
        inputs: the references.
        bank: the bank file.
        models: how to load both models.
        resources: what a labelling process reserves.
        found: what of an identity stands in no config.
    """

    inputs: BankInputs
    bank: bytes
    models: ModelSpec
    resources: Resources
    found: Found


@dataclass(frozen=True)
class Prepared:
    """A run whose inputs were checked, whose bank exists and whose record is written.

    Attributes:
        images: the images, by unit.
        models: both models, checked.
        bank: the bank file.
        identity: the identity as it is recorded: an older record may lack what is None today,
            and has another hash for it.
        boxes_sha256: SHA-256 of the file of boxes; empty where SAM2 is not asked with boxes.
    """

    images: Images
    models: CheckedModels
    bank: bytes
    identity: Identity
    boxes_sha256: str = ""


def make_plan(config: Config, check: CheckClasses | None = None) -> Plan:
    """Check everything that can be checked without starting anything, and say what is to do."""
    store = Storage(config.storage_options)
    sources = check_sources(config, store)
    check_names = None if check is None else check(classes_of(sources))
    images = _seen_images(config, store, check_names)
    boxes = check_boxes(config, store, images.manifest, images.recorded)
    check_settings(config, images, sources, boxes)
    check_bank(config, store, sources, images.recorded)
    weights = check_outlook(config, store)
    say_held(config.output, store)
    classes = tuple(classes_of(sources))
    done = len(images.done)
    return Plan(sum(images.sizes), len(images.sizes), done, classes, tuple(weights))


def classes_of(sources: BankInputs | BankFile) -> Sequence[ClassLabel]:
    """The classes that will be labelled."""
    return sources.classes if isinstance(sources, BankFile) else sources.classes()


def build_run_bank(config: Config) -> tuple[BankFile, dict[str, Any]]:
    """Build the memory bank of a config and publish it below its output, with its report.

    Returns:
        The bank, and the content of ``bank.json``. A bank that came ready is only reported on.
    """
    store = Storage(config.storage_options)
    sources = check_sources(config, store)
    if isinstance(sources, BankFile):
        return sources, write_bank_report(config.output, store, sources)
    with RunLock(config.output, store):
        recorded = read_record(config.output, store)
        check_bank(config, store, sources, recorded)
        built = _build(config, sources, start_models(config, store))
        if recorded is not None:
            digest = bank_digest(built.bank.data)
            identity = recorded.identity.model_copy(update={"bank": digest})
            check_same_run(recorded, identity, config.output)
        found = publish_bank(config, store, built.bank, sources, built)
    return built.bank, found


def prepare_references(config: Config, store: Storage) -> ReferenceRun:
    """Check the references of a config and make their bank, or take the one below its output."""
    inputs = check_sources(config, store)
    assert isinstance(inputs, BankInputs), "the config names a ready bank"
    models = start_models(config, store)
    bank, _ = usable_bank(config, store, inputs, models)
    found = _found(models, bank)
    return ReferenceRun(inputs, bank.data, models.spec, models.resources, found)


def _found(models: CheckedModels, bank: BankFile) -> Found:
    spec = models.spec
    return Found(bank_digest(bank.data), models.digests, spec.precision, spec.device)


def prepare_run(
    config: Config,
    store: Storage,
    sources: BankInputs | BankFile,
    check_names: CheckNames | None = None,
) -> Prepared:
    """Everything before the first unit; the caller holds the lock of the output.

    Raises:
        InputError: the images cannot be listed, boxes cannot be used, or the output holds
            something else.
        WeightsError: a checkpoint does not fit.
        OutputMismatchError: the output holds a run with other settings.
    """
    images = _seen_images(config, store, check_names)
    boxes = check_boxes(config, store, images.manifest, images.recorded)
    check_settings(config, images, sources, boxes)
    check_bank(config, store, sources, images.recorded)
    models = start_models(config, store)
    bank, built = usable_bank(config, store, sources, models)
    config = with_unit_images(config, images.manifest, images.recorded)
    found = replace(_found(models, bank), boxes=None if boxes is None else boxes.sha256)
    identity = identity_of(config, images.manifest, found)
    if images.recorded is not None:
        check_same_run(images.recorded, identity, config.output)
        _restore(config, store, images, bank)
        if boxes is not None:
            boxes.publish(config.output, store)
        return Prepared(images, models, bank.data, images.recorded.identity, found.boxes or "")
    store.publish_stream(storage.join(config.output, MANIFEST_FILE), images.manifest.chunks())
    if boxes is not None:
        boxes.publish(config.output, store)
    publish_bank(config, store, bank, sources, built)
    record = make_record(
        identity=identity,
        config=config.resolved(),
        classes=bank.classes,
        units=len(images.sizes),
        images=sum(images.sizes),
        images_sha256=list_digest(config.images, store, config.columns),
        boxes=None if boxes is None else boxes.recorded(),
    )
    write_record(config.output, record, store)
    return Prepared(images, models, bank.data, identity, found.boxes or "")


def check_sources(config: Config, store: Storage) -> BankInputs | BankFile:
    """The references of a config after every image was looked at, or its ready bank.

    Raises:
        InputError: a file that the config names is missing or damaged.
        ReferencesError: with every problem of the references.
    """
    check_output(config.output)
    for key, path in _named_files(config).items():
        if path is not None and not store.exists(path):
            where = storage.missing_folder(path)
            raise InputError(f"{key}: {storage.redact(path)}: no such file{where}")
    with Stage("looking at the references", at_once=False):
        return bank_sources(config, store)


def _named_files(config: Config) -> dict[str, str | None]:
    """Files that a run cannot do without, by the setting that names them.

    Published checkpoints are none of them: they are fetched when a run starts.
    """
    models, references, boxes = config.models, config.references, config.proposals.boxes
    return {
        "models.encoder.checkpoint": models.encoder.checkpoint,
        "models.proposer.checkpoint": models.proposer.checkpoint,
        "models.proposer.config": models.proposer.config,
        "references.annotations": None if references is None else references.annotations,
        "proposals.boxes": None if boxes is None else boxes.uri,
    }


def check_output(output: str) -> None:
    """Refuse a local output that cannot become a folder with files of ours."""
    if storage.is_uri(output):
        return
    path = Path(output)
    there = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    if not there.is_dir():
        raise InputError(f"output: {there} is a file; name a folder, which need not be there yet")
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"output: {there} may not be written to; name another folder")


def check_images(config: Config, store: Storage) -> Images:
    """The images of the run that was begun, or those that a new one would have.

    Of a run that was begun, what is not as it was then is said.

    Raises:
        InputError: there is no image, a list is malformed, or the output holds something else.
        OutputMismatchError: package versions differ, with `job.strict_versions`.
    """
    recorded = read_record(config.output, store)
    shards = existing_shards(config.output, store)
    lost = False
    if recorded is not None:
        check_versions(recorded, config.output, strict=config.job.strict_versions)
        manifest, lost = _recorded_manifest(config, recorded, store)
        if recorded.identity.images in ("", storage.redact(config.images)):  # else it is refused
            check_listing(config, recorded, manifest, store)
    elif shards:
        raise InputError(
            f"{storage.redact(config.output)}: holds shards but no {RECORD_FILE}; "
            "choose another output"
        )
    else:  # a manifest without a run record was never used
        manifest = new_manifest(config, store)
    sizes = tuple(manifest_file.unit_sizes(manifest))
    done = frozenset(shards & set(range(len(sizes))))
    if recorded is not None:
        ids = manifest_file.UnitIds(manifest)
        done = whole_shards(config.output, done, recorded.labels_hash, ids, store)
    return Images(manifest, sizes, done, recorded, lost)


def _seen_images(config: Config, store: Storage, refuse: CheckNames | None) -> Images:
    with Stage("looking at the images and at what is done", at_once=False):
        images = check_images(config, store)
        look_at_images(config, store, images)
    if refuse is not None:
        refuse(manifest_file.name_batches(images.manifest))
    return images


def look_at_images(config: Config, store: Storage, images: Images) -> None:
    """Read three images of the list, unless all units are done, and say what was found.

    Raises:
        RunIncompleteError: none of them could be read.
    """
    if len(images.done) == len(images.sizes):
        return
    last = sum(images.sizes) - 1
    rows = [round(share * last / (LOOKED_AT - 1)) for share in range(LOOKED_AT)]
    entries = manifest_file.entries_at(images.manifest, rows)
    for line in look(entries, store, config.job.image_timeout_s):
        logger.info("looked at %s", line)


def new_manifest(
    config: Config, store: Storage, recorded: RunRecord | None = None, *, loose: bool = False
) -> ManifestFile:
    """The manifest of the images that there are now; `loose`: with the columns of loose files."""
    pieces = image_pieces(
        config.images,
        config.image_root,
        store,
        allow_local=config.images_allow_local,
        columns=config.columns,
    )
    if loose:
        pieces = (Piece(found.images.select(SCHEMA.names), found.sizes) for found in pieces)
    wanted = config.job.images_per_unit
    if wanted == "auto" and recorded is not None:  # the rule may have been another one then
        wanted = recorded_unit_images(recorded) or wanted
    unit_bytes = config.job.unit_bytes if recorded is None else recorded_unit_bytes(recorded)
    manifest = manifest_writer.write_manifest(pieces, wanted, unit_bytes)
    check_names(lambda: manifest_file.name_columns(manifest), config.images)
    if recorded is None:
        ends = np.cumsum(manifest_file.unit_sizes(manifest)).tolist()
        per_unit = manifest_file.recorded_unit_images(manifest)
        check_packed_tars(manifest_file.image_batches(manifest), ends, per_unit, store)
    return manifest


def _recorded_manifest(
    config: Config, recorded: RunRecord, store: Storage
) -> tuple[ManifestFile, bool]:
    """The manifest of a run, and whether it was lost and is listed again.

    Raises:
        InputError: it is lost, and the images that there are now do not give it.
    """
    wanted = recorded.identity.manifest
    uri = storage.join(config.output, MANIFEST_FILE)
    with contextlib.suppress(FileNotFoundError):
        manifest = local_manifest(config.output, store)
        if manifest.sha256 == wanted:
            return manifest, False
    for loose in (False, True):  # runs of older versions have no keys
        with contextlib.suppress(NttRayError):
            manifest = new_manifest(config, store, recorded, loose=loose)
            if manifest.sha256 == wanted:
                return manifest, True
    raise InputError(
        f"{storage.redact(uri)}: is missing, or not the manifest that {RECORD_FILE} speaks of, and "
        "what `images` lists now does not give it either. Restore it, or choose another output"
    )


def usable_bank(
    config: Config, store: Storage, sources: BankInputs | BankFile, models: CheckedModels
) -> tuple[BankFile, BuiltBank | None]:
    """The ready bank, the one below the output if the same made it, or a new one with its pictures.

    Raises:
        InputError: another encoder made the ready bank, or the one that is to be extended.
    """
    bank = existing_bank(config, store, sources, models.encoder_record)
    if bank is not None:
        return bank, None
    assert isinstance(sources, BankInputs)
    built = _build(config, sources, models)
    return built.bank, built


def _restore(config: Config, store: Storage, images: Images, bank: BankFile) -> None:
    """Put back the files of the run that were lost and came out as they were."""
    uri = storage.join(config.output, BANK_FILE)
    try:
        there = bank_digest(store.read_bytes(uri))
    except FileNotFoundError:
        there = ""
    files = {MANIFEST_FILE: images.manifest.chunks() if images.lost else None}
    files[BANK_FILE] = iter([bank.data]) if there != bank_digest(bank.data) else None
    for name, chunks in files.items():
        if chunks is not None:
            logger.warning("%s was missing or another one, and is written again", name)
            store.publish_stream(storage.join(config.output, name), chunks)


def _build(config: Config, inputs: BankInputs, models: CheckedModels) -> BuiltBank:
    return build(config, models.spec, models.resources, inputs, models.digests["encoder"])


def publish_bank(
    config: Config,
    store: Storage,
    bank: BankFile,
    sources: BankInputs | BankFile,
    built: BuiltBank | None,
) -> dict[str, Any]:
    """Publish the bank, after its report where it was built just now; gives the report."""
    found: dict[str, Any] = {}
    if built is not None and isinstance(sources, BankInputs):
        examples = examples_of(sources, built, config.method.context_ratio)
        found = write_bank_report(config.output, store, bank, examples)
    store.publish_bytes(storage.join(config.output, BANK_FILE), bank.data)
    return found


def check_settings(
    config: Config, images: Images, sources: BankInputs | BankFile, boxes: Boxes | None = None
) -> None:
    """Refuse other settings than the run that is there began with, as far as the config tells.

    What only the models or the references tell is compared when they are there (`prepare_run`).

    Raises:
        OutputMismatchError: with every difference that is known by now.
    """
    if images.recorded is None:
        return
    own = None if boxes is None else boxes.sha256
    found = replace(Found.as_recorded(images.recorded), boxes=own)
    if isinstance(sources, BankFile):
        found = replace(found, bank=bank_digest(sources.data))
    if config.models.device != "auto":
        found = replace(found, device=config.models.device)
    if config.models.precision != "auto":
        found = replace(found, precision=config.models.precision)
    config = with_unit_images(config, images.manifest, images.recorded)
    check_same_run(images.recorded, identity_of(config, images.manifest, found), config.output)
