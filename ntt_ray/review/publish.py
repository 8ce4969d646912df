"""Writes what people review: the page, and the same labels for other tools."""

from __future__ import annotations

import logging

from ntt_ray.errors import NttRayError
from ntt_ray.merge.job import class_choice
from ntt_ray.merge.profiles.label_studio import interface
from ntt_ray.pages.pictures import OutlinedPicture
from ntt_ray.references.dataset import chosen_references
from ntt_ray.references.subset import coco_bytes
from ntt_ray.review.exports import coco_of, labels_to_review, tasks_of
from ntt_ray.review.job import Review, judged_ids
from ntt_ray.review.page import reference_crops, review_page
from ntt_ray.run.layout import REVIEW_COCO, REVIEW_INTERFACE, REVIEW_PAGE, REVIEW_TASKS

logger = logging.getLogger(__name__)


def publish_review(review: Review) -> None:
    """Write the page, COCO, tasks of Label Studio and their interface.

    Labels that were judged before are left out: nobody looks at them twice.
    """
    draw, known, entries = review.draw, judged_ids(review.verdicts), review.entries()
    page = review_page(
        draw,
        known=known,
        entries=entries,
        decode=review.record.identity.decode,
        references=_reference_crops(review),
        store=review.store,
    )
    labels = labels_to_review(draw, known)
    tasks = tasks_of(draw, labels, entries, review.config.merge.image_url)
    for name, content in {
        REVIEW_PAGE: page.encode("utf-8", "replace"),
        REVIEW_COCO: coco_bytes(coco_of(draw, labels)),
        REVIEW_TASKS: tasks.encode("utf-8", "replace"),
        REVIEW_INTERFACE: interface(draw.class_labels).encode("utf-8", "replace"),
    }.items():
        review.store.publish_bytes(review.uri(name), content)


def _reference_crops(review: Review) -> dict[int, list[OutlinedPicture]]:
    """Crops by category id; none where the bank came ready, or its references are gone."""
    block, record = review.config.references, review.record
    if block is None:
        return {}
    ids = {label.name: label.category_id for label in record.class_labels}
    try:
        references = chosen_references(block, review.store)
        if any(label.name not in ids for label in references.classes):
            return {}
        references = references.renumbered(ids)
    except NttRayError as error:
        logger.warning("the page shows no references: %s", error)
        return {}
    categories = class_choice(review.config, record).categories
    merged = {own: own for own in ids.values()} if categories is None else categories
    ratio = float(record.identity.method.get("context_ratio", 0))
    return reference_crops(references, merged, ratio, review.store)
