"""Which labels to annotate next: those unlike the references so far, one for many like it.

For runs that made embeddings. Of a sample of labels the half is taken that looks least like the
references, and labels are chosen from it one after the other, each so that the labels of the half
are as near as possible to one that is chosen (greedy facility location, Nemhauser, Wolsey and
Fisher 1978). More labels with the same seed begin with the same ones.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ntt_ray.bank.file import BankFile
from ntt_ray.review.looks import Interest
from ntt_ray.review.records import Draw
from ntt_ray.run.shard import iter_labels, read_shard
from ntt_ray.storage import Storage

logger = logging.getLogger(__name__)

UNLIKE_SHARE = 0.5  # of the sample: that which looks least like the references
MOST = 20_000  # labels of a sample: half of them make a matrix of 0.4 GB

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
    similarities = (features @ means.T).max(axis=1)
    usual = float(np.median(similarities))
    return [
        Interest(
            positions[n],
            f"similarity to the references of the nearest class {similarities[n]:.2f}, where "
            f"{usual:.2f} is usual",
        )
        for n in by_novelty(features, similarities, labels)
    ]


def by_novelty(features: Floats, similarities: Floats, wanted: int) -> list[int]:
    """Positions of the labels to take, in their order; those of the unlike half first.

    Args:
        features: ``(n, C)`` float32 of length 1.
        similarities: ``(n,)`` float32, cosine similarity of each to the nearest class.
        wanted: how many to take.
    """
    order = np.argsort(similarities, kind="stable")
    unlike, rest = np.split(order, [max(1, round(UNLIKE_SHARE * len(order)))])
    taken = [int(unlike[n]) for n in facility_location(features[unlike], wanted)]
    left = [int(rest[n]) for n in facility_location(features[rest], wanted - len(taken))]
    return [*taken, *left]


def facility_location(features: Floats, wanted: int) -> list[int]:
    """Greedy facility location: points that all points are near to, by falling gain.

    Each point counts with its highest cosine similarity to a chosen one, at least 0; the next one
    chosen is that which raises the sum most, of equal ones the first.

    Args:
        features: ``(n, C)`` float32 of length 1; a matrix ``(n, n)`` is made of them.
        wanted: how many to choose.
    """
    if wanted <= 0:
        return []
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
    own = pool.positions
    units: dict[int, list[int]] = defaultdict(list)
    for picture in pool.pictures:
        if picture.image_id in own:
            units[picture.unit].append(picture.image_id)
    found: dict[int, Floats] = {}
    for image_id, embedded in _by_mask(output, units, store):
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


def _by_mask(
    output: str, units: Mapping[int, Sequence[int]], store: Storage
) -> Iterator[tuple[int, dict[tuple[str, float], Floats]]]:
    """Of some images of units the embeddings of their labels, by mask and score."""
    for unit, image_ids in sorted(units.items()):
        table = read_shard(output, unit, store, embeddings=True)
        table = table.filter(pc.is_in(table["image_id"], pa.array(image_ids, pa.int64())))
        for row in iter_labels(table, embedded=True):
            yield (
                row.entry.image_id,
                {
                    (found.rle["counts"], found.score): found.embedding
                    for found in row.detections
                    if found.embedding is not None
                },
            )
