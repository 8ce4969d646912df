"""What to look at: labels of a bounded sample in an order of interest, and not by probability.

Outliers, near-duplicates, and where a second run disagrees. What is chosen so says nothing of all
labels, so that it is a draw of its own: in its own folder, without probabilities and strata, with
verdicts of its own. `summary` refuses it; references are made of it as of any other.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ntt_ray.errors import InputError
from ntt_ray.masks import decode_rle
from ntt_ray.merge.digests import digest_of_json
from ntt_ray.records import ImageEntry
from ntt_ray.references.dataset import read_all
from ntt_ray.review.descriptors import NEIGHBOURS, Look, alike_pairs, look_of, outlier_factors
from ntt_ray.review.disagreement import AGREE_IOU, Objects, differences, only_there
from ntt_ray.review.page import pixels
from ntt_ray.review.records import Draw, DrawnLabel, Order, WholeImage
from ntt_ray.settings import DecodeSettings
from ntt_ray.storage import Storage

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Interest:
    """A label of the pool that is worth a look, by its position there, and why."""

    position: int
    reason: str


def chosen(
    pool: Draw,
    interests: Sequence[Interest],
    order: Order,
    *,
    labels: int,
    whole_images: tuple[WholeImage, ...] = (),
    against: str | None = None,
) -> Draw:
    """The first labels of an order of interest, as a draw that no estimate can be made of.

    Args:
        pool: the sample that the order is of.
        interests: its labels worth a look, the most interesting first.
        order: how they were ordered.
        labels: how many to take.
        whole_images: images worth a look.
        against: digest of the labels of the second run.
    """
    own = tuple(
        DrawnLabel(
            **pool.labels[i.position].model_dump(include=set(_OF_LABEL)),
            stratum=-1,
            probability=None,
            plain=False,
            reason=i.reason,
        )
        for i in interests[:labels]
    )
    used = {label.image_id for label in own} | {image.image_id for image in whole_images}
    content = [pool.design, order, len(pool.labels), against]
    return pool.model_copy(
        update={
            "design": digest_of_json(content),
            "bands": (),
            "groups": (),
            "depths": (),
            "strata": (),
            "pictures": tuple(p for p in pool.pictures if p.image_id in used),
            "labels": own,
            "whole_images": whole_images,
            "order": order,
        }
    ).sealed()


_OF_LABEL = ("id", "image_id", "category_id", "score", "bbox", "counts")


def looks_of(
    pool: Draw, entries: Mapping[int, ImageEntry], settings: DecodeSettings, store: Storage
) -> dict[int, Look]:
    """What the labels of a pool look like, by position; those of images that are gone are not in.

    Raises:
        InputError: no image can be read.
    """
    own = pool.positions
    found, pictures = dict[int, Look](), pool.by_image
    for entry, data, _ in read_all([entries[image_id] for image_id in sorted(own)], store):
        picture = pictures[entry.image_id]
        if (image_rgb := pixels(data, picture, settings)) is None:
            continue
        for position in own[entry.image_id]:
            label = pool.labels[position]
            found[position] = look_of(image_rgb, decode_rle(label.rle(picture)), label.bbox)
    if not found:
        raise InputError("no image of the sample can be read any more: nothing can be compared")
    if len(found) < len(pool.labels):
        logger.warning(
            "%d of %d labels lie in images that cannot be read any more, and are left out",
            len(pool.labels) - len(found),
            len(pool.labels),
        )
    return found


def outliers(pool: Draw, looks: Mapping[int, Look]) -> list[Interest]:
    """Labels by how little they look like others of their class, the oddest first."""
    positions = sorted(looks)
    categories = np.array([pool.labels[n].category_id for n in positions], np.int64)
    factors = outlier_factors([looks[n] for n in positions], categories)
    if few := int(np.isnan(factors).sum()):
        names = sorted({pool.names[c] for c in categories[np.isnan(factors)].tolist()})
        logger.warning(
            "%d labels are left out: in the sample their classes have no more than %d: %s",
            few,
            NEIGHBOURS,
            ", ".join(names),
        )
    order = np.argsort(-np.nan_to_num(factors, nan=-1.0), kind="stable").tolist()
    text = "{:.1f} times as far from others of its class as is usual"
    return [
        Interest(positions[n], text.format(factors[n])) for n in order if not np.isnan(factors[n])
    ]


def duplicates(pool: Draw, looks: Mapping[int, Look]) -> list[Interest]:
    """Near-duplicates in pairs; first those of different classes, of which one must be wrong."""
    positions = sorted(looks)
    images = np.array([pool.labels[n].image_id for n in positions], np.int64)
    alike = alike_pairs([looks[n] for n in positions], images)
    pairs = [(positions[i], positions[j]) for i, j, _ in alike]
    pairs.sort(key=lambda pair: len({pool.labels[n].category_id for n in pair}), reverse=True)
    names, pictures, found = pool.names, pool.by_image, []
    for pair in pairs:
        for position, other in (pair, pair[::-1]):
            twin = pool.labels[other]
            file_name = pictures[twin.image_id].file_name
            text = f"looks like a {names[twin.category_id]} in {file_name}"
            found.append(Interest(position, text))
    return found


def disagreements(pool: Draw, others: Mapping[str, Objects]) -> list[Interest]:
    """Labels by how far the other run is from them; of equal ones the highest score first."""
    own = pool.positions
    pictures, found, unknown = pool.by_image, [], 0
    for image_id, positions in sorted(own.items()):
        picture = pictures[image_id]
        if (objects := others.get(picture.file_name)) is None:
            unknown += len(positions)
            continue
        labels = [pool.labels[n] for n in positions]
        for n, difference in zip(
            positions, differences(labels, pool.names, objects, picture), strict=True
        ):
            if difference.size > 1 - AGREE_IOU:
                found.append((difference.size, pool.labels[n].score, n, difference.reason))
    if unknown:
        logger.warning(
            "%d of %d labels lie in images that the other run has not labelled, and are left out",
            unknown,
            len(pool.labels),
        )
    found.sort(key=lambda item: (-item[0], -item[1], item[2]))
    return [Interest(n, reason) for _, _, n, reason in found]


def images_with_more_there(
    pool: Draw, others: Mapping[str, Objects], images: int
) -> tuple[WholeImage, ...]:
    """Whole images in which the other run has objects that have no label here, the most first."""
    pictures, counts = pool.by_image, list[tuple[int, int]]()
    for n, image in enumerate(pool.whole_images):
        picture = pictures[image.image_id]
        objects = others.get(picture.file_name, [])
        more = only_there(image.labels, pool.names, objects, picture)
        if more:
            counts.append((-more, n))
    return tuple(pool.whole_images[n] for _, n in sorted(counts)[:images])
