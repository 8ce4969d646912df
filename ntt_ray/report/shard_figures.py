"""The figures of a report, and where its pictures stand, taken from the shards, some at a time.

The figures of some shards are small, whatever they hold, and are added up in the order of the
shards: so they can be taken by one process or by many, and are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from ntt_ray.evaluate.matching import GroundTruth
from ntt_ray.merge.rendering import Mapper
from ntt_ray.merge.thresholds import Thresholds
from ntt_ray.records import ClassLabel
from ntt_ray.report.gallery import Candidate, GalleryPicker, Place
from ntt_ray.report.samples import ClassImages, RandomDraw
from ntt_ray.report.statistics import MAX_REASONS, RunCounts
from ntt_ray.run.shard import iter_labels, read_shard
from ntt_ray.storage import Storage

SHARDS_AT_ONCE = 32  # always, so that what depends on it depends on the run only
REASONS_OF_SOME = 1000  # why images failed, told apart in a few shards


@dataclass(frozen=True)
class Limits:
    """What is shown of a run.

    Attributes:
        threshold: detections of at least this score count as predictions.
        max_images: images that are chosen by rank.
        random_images: images that are drawn at random.
        max_classes: classes whose image with the highest score is shown.
    """

    threshold: float
    max_images: int
    random_images: int
    max_classes: int


@dataclass(frozen=True)
class ShardFigures:
    """What some shards give to a report."""

    counts: RunCounts
    picker: GalleryPicker
    draw: RandomDraw
    by_class: ClassImages

    @classmethod
    def none(
        cls,
        classes: Sequence[ClassLabel],
        thresholds: Thresholds,
        limits: Limits,
        max_reasons: int = MAX_REASONS,
    ) -> ShardFigures:
        """Of no shard yet; see `RunCounts` for the reasons of failures."""
        return cls(
            RunCounts.of_classes(classes, thresholds, max_reasons),
            GalleryPicker(limits.threshold, limits.max_images),
            RandomDraw(limits.random_images),
            ClassImages(limits.max_classes),
        )

    def add(self, candidate: Candidate) -> None:
        """Consider an image."""
        self.counts.add(candidate.labels, candidate.matches)
        for keeper in (self.picker, self.draw, self.by_class):
            keeper.add(candidate)

    def take(self, other: ShardFigures) -> None:
        """Add the figures of the shards that come next."""
        self.counts.take(other.counts)
        self.picker.take(other.picker)
        self.draw.take(other.draw)
        self.by_class.take(other.by_class)


@dataclass(frozen=True)
class Shards:
    """The shards of a run, read as images that may be shown.

    Attributes:
        output: the run's prefix.
        store: access to files.
        truth: what there is in the images; None where it is not known.
    """

    output: str
    store: Storage
    truth: GroundTruth | None = None

    def candidates(self, groups: Mapping[str, Sequence[Place]]) -> dict[str, list[Candidate]]:
        """The images of some places, which are read again."""
        wanted: dict[int, list[int]] = {}
        for place in (place for places in groups.values() for place in places):
            wanted.setdefault(place.shard_id, []).append(place.image_id)
        read = (c for shard, ids in sorted(wanted.items()) for c in self._images(shard, ids))
        found = {(c.shard_id, c.image_id): c for c in read}
        return {
            group: [_shown(found[place.shard_id, place.image_id], place) for place in places]
            for group, places in groups.items()
        }

    def images(self, shard_id: int) -> Iterator[Candidate]:
        """All images of a shard, in order.

        Raises:
            InputError: it is missing or damaged.
        """
        yield from self._of_table(shard_id, read_shard(self.output, shard_id, self.store))

    def _images(self, shard_id: int, image_ids: Sequence[int]) -> Iterator[Candidate]:
        table = read_shard(self.output, shard_id, self.store)
        chosen = pc.is_in(table["image_id"], pa.array(image_ids, pa.int64()))
        return self._of_table(shard_id, table.filter(chosen))

    def _of_table(self, shard_id: int, table: pa.Table) -> Iterator[Candidate]:
        for labels in iter_labels(table):
            matches = None if self.truth is None else self.truth.match(labels)
            yield Candidate(shard_id, labels, matches)


def figures_of(
    shards: Shards,
    shard_ids: Sequence[int],
    classes: Sequence[ClassLabel],
    thresholds: Thresholds,
    limits: Limits,
    mapper: Mapper,
) -> ShardFigures:
    """The figures of some shards, in order.

    Raises:
        InputError: a shard is missing or damaged, or has classes that the run has not.
    """
    starts = range(0, len(shard_ids), SHARDS_AT_ONCE)
    groups = [shard_ids[start : start + SHARDS_AT_ONCE] for start in starts]
    total = ShardFigures.none(classes, thresholds, limits)
    none = partial(ShardFigures.none, classes, thresholds, limits, REASONS_OF_SOME)
    look = partial(figures_of_some, shards=shards, none=none)
    with closing(mapper(look, groups)) as found:
        for figures in found:
            total.take(figures)
    return total


def figures_of_some(
    shard_ids: Sequence[int], shards: Shards, none: Callable[[], ShardFigures]
) -> ShardFigures:
    """The figures of a few shards, added to none."""
    figures = none()
    for shard_id in shard_ids:
        for candidate in shards.images(shard_id):
            figures.add(candidate)
    return figures


def _shown(candidate: Candidate, place: Place) -> Candidate:
    return candidate.only(place.category_ids) if place.category_ids else candidate
