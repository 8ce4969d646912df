"""Labelling every image that has no row yet: the lock, the checks, the chain, what is heard of it.

A driver may end at any moment: what was published stays, and the same command goes on from there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from ntt_ray import storage
from ntt_ray.config import Config
from ntt_ray.errors import RunIncompleteError
from ntt_ray.run.chain import label_units
from ntt_ray.run.cluster.metrics import DriverMetrics
from ntt_ray.run.job import LabelJob, Pace, UnitDone
from ntt_ray.run.journal import delete_finished
from ntt_ray.run.lock import RunLock
from ntt_ray.run.prepare import Prepared, check_sources, prepare_run
from ntt_ray.run.shard import existing_shards
from ntt_ray.run.stall_watch import StallWatch
from ntt_ray.storage import Storage

logger = logging.getLogger(__name__)
OnUnit = Callable[[UnitDone, int, int], None]


def label(config: Config, on_unit: OnUnit) -> None:
    """Label every image of a config that has no row yet.

    `on_unit` is called for each finished unit with the images done so far, resumed ones included,
    and the images in all.

    Raises:
        RunIncompleteError: a unit was worked on and has no shard.
    """
    store = Storage(config.storage_options)
    sources = check_sources(config, store)
    with RunLock(config.output, store) as lock:
        prepared = prepare_run(config, store, sources)
        sizes, done = prepared.images.sizes, prepared.images.done
        todo = [unit for unit in range(len(sizes)) if unit not in done]
        if todo:
            _label_units(_job(config, store, lock.token, prepared), prepared, todo, lock, on_unit)
        else:
            logger.info("all %d units are done already", len(sizes))
        delete_finished(config.output, store)
        _check_shards(config, store, todo)


def _label_units(
    job: LabelJob, prepared: Prepared, todo: Sequence[int], lock: RunLock, on_unit: OnUnit
) -> None:
    """Send the units through the chain, and tell the lock, the metrics and the caller of each."""
    sizes = prepared.images.sizes
    total = sum(sizes)
    done = total - sum(sizes[unit] for unit in todo)
    pace, metrics = Pace(), DriverMetrics(storage.redact(job.output))
    metrics.progress(done, total)
    chain = label_units(job, todo, prepared.bank, prepared.models.resources, max(sizes))
    with StallWatch() as watch:
        for unit in chain:
            lock.check()
            watch.unit_done()
            done += unit.images
            lock.progress = {"images_done": done, "images_per_s": pace.unit(unit)}
            metrics.unit(unit.write_s)
            metrics.progress(done, total)
            on_unit(unit, done, total)


def _job(config: Config, store: Storage, token: str, prepared: Prepared) -> LabelJob:
    models = prepared.models
    return LabelJob(
        output=config.output,
        store=store,
        manifest_digest=prepared.identity.manifest,
        models=models.spec,
        method=config.method,
        decode=config.decode,
        image_timeout_s=config.job.image_timeout_s,
        decoders=max(1, round(models.resources.cpus_per_actor)),
        run_token=token,
        provenance=prepared.identity.provenance(),
    )


def _check_shards(config: Config, store: Storage, units: Sequence[int]) -> None:
    missing = sorted(set(units) - existing_shards(config.output, store)) if units else []
    if missing:
        raise RunIncompleteError(
            f"{len(missing)} of {len(units)} units have no shard, the first is {missing[0]}; "
            "start the same command again"
        )
