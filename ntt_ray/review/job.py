"""A review of a run: draws, takes verdicts in, and says how right the labels are.

It reads the run by its record and writes below ``review/`` of its output; no models, and no Ray.
"""

from __future__ import annotations

import logging
import posixpath
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ntt_ray import storage
from ntt_ray.config import Config
from ntt_ray.errors import InputError, RunIncompleteError
from ntt_ray.json_input import read_json
from ntt_ray.merge.calibration import Calibration
from ntt_ray.merge.digests import json_file, sealed
from ntt_ray.merge.job import class_choice, merge_thresholds, units_text
from ntt_ray.merge.thresholds import Thresholds
from ntt_ray.records import ImageEntry
from ntt_ray.review.draw import Population, draw, read_population
from ntt_ray.review.problems import check_verdicts
from ntt_ray.review.records import ORDERS, Draw, Order, Verdicts, parse_verdicts, read_draw
from ntt_ray.review.summary import summarise
from ntt_ray.run import manifest as manifest_file
from ntt_ray.run.identity import scores_content
from ntt_ray.run.layout import (
    DRAW_FILE,
    ESTIMATE_FILE,
    PROMISE_FILE,
    VERDICTS_PREFIX,
    review_name,
)
from ntt_ray.run.record import RunRecord, recorded_run
from ntt_ray.run.shard import existing_shards
from ntt_ray.storage import Storage

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Review:
    """A run with what was drawn of it.

    Attributes:
        config: the configuration of the run.
        store: access to files.
        record: the run record.
        draw: what was drawn.
        verdicts: what each reviewer said, by name of the file.
    """

    config: Config
    store: Storage
    record: RunRecord
    draw: Draw
    verdicts: tuple[Verdicts, ...]

    def uri(self, name: str) -> str:
        """Where a file of this review lies, by its name in one that was drawn by probability."""
        return storage.join(self.config.output, review_name(name, self.draw.order))

    def entries(self) -> dict[int, ImageEntry]:
        """The images of the draw by id, with their addresses."""
        ids = {picture.image_id for picture in self.draw.pictures}
        digest, found = self.record.identity.manifest, dict[int, ImageEntry]()
        for unit in sorted({picture.unit for picture in self.draw.pictures}):
            read = manifest_file.read_unit(self.config.output, unit, digest, self.store)
            found |= {entry.image_id: entry for entry in read if entry.image_id in ids}
        return found


def open_review(config: Config) -> Review:
    """What was drawn of a run by probability, and its verdicts.

    Raises:
        InputError: nothing was drawn, or of another run.
    """
    store = Storage(config.storage_options)
    record = recorded_run(config.output, store)
    found = _opened(config, store, record, None)
    if found is None:
        uri = storage.join(config.output, DRAW_FILE)
        raise InputError(f"{storage.redact(uri)}: nothing was drawn yet; ntt-ray review draw")
    return found


def open_reviews(config: Config) -> list[Review]:
    """All reviews of a run: first what was drawn by probability, then what orders chose.

    Raises:
        InputError: there is none, or one of another run.
    """
    store = Storage(config.storage_options)
    record = recorded_run(config.output, store)
    every = (_opened(config, store, record, order) for order in (None, *ORDERS))
    return [found for found in every if found is not None] or [open_review(config)]


def _opened(
    config: Config, store: Storage, record: RunRecord, order: Order | None
) -> Review | None:
    uri = storage.join(config.output, review_name(DRAW_FILE, order))
    if not store.exists(uri):
        return None
    drawn = read_draw(uri, store)
    if drawn.labels_hash != record.labels_hash:
        raise InputError(f"{storage.redact(uri)}: was drawn from another run; draw again")
    if drawn.order != order:
        raise InputError(
            f"{storage.redact(uri)}: is of the order {drawn.order or 'random'}, and lies in the "
            "place of another; draw again"
        )
    return Review(config, store, record, drawn, read_verdicts(config.output, store, drawn))


def read_verdicts(output: str, store: Storage, drawn: Draw) -> tuple[Verdicts, ...]:
    """The verdicts that lie in an output, by name.

    Raises:
        InputError: a file is damaged, or speaks of a draw of another design.
    """
    folder = storage.join(output, posixpath.dirname(review_name(DRAW_FILE, drawn.order)))
    names = sorted(n for n in store.list_files(folder, (".json",)) if n.startswith(VERDICTS_PREFIX))
    found = []
    for name in names:
        uri = storage.join(folder, name)
        with _mending():
            verdicts = parse_verdicts(read_json(uri, store), uri)
        if verdicts.design != drawn.design:
            raise InputError(
                f"{storage.redact(uri)}: speaks of another draw (other labels, settings of merge, "
                "seed, --pool or --against); draw as before, or move these verdicts away"
            )
        with _mending():
            check_verdicts(verdicts, drawn, uri)
        found.append(verdicts)
    return tuple(found)


@contextmanager
def _mending() -> Iterator[None]:
    """An error of a file that was fine when it was imported says what to do with it."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{error}; mend this file, or move it away") from None


def draw_run(
    config: Config, *, labels: int, images: int, seed: int, publish: Callable[[Review], None]
) -> Review:
    """Draw labels and whole images of a finished run, and write ``draw.json``.

    Args:
        config: the run; its `merge` block says which labels are kept.
        labels: how many labels to draw.
        images: how many whole images to draw.
        seed: seed of the draw; a larger draw of the same seed holds the smaller one.
        publish: writes what people review, before ``draw.json`` appears.

    Raises:
        RunIncompleteError: shards are missing.
        InputError: no label is kept, or verdicts of another draw lie in the output.
    """
    population = population_of(config)
    store, record = population.store, recorded_run(config.output, population.store)
    priors = _priors(config, record, population.thresholds, store)
    drawn = draw(population, labels=labels, images=images, seed=seed, priors=priors)
    return published(Review(config, store, record, drawn, ()), publish)


def published(review: Review, publish: Callable[[Review], None]) -> Review:
    """Write what was drawn, with the verdicts that are there; ``draw.json`` comes last.

    Raises:
        InputError: verdicts of another draw lie in the output.
    """
    said = read_verdicts(review.config.output, review.store, review.draw)
    review = replace(review, verdicts=said)
    publish(review)
    review.store.publish_bytes(review.uri(DRAW_FILE), review.draw.to_bytes())
    return review


def population_of(config: Config) -> Population:
    """The labels that the `merge` block keeps of a finished run.

    Raises:
        RunIncompleteError: shards are missing.
        InputError: no label is kept.
    """
    store = Storage(config.storage_options)
    record = recorded_run(config.output, store)
    thresholds = merge_thresholds(config, record, store)
    units, classes = _all_units(config, record, store), class_choice(config, record).labels

    def kept(thresholds: Thresholds) -> Population:
        return read_population(
            config.output,
            units,
            store,
            labels_hash=record.labels_hash,
            thresholds=thresholds,
            classes=classes,
        )

    population = kept(thresholds)
    if not len(population.scores):
        found = len(kept(thresholds.any_score()).scores)
        mend = f"; lower merge.min_score of {thresholds.min_score:g}" if found else ""
        raise InputError(
            f"there is nothing to review: {population.images} images were labelled, {found} labels "
            f"found and none of them kept{mend}"
        )
    return population


def _all_units(config: Config, record: RunRecord, store: Storage) -> list[int]:
    existing = existing_shards(config.output, store)
    missing = [unit for unit in range(record.plan.units) if unit not in existing]
    if missing:
        raise RunIncompleteError(
            f"{len(missing)} of {record.plan.units} shards are missing: {units_text(missing)}. "
            "`ntt-ray label` with the same config labels the rest: a sample speaks of what it was "
            "drawn from"
        )
    return list(range(record.plan.units))


def _priors(
    config: Config, record: RunRecord, thresholds: Thresholds, store: Storage
) -> dict[int, float] | None:
    """What a calibration expects of each class, by category id of the merged files."""
    uri = config.merge.calibration
    if uri is None:
        return None
    evidence = Calibration.parse(read_json(uri, store), uri).classes
    kept = thresholds.categories
    found = {}
    for label in record.class_labels:
        own = evidence.get(label.name)
        merged = label.category_id if kept is None else kept.get(label.category_id)
        if own is not None and own.expected_precision is not None and merged is not None:
            found[merged] = own.expected_precision
    return found or None


def estimate_run(config: Config) -> dict[str, Any]:
    """Write ``estimate.json`` and, where a score can be promised, ``thresholds.json``.

    Returns:
        The content of ``estimate.json``.

    Raises:
        InputError: nothing was drawn, or there is no verdict yet.
    """
    review = open_review(config)
    if lost := undrawn(review):
        logger.warning(
            "%d verdicts are on labels or images that %s lacks, and count nowhere: draw as many as "
            "before with the same seed",
            lost,
            DRAW_FILE,
        )
    least, now = review.draw.depths[-1].score, review.config.merge.min_score
    if least < float(np.float32(now)):
        logger.warning(
            "the estimate is of the labels that were drawn from, down to a score of %g; "
            "merge.min_score is %g now: draw again where these are the labels in question",
            least,
            now,
        )
    found = summarise(review.draw, review.verdicts)
    if not found["judged"] and found["recall"] is None:
        raise InputError(
            "there is no verdict yet: review the page, then ntt-ray review import CONFIG FILE"
        )
    found = sealed(found)
    thresholds = _promised_thresholds(review, found["promise"]["score"])
    if thresholds is None:
        review.store.delete(review.uri(PROMISE_FILE))
    else:
        review.store.publish_bytes(review.uri(PROMISE_FILE), thresholds.to_bytes())
    review.store.publish_bytes(review.uri(ESTIMATE_FILE), json_file(found))
    return found


def _promised_thresholds(review: Review, score: float | None) -> Calibration | None:
    """The promised score for every class, or its own threshold where that is higher."""
    if score is None:
        return None
    own = merge_thresholds(review.config, review.record, review.store)
    scores = {
        label.name: max(score, least)
        for label in review.record.class_labels
        if (least := own.of_class(label.category_id)) <= 1
    }
    identity = review.record.identity
    return Calibration(
        bank=identity.bank,
        made_with=scores_content(identity.plain()),
        wanted_precision=0.95,
        thresholds=scores,
    )


def undrawn(review: Review) -> int:
    """How many verdicts are on labels and images that the draw lacks: it was larger before."""
    labels = {str(label.id) for label in review.draw.labels}
    images = {str(image.image_id) for image in review.draw.whole_images}
    return sum(
        len(own.labels.keys() - labels) + len(own.images.keys() - images) for own in review.verdicts
    )


def judged_ids(verdicts: Sequence[Verdicts]) -> set[int]:
    """The labels that somebody has judged before."""
    return {int(name) for one in verdicts for name in one.labels if name.isdecimal()}
