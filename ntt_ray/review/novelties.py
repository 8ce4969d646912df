"""Which labels to annotate next: those unlike the references so far, one for many like it.

For runs that made embeddings. Of a sample of labels the half is taken that looks least like the
references of its class, and labels are chosen from it one after the other, each so that the labels
of the sample are as near as possible to one that is chosen (greedy facility location, Nemhauser,
Wolsey and Fisher 1978). More labels with the same seed begin with the same ones.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from ntt_ray.bank.file import BankFile
from ntt_ray.review.looks import Interest
from ntt_ray.review.records import Draw
from ntt_ray.run.shard import iter_labels, read_shard
from ntt_ray.storage import Storage

logger = logging.getLogger(__name__)

UNLIKE_SHARE = 0.5  # of the sample: that which looks least like the references

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


def novelties(embeddings: Mapping[int, Floats], bank: BankFile, labels: int) -> list[Interest]:
    """Labels whose objects would help most as references, the most useful first.

    Args:
        embeddings: features of length 1 of the labels of a sample, by position in it.
        bank: the bank that made the labels.
        labels: how many to choose.
    """
    positions = sorted(embeddings)
    if not positions:
        return []
    features = np.stack([embeddings[n] for n in positions])
    means = np.stack([rows.mean(axis=0) for rows in bank.references.rows()])
    means = means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
    likeness = (features @ means.T).max(axis=1)  # the class of a label is that of the best
    usual = float(np.median(likeness))
    return [
        Interest(
            positions[n],
            f"like the references of its class by {likeness[n]:.2f}, where {usual:.2f} is usual",
        )
        for n in in_turn(features, likeness, labels)
    ]


def in_turn(features: Floats, likeness: Floats, wanted: int) -> list[int]:
    """Positions of the labels to take, in their order; those of the unlike half first.

    Args:
        features: ``(n, C)`` of length 1.
        likeness: ``(n,)``, how much each looks like the references.
        wanted: how many to take.
    """
    order = np.argsort(likeness, kind="stable")
    unlike, rest = np.split(order, [max(1, round(UNLIKE_SHARE * len(order)))])
    taken = [int(unlike[n]) for n in facilities(features[unlike], wanted)]
    left = [int(rest[n]) for n in facilities(features[rest], wanted - len(taken))]
    return [*taken, *left]


def facilities(features: Floats, wanted: int) -> list[int]:
    """Greedy facility location: points that all points are near to, by falling gain.

    Each point counts with its highest cosine similarity to a chosen one, at least 0; the next one
    chosen is that which raises the sum most, of equal ones the first.

    Args:
        features: ``(n, C)`` of length 1.
        wanted: how many to choose.
    """
    similarity = np.maximum(features @ features.T, 0.0)
    nearest, chosen = np.zeros(len(features), np.float32), list[int]()
    is_left = np.ones(len(features), dtype=bool)
    for _ in range(min(wanted, len(features))):
        gain = np.maximum(similarity - nearest, 0.0).sum(axis=1)
        best = int(np.where(is_left, gain, -1.0).argmax())
        chosen.append(best)
        is_left[best] = False
        nearest = np.maximum(nearest, similarity[best])
    return chosen


def embeddings_of(pool: Draw, output: str, store: Storage) -> dict[int, Floats]:
    """The embeddings of the labels of a sample, by position.

    Args:
        pool: the sample.
        output: the prefix of the run, which made embeddings.
        store: access to files.

    Raises:
        InputError: a shard is missing or damaged, or has no embeddings.
    """
    own: dict[int, list[int]] = defaultdict(list)
    for position, label in enumerate(pool.labels):
        own[label.image_id].append(position)
    units = sorted({picture.unit for picture in pool.pictures if picture.image_id in own})
    found: dict[int, Floats] = {}
    for image_id, embedded in _embedded(output, units, store):
        for position in own.get(image_id, ()):
            label = pool.labels[position]
            if (embedding := embedded.get((label.counts, label.score))) is not None:
                found[position] = embedding
    if len(found) < len(pool.labels):
        logger.warning(
            "%d of %d labels are no longer in their shards, and are left out",
            len(pool.labels) - len(found),
            len(pool.labels),
        )
    return found


def _embedded(
    output: str, units: Sequence[int], store: Storage
) -> Iterator[tuple[int, dict[tuple[str, float], Floats]]]:
    """Of each image of some units the embeddings of its labels, by mask and score."""
    for unit in units:
        table = read_shard(output, unit, store, embeddings=True)
        for row in iter_labels(table, embedded=True):
            yield (
                row.entry.image_id,
                {
                    (found.rle["counts"], found.score): found.embedding
                    for found in row.detections
                    if found.embedding is not None
                },
            )
