"""Matching kept proposals again: another bank, other classes or thresholds, no image and no model.

The result is an output of its own, with the labels that a run with these settings would have: the
same function makes them of the same proposals. The encoder is loaded only where the references are
new and there is no bank of them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from ntt_ray import storage
from ntt_ray.bank.file import bank_digest
from ntt_ray.bank.inputs import BankInputs
from ntt_ray.bank.job import BuiltBank, build
from ntt_ray.config import Config
from ntt_ray.errors import InputError, RunIncompleteError
from ntt_ray.run import manifest as manifest_file
from ntt_ray.run.cluster.tasks import map_on_ray
from ntt_ray.run.job import Pace, RematchJob, UnitDone
from ntt_ray.run.layout import MANIFEST_FILE, again_uri
from ntt_ray.run.lock import RunLock
from ntt_ray.run.models import start_encoder
from ntt_ray.run.part import DriverLock
from ntt_ray.run.prepare import CheckClasses, publish_bank
from ntt_ray.run.proposal_shard import open_proposals, proposals_hash
from ntt_ray.run.record import make_record, write_record
from ntt_ray.run.rematch_plan import (
    RematchPlan,
    begun_output,
    check_same_output,
    make_rematch_plan,
)
from ntt_ray.run.shard import existing_shards, noted_units
from ntt_ray.sources.schema import carried
from ntt_ray.storage import Storage

logger = logging.getLogger(__name__)
OnUnit = Callable[[UnitDone, int, int], None]
UNITS_NAMED = 5


def rematch(
    config: Config, source: str, on_unit: OnUnit, check: CheckClasses | None = None
) -> dict[int, int]:
    """Match the kept proposals of a run again, into the output of the config.

    Args:
        config: the new run: its output, its references or bank, its settings of matching. What the
            proposals depend on must be as it was.
        source: the output of the run that kept them.
        on_unit: called for each finished unit with the images done so far, and the images in all.
        check: as of `run.label.label`.

    Returns:
        How many images each unit has.

    Raises:
        ConfigError: an option of the method needs what is not kept.
        InputError: there are no kept proposals, or not of all units; or the bank or the references
            cannot be used.
        OutputMismatchError: the proposals were kept with other settings, or the output holds
            another run.
        RunIncompleteError: a unit was worked on and has no labels.
    """
    plan = make_rematch_plan(config, source, check)
    store = Storage(config.storage_options, config.job.patience_s)
    with DriverLock(config.output, store, None) as driver:
        # another driver may have come first
        begun = begun_output(plan.config, plan.kept, plan.manifest, store)
        plan = replace(plan, begun=begun)
        job = _prepared(plan, store)
        lock = driver.at_work()
        noted = noted_units(config.output, store)
        work = sorted((set(range(len(plan.sizes))) - plan.begun.done) | noted)
        given_back = _match_units(job, plan, work, lock, on_unit) if work else {}
    missing = set(range(len(plan.sizes))) - existing_shards(config.output, store)
    if lost := missing | set(given_back):
        reasons = [f"; unit {unit}: {why}" for unit, why in given_back.items()][:UNITS_NAMED]
        raise RunIncompleteError(
            f"{len(lost)} of {len(plan.sizes)} units could not be matched; start the same command "
            "again. Where proposals are damaged, delete them and the shard of labels beside them, "
            f"and run `ntt-ray label` for their output first{''.join(reasons)}"
        )
    return dict(enumerate(plan.sizes))


def _prepared(plan: RematchPlan, store: Storage) -> RematchJob:
    """Build the bank where there is none, and write what a run begins with."""
    config, bank, built = plan.config, plan.bank, None
    if bank is None:
        built = _built(plan, store)
        bank = built.bank
    identity = plan.identity(bank_digest(bank.data))
    if plan.begun.recorded is not None:
        check_same_output(plan, identity)
        identity = plan.begun.recorded.identity
    else:
        uri = storage.join(config.output, MANIFEST_FILE)
        store.publish_stream(uri, plan.manifest.chunks())
        publish_bank(config, store, bank, plan.sources, built)
        record = make_record(
            identity=identity,
            config=config.resolved(),
            classes=bank.classes,
            units=len(plan.sizes),
            images=sum(plan.sizes),
            images_sha256=plan.kept.images_sha256,
            rematched_from=storage.redact(plan.source),
        )
        write_record(config.output, record, store)
    if config.proposals.embeddings:
        _say_what_is_not_kept(plan, store)
    return RematchJob(
        source=plan.source,
        proposals_hash=proposals_hash(plan.kept.identity),
        bank=bank.data,
        method=config.method,
        output=config.output,
        store=store,
        manifest_digest=identity.manifest,
        provenance=identity.provenance(),
        carries=bool(carried(manifest_file.manifest_schema(plan.manifest))),
        embeddings=config.proposals.embeddings,
    )


def _say_what_is_not_kept(plan: RematchPlan, store: Storage) -> None:
    """Versions before this one did not keep the features of whole images."""
    try:
        with open_proposals(plan.source, 0, store) as file:
            is_kept = "view_feature" in file.schema_arrow.names
    except InputError:
        return  # its unit will say it
    if not is_kept:
        logger.warning(
            "the features of whole images were not kept when these proposals were: the column "
            "embedding is null, those of detections are there"
        )


def _built(plan: RematchPlan, store: Storage) -> BuiltBank:
    """Build the bank of new references, with the encoder that the proposals were kept with."""
    assert isinstance(plan.sources, BankInputs)
    models, wanted = start_encoder(plan.config, store), plan.kept.identity.models.encoder.checkpoint
    digest = models.digests["encoder"]
    if digest != wanted:
        raise InputError(
            f"models.encoder.checkpoint: its SHA-256 is {digest[:12]}, and proposals were kept "
            f"with {wanted[:12]}; name the checkpoint of that run"
        )
    return build(plan.config, models.spec, models.resources, plan.sources, digest)


def _match_units(
    job: RematchJob, plan: RematchPlan, units: Sequence[int], lock: RunLock, on_unit: OnUnit
) -> dict[int, str]:
    """Match units in Ray tasks; gives why some were given back, by their number."""
    total, pace, given_back = sum(plan.sizes), Pace(), dict[int, str]()
    done = total - sum(plan.sizes[unit] for unit in units)
    logger.info("matching %d of %d units again", len(units), len(plan.sizes))
    for unit in map_on_ray(partial(_rematched, job), units):
        lock.check()
        if unit.given_back is not None:
            given_back[unit.shard_id] = unit.given_back
        elif not unit.unreachable:  # those of an earlier start may have healed in the source
            job.store.delete(again_uri(job.output, unit.shard_id))
        done += unit.images
        lock.progress = {"images_done": done, "images_per_s": pace.unit(unit)}
        on_unit(unit, done, total)
    return given_back


def _rematched(job: RematchJob, shard_id: int) -> UnitDone:
    from ntt_ray.run.match import rematched  # it needs torch, which a driver does without

    return rematched(job, shard_id)
