"""Chooses labels of a finished run to look at, in an order of interest; see `looks`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ntt_ray import storage
from ntt_ray.bank.file import BankFile, bank_digest
from ntt_ray.bank.inputs import read_bank
from ntt_ray.config import Config
from ntt_ray.errors import InputError
from ntt_ray.merge.job import class_choice
from ntt_ray.review.disagreement import other_objects
from ntt_ray.review.draw import draw
from ntt_ray.review.job import Review, population_of, published
from ntt_ray.review.looks import (
    chosen,
    disagreements,
    duplicates,
    images_with_more_there,
    looks_of,
    outliers,
)
from ntt_ray.review.novelties import MOST, embeddings_of, novelties
from ntt_ray.review.page import as_labelled
from ntt_ray.review.records import Draw, Order
from ntt_ray.run.layout import BANK_FILE
from ntt_ray.run.record import RunRecord, recorded_run
from ntt_ray.storage import Storage


@dataclass(frozen=True)
class Wanted:
    """What to look at.

    Attributes:
        order: what labels are chosen by.
        labels: how many labels to choose.
        images: how many whole images to choose, for `disagreement` alone.
        seed: seed of the sample that is ordered.
        pool: how many labels that sample has, and how many images where images are wanted.
        against: the prefix of the second run, for `disagreement`.
    """

    order: Order
    labels: int
    images: int = 0
    seed: int = 0
    pool: int = 2000
    against: str | None = None

    def check(self, output: str) -> None:
        """Whether these go together.

        Raises:
            InputError: they do not.
        """
        if self.against is None and self.order == "disagreement":
            raise InputError("--order disagreement: name a second run with --against OUTPUT")
        if self.against is not None and self.order != "disagreement":
            raise InputError(f"--against: goes with --order disagreement, not {self.order}")
        if self.against is not None and self.against.rstrip("/") == output.rstrip("/"):
            raise InputError("--against: is this run; name the output of another run")
        if self.order == "novelties" and self.pool > MOST:
            raise InputError(f"--pool: novelties are chosen among {MOST} labels at most")
        if self.images and self.order != "disagreement":
            raise InputError(
                f"--images: {self.order} are labels; whole images are drawn without --order, or "
                "by disagreement"
            )


def look_run(config: Config, wanted: Wanted, *, publish: Callable[[Review], None]) -> Review:
    """Choose labels of a finished run, and write them beside what was drawn by probability.

    Args:
        config: the run; its `merge` block says which labels are kept.
        wanted: what to look at.
        publish: writes what people review, before the draw appears.

    Raises:
        RunIncompleteError: shards are missing.
        InputError: no label is worth a look, the second run cannot be compared, or verdicts of
            other labels lie in the output.
    """
    wanted.check(config.output)
    bank = _compared_bank(config) if wanted.order == "novelties" else None
    population = population_of(config)
    store, record = population.store, recorded_run(config.output, population.store)
    images = wanted.pool if wanted.images else 0
    pool = draw(population, labels=wanted.pool, images=images, seed=wanted.seed)
    if wanted.against is not None:
        found = _disagreement(config, record, pool, wanted, wanted.against)
    elif bank is not None:
        interests = novelties(embeddings_of(pool, config.output, store), bank, wanted.labels)
        found = chosen(pool, interests, wanted.order, labels=wanted.labels)
    else:
        entries = Review(config, store, record, pool, ()).entries()
        looks = looks_of(pool, entries, as_labelled(record.identity.decode), store)
        interests = (outliers if wanted.order == "outliers" else duplicates)(pool, looks)
        found = chosen(pool, interests, wanted.order, labels=wanted.labels)
    if not found.labels and not found.whole_images:
        raise InputError(
            f"{wanted.order}: none among {len(pool.labels)} of {pool.population} labels; --pool "
            "takes a larger sample"
        )
    return published(Review(config, store, record, found, ()), publish)


def _compared_bank(config: Config) -> BankFile:
    """The bank that made the labels of a run, which made embeddings, too."""
    store = Storage(config.storage_options)
    record = recorded_run(config.output, store)
    if not record.identity.makes_embeddings:
        raise InputError(
            f"--order novelties: compares embeddings, and {storage.redact(config.output)} has "
            "none; label with proposals: {keep: true, embeddings: true}, or, if it kept its "
            "proposals, match them again with that into another output (ntt-ray rematch)"
        )
    place = storage.join(config.output, BANK_FILE)
    bank = read_bank(place, store, "--order novelties")
    if bank_digest(bank.data) != record.identity.bank:
        raise InputError(f"{storage.redact(place)}: is not the bank that made these labels")
    return bank


def _disagreement(
    config: Config, record: RunRecord, pool: Draw, wanted: Wanted, against: str
) -> Draw:
    store = Storage(config.storage_options)
    other = recorded_run(against, store)
    others = other_objects(
        against,
        other,
        [picture.file_name for picture in pool.pictures],
        _renamed(config, record),
        config.merge.min_score,
        store,
    )
    return chosen(
        pool,
        disagreements(pool, others),
        wanted.order,
        labels=wanted.labels,
        whole_images=images_with_more_there(pool, others, wanted.images),
        against=other.labels_hash,
    )


def _renamed(config: Config, record: RunRecord) -> dict[str, str]:
    """What the merged files call the classes of the run."""
    choice = class_choice(config, record)
    names = {label.category_id: label.name for label in choice.labels}
    merged = choice.categories or {c: c for c in names}
    return {
        label.name: names[merged[label.category_id]]
        for label in record.class_labels
        if label.category_id in merged
    }
