"""Labelling every image that has no row yet: the lock, the checks, the chain, what is heard of it.

A driver may end at any moment: what was published stays, and the same command goes on from there.
Images that could not be read have rows that say so; they are tried again once everything else is
done, and by the next start.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial

from ntt_ray import storage
from ntt_ray.config import Config
from ntt_ray.errors import RunIncompleteError
from ntt_ray.run.chain import check_pace, label_units
from ntt_ray.run.cluster.metrics import DriverMetrics
from ntt_ray.run.drift import unit_order
from ntt_ray.run.drift_watch import DriftWatch
from ntt_ray.run.early_stop import EarlyStop
from ntt_ray.run.job import BoxPrompts, Keeping, LabelJob, Pace, UnitDone
from ntt_ray.run.journal import delete_finished
from ntt_ray.run.layout import again_uri, shard_uri
from ntt_ray.run.lock import RunLock
from ntt_ray.run.manifest import manifest_schema
from ntt_ray.run.part import DriverLock, Part
from ntt_ray.run.prepare import CheckClasses, Prepared, check_sources, classes_of, prepare_run
from ntt_ray.run.proposal_shard import metadata_of
from ntt_ray.run.shard import existing_shards, noted_units
from ntt_ray.run.stall_watch import StallWatch
from ntt_ray.settings import BoxSettings
from ntt_ray.sources.schema import carried
from ntt_ray.stages import Stage
from ntt_ray.storage import Storage

logger = logging.getLogger(__name__)
OnUnit = Callable[[UnitDone, int, int], None]
UNITS_NAMED = 5


@dataclass
class _Labelled:
    """What came of some units.

    Attributes:
        unreachable: units with images that are to be tried again.
        accelerators: the models of the GPUs that labelled them.
        given_back: why a unit was given back, by its number.
    """

    unreachable: set[int] = field(default_factory=set)
    accelerators: set[str] = field(default_factory=set)
    given_back: dict[int, str] = field(default_factory=dict)

    def add(self, unit: UnitDone) -> None:
        if unit.accelerator is not None:
            self.accelerators.add(unit.accelerator)
        if unit.given_back is not None:
            self.given_back[unit.shard_id] = unit.given_back
        elif unit.unreachable:
            self.unreachable.add(unit.shard_id)


def label(
    config: Config,
    on_unit: OnUnit,
    check: CheckClasses | None = None,
    part: Part | None = None,
) -> dict[int, int]:
    """Label every image of a config that has no row yet, and those that could not be read.

    Args:
        config: the run.
        on_unit: called for each finished unit with the images done so far, resumed ones included,
            and the images in all; of the part, if there is one.
        check: called with the classes before anything is started, and what it gives with the
            names of the images; may refuse them.
        part: which share of the units to label; other drivers label the others. None: all.

    Returns:
        How many images each unit has that this driver was to label, those that were done before
        included.

    Raises:
        RunIncompleteError: a unit was worked on and has no shard.
    """
    sources = check_sources(config, Storage(config.storage_options))
    check_names = None if check is None else check(classes_of(sources))
    store = Storage(config.storage_options, config.job.patience_s)
    with DriverLock(config.output, store, part) as driver:
        prepared = prepare_run(config, store, sources, check_names)
        units, done = range(len(prepared.images.sizes)), prepared.images.done
        lock = driver.at_work()
        noted = noted_units(config.output, store)
        # in an order that means nothing, so that folders do not look like drift
        order = unit_order(units, prepared.identity.manifest)
        own = order if part is None else part.units(order)
        work = {unit: False for unit in own if unit not in done}
        work |= {unit: True for unit in own if unit in done and unit in noted}
        found = _Labelled()
        send = partial(
            _label_units,
            *(prepared, own, lock, on_unit),
            part=part,
            stop_on_drift=config.job.stop_on_drift,
        )
        if work:
            job = _job(config, store, lock.token, prepared)
            found = send(job, work)
            if found.unreachable:
                logger.info("%d units have images to be tried again", len(found.unreachable))
                second = dict.fromkeys(sorted(found.unreachable), True)
                again = send(job, second)
                found.unreachable = again.unreachable | set(again.given_back)
                found.accelerators |= again.accelerators
            if len(found.accelerators) > 1:
                models = ", ".join(sorted(found.accelerators))
                logger.warning(
                    "labelled by GPUs of several models, whose labels differ: %s", models
                )
        else:
            logger.info("all %d units are done already", len(own))
        noted = noted_units(config.output, store) & set(own)
        for unit in noted - found.unreachable - set(found.given_back):
            store.delete(again_uri(config.output, unit))
        delete_finished(config.output, own, store)
        _check_shards(config, store, work, found)
        return {unit: prepared.images.sizes[unit] for unit in own}


def _label_units(
    prepared: Prepared,
    own: Collection[int],
    lock: RunLock,
    on_unit: OnUnit,
    job: LabelJob,
    units: Mapping[int, bool],
    *,
    part: Part | None,
    stop_on_drift: bool,
) -> _Labelled:
    """Send units through the chain, and tell the lock, the metrics and the caller of each."""
    sizes = prepared.images.sizes
    total = sum(sizes[unit] for unit in own)
    done = total - sum(sizes[unit] for unit, again in units.items() if not again)
    pace, metrics = Pace(), DriverMetrics(storage.redact(job.output))
    metrics.progress(done, total)
    found, early = _Labelled(), EarlyStop(fresh=not done)
    drift = DriftWatch(
        job.output,
        job.store,
        part,
        sum(not again for again in units.values()),
        stop=stop_on_drift,
        on_alarm=metrics.drift,
    )
    check_pace(len(units), sum(sizes[unit] for unit in units), prepared.models.resources)
    chain = label_units(job, units, prepared.bank, prepared.models.resources, max(sizes))
    what = f"loading weights and labelling the first of {len(units)} units"
    with StallWatch() as watch, Stage(what) as first:
        for unit in chain:
            first.end()
            lock.check()
            watch.unit_done()
            found.add(unit)
            try:
                early.unit(unit)
            except RunIncompleteError:
                chain.close()
                if early.useless:  # the run was fresh: all shards are of this start
                    for useless in existing_shards(job.output, job.store) & set(own):
                        job.store.delete(shard_uri(job.output, useless))
                raise
            done += 0 if unit.again else unit.images
            lock.progress = {"images_done": done, "images_per_s": pace.unit(unit)}
            metrics.unit(unit.write_s)
            metrics.progress(done, total)
            on_unit(unit, done, total)
            drift.unit(unit)
    return found


def _job(config: Config, store: Storage, token: str, prepared: Prepared) -> LabelJob:
    models, keeping, boxes = prepared.models, None, None
    if config.proposals.keep:
        kept = config.proposals
        keeping = Keeping(kept.max_iou, metadata_of(prepared.identity), kept.embeddings)
    if (asked := config.proposals.boxes) is not None:
        how = BoxSettings(**asked.model_dump(exclude={"uri"}))
        boxes = BoxPrompts(how, config.proposals.grid, prepared.boxes_sha256)
    return LabelJob(
        output=config.output,
        store=store,
        manifest_digest=prepared.identity.manifest,
        models=models.spec,
        method=config.method,
        decode=config.decode,
        image_timeout_s=config.job.image_timeout_s,
        patience_s=config.job.patience_s,
        hang_s=config.job.hang_s,
        decoders=max(1, round(models.resources.cpus_per_actor)),
        unit_bytes=config.job.unit_bytes,
        run_token=token,
        provenance=prepared.identity.provenance(),
        carries=bool(carried(manifest_schema(prepared.images.manifest))),
        keeping=keeping,
        boxes=boxes,
    )


def _check_shards(
    config: Config, store: Storage, units: Mapping[int, bool], found: _Labelled
) -> None:
    missing = sorted(set(units) - existing_shards(config.output, store)) if units else []
    if missing:
        reasons = [
            f"unit {unit}: {found.given_back[unit]}" for unit in missing if unit in found.given_back
        ][:UNITS_NAMED]
        raise RunIncompleteError(
            f"{len(missing)} of {len(units)} units have no shard, the first is {missing[0]}; "
            f"start the same command again{''.join(f'; {reason}' for reason in reasons)}"
        )
