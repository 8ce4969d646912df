"""Draws labels and whole images of a finished run, at random by a seed: the `Draw` of a run.

It reads of every shard the class and the score of its labels (8 bytes each in memory), chooses, and
then reads the shards with something that was drawn. It shows and writes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ntt_ray.merge.digests import digest_of_json
from ntt_ray.merge.instances import annotation_columns, flat_instances
from ntt_ray.merge.thresholds import Thresholds
from ntt_ray.records import ClassLabel, Detection, ImageLabels
from ntt_ray.review import strata
from ntt_ray.review.records import (
    Class,
    Depth,
    Draw,
    DrawnLabel,
    Group,
    Label,
    Picture,
    Stratum,
    WholeImage,
)
from ntt_ray.review.strata import Ints, Scores
from ntt_ray.run.shard import iter_batches, iter_labels, open_shard, read_shard
from ntt_ray.storage import Storage

_COLUMNS = ("status", *annotation_columns("category_id", "score"))


@dataclass(frozen=True)
class Population:
    """The labels that a run keeps, in the order of ``annotations.json``.

    Attributes:
        output: the prefix of the run that the labels are of.
        store: access to files.
        labels_hash: the digest of everything that could change these labels.
        thresholds: which labels are kept.
        classes: the classes as the merged files name them.
        units: the ids of the shards, rising.
        scores: the score of every label that is kept, ``(n,)`` float32.
        categories: category ids of all labels in the merged files, ``(n,)``.
        label_ends: for each shard how many labels it and those before it have.
        image_ends: for each shard how many labelled images it and those before it have.
    """

    output: str
    store: Storage
    labels_hash: str
    thresholds: Thresholds
    classes: tuple[ClassLabel, ...]
    units: tuple[int, ...]
    scores: Scores
    categories: Ints
    label_ends: Ints
    image_ends: Ints

    @property
    def images(self) -> int:
        """How many images were labelled."""
        return int(self.image_ends[-1]) if len(self.image_ends) else 0


def read_population(
    output: str,
    units: Sequence[int],
    store: Storage,
    *,
    labels_hash: str,
    thresholds: Thresholds,
    classes: Sequence[ClassLabel],
) -> Population:
    """Read class and score of every label that is kept.

    Raises:
        InputError: a shard is missing or damaged.
    """
    scores, categories = [np.zeros(0, np.float32)], [np.zeros(0, np.int64)]
    labels, images = [], []
    for unit in units:
        found, labelled = 0, 0
        with open_shard(output, unit, store) as file:
            for batch in iter_batches(file, _COLUMNS):
                instances = flat_instances(batch, thresholds)
                scores.append(instances["score"].to_numpy())
                categories.append(instances["category_id"].to_numpy().astype(np.int64))
                found += len(instances)
                statuses = batch.column("status").to_pylist()
                labelled += sum(status != "failed" for status in statuses)
        labels.append(found)
        images.append(labelled)
    return Population(
        output, store, labels_hash, thresholds, tuple(classes), tuple(units),
        np.concatenate(scores), np.concatenate(categories),
        np.cumsum(labels, dtype=np.int64), np.cumsum(images, dtype=np.int64),
    )  # fmt: skip


def draw(
    population: Population,
    *,
    labels: int,
    images: int,
    seed: int,
    priors: Mapping[int, float] | None = None,
) -> Draw:
    """Draw labels, stratified, and images, each as likely as any other.

    Args:
        population: the labels of the run.
        labels: how many labels to draw; all where there are fewer.
        images: how many images to draw, among those with labels and those without.
        seed: seed of the draw; the same one draws the same labels and images.
        priors: expected precision by category id in the merged files; with it more labels are drawn
            where they say more. Without it every stratum gets its share.
    """
    edges = strata.band_edges(population.scores)
    bands = strata.bands_of(population.scores, edges)
    groups = _groups(population.categories, bands)
    by_class = labels >= strata.LABELS_PER_STRATUM * len(groups) and len(groups) > len(edges)
    members = _members(population.categories, bands, by_class)
    sizes = [len(own) for own in members.values()]
    expected = [_prior(population.categories[own], priors) for own in members.values()]
    weights = [strata.neyman_weight(n, p) for n, p in zip(sizes, expected, strict=True)]
    drawn = strata.apportioned(labels, weights, sizes)
    plain = strata.plain_counts(drawn, sizes, seed)
    chosen = {}
    for number, (own, count) in enumerate(zip(members.values(), drawn, strict=True)):
        for rank, label in enumerate(strata.drawn_from(own, count, seed, number).tolist()):
            chosen[label] = (number, count / sizes[number], rank < plain[number])
    whole = strata.drawn_images(population.images, images, seed).tolist()
    pictures, found, wholes = _read(population, chosen, whole)
    order = strata.shuffled(len(found), seed).tolist()
    known = sorted(found, key=lambda label: label.id)
    return Draw(
        design=_design(population, seed, by_class, priors),
        labels_hash=population.labels_hash,
        seed=seed,
        classes=tuple(Class(id=c.category_id, name=c.name) for c in population.classes),
        population=len(population.scores),
        images=population.images,
        bands=tuple(float(edge) for edge in edges),
        groups=groups,
        depths=tuple(
            Depth(score=score, labels=count) for score, count in strata.depths_of(population.scores)
        ),
        strata=tuple(
            Stratum(category_id=category, band=band, labels=size, drawn=count, prior=prior)
            for (category, band), size, count, prior in zip(
                members, sizes, drawn, expected, strict=True
            )
        ),
        pictures=tuple(pictures[image_id] for image_id in sorted(pictures)),
        labels=tuple(known[position] for position in order),
        whole_images=tuple(wholes[position] for position in whole),
    ).sealed()


def _groups(categories: Ints, bands: Ints) -> tuple[Group, ...]:
    pairs, counts = np.unique(np.stack([categories, bands]), axis=1, return_counts=True)
    return tuple(
        Group(category_id=category, band=band, labels=count)
        for (category, band), count in zip(pairs.T.tolist(), counts.tolist(), strict=True)
    )


def _members(categories: Ints, bands: Ints, by_class: bool) -> dict[tuple[int | None, int], Ints]:
    """The positions of the labels of each stratum, by class and band."""
    if not by_class:
        return {(None, band): np.flatnonzero(bands == band) for band in np.unique(bands).tolist()}
    found: dict[tuple[int | None, int], Ints] = {}
    for category in np.unique(categories).tolist():
        own = np.flatnonzero(categories == category)
        for band in np.unique(bands[own]).tolist():
            found[category, band] = own[bands[own] == band]
    return found


def _prior(categories: Ints, priors: Mapping[int, float] | None) -> float | None:
    """The precision that is expected of labels of these classes; None where it is not known."""
    if priors is None:
        return None
    found, counts = np.unique(categories, return_counts=True)
    known = [(priors[c], n) for c, n in zip(found.tolist(), counts.tolist()) if c in priors]
    total = sum(n for _, n in known)
    return sum(p * n for p, n in known) / total if total else None


def _design(
    population: Population, seed: int, by_class: bool, priors: Mapping[int, float] | None
) -> str:
    thresholds = population.thresholds
    chosen = thresholds.categories
    return digest_of_json(
        {
            "labels_hash": population.labels_hash,
            "min_score": thresholds.min_score,
            "by_category": sorted(thresholds.by_category.items()),
            "categories": None if chosen is None else sorted(chosen.items()),
            "labels": len(population.scores),
            "seed": seed,
            "by_class": by_class,
            "priors": sorted((priors or {}).items()),
        }
    )


def _read(
    population: Population, chosen: Mapping[int, tuple[int, float, bool]], whole: Sequence[int]
) -> tuple[dict[int, Picture], list[DrawnLabel], dict[int, WholeImage]]:
    """What was drawn, from its shards: images by id, labels, whole images by position."""
    pictures: dict[int, Picture] = {}
    labels: list[DrawnLabel] = []
    wholes: dict[int, WholeImage] = {}
    wanted, wanted_images = set(chosen), set(whole)
    hit = {_shard_of(n, population.label_ends) for n in wanted}
    hit |= {_shard_of(n, population.image_ends) for n in wanted_images}
    for place in sorted(hit):
        for position, first, row, kept in _rows(population, place):
            ids = range(first, first + len(kept))
            taken = [n for n in ids if n in wanted]
            if not taken and position not in wanted_images:
                continue
            picture = _picture(row, population.units[place])
            pictures[picture.image_id] = picture
            own = [_label(n + 1, row, kept[n - first], population.thresholds) for n in ids]
            for n in taken:
                number, probability, plain = chosen[n]
                more: dict[str, Any] = {
                    "stratum": number,
                    "probability": probability,
                    "plain": plain,
                }
                labels.append(DrawnLabel(**own[n - first].model_dump(), **more))
            if position in wanted_images:
                wholes[position] = WholeImage(image_id=picture.image_id, labels=tuple(own))
    return pictures, labels, wholes


def _shard_of(number: int, ends: Ints) -> int:
    return int(np.searchsorted(ends, number, side="right"))


def _rows(
    population: Population, place: int
) -> Iterator[tuple[int, int, ImageLabels, list[Detection]]]:
    """The labelled images of a shard: position, number of the first label, row, kept labels."""
    position = int(population.image_ends[place - 1]) if place else 0
    first = int(population.label_ends[place - 1]) if place else 0
    table = read_shard(population.output, population.units[place], population.store)
    for row in iter_labels(table):
        if row.status == "failed":
            continue
        least = population.thresholds.of_class
        kept = [d for d in row.detections if d.score >= least(d.category_id)]
        yield position, first, row, kept
        position, first = position + 1, first + len(kept)


def _picture(row: ImageLabels, unit: int) -> Picture:
    entry = row.entry
    assert row.height is not None
    assert row.width is not None
    return Picture(
        image_id=entry.image_id, file_name=entry.file_name, height=row.height, width=row.width,
        unit=unit,
    )  # fmt: skip


def _label(number: int, row: ImageLabels, found: Detection, thresholds: Thresholds) -> Label:
    ids: Any = thresholds.categories_of(np.array([found.category_id]))
    return Label(
        id=number,
        image_id=row.entry.image_id,
        category_id=int(ids[0]),
        score=found.score,
        bbox=found.bbox_xywh,
        counts=found.rle["counts"],
    )
