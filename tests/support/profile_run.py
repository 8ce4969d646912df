"""A small run for the tests of output profiles: odd masks in two shards, and images without any."""

from dataclasses import replace

import numpy as np

from ntt_ray.masks import encode_mask, rle_area, rle_bbox_xywh
from ntt_ray.merge.thresholds import Thresholds
from ntt_ray.records import ClassLabel, Detection, ImageEntry, ImageLabels
from ntt_ray.run.layout import shard_uri
from ntt_ray.run.shard import labels_to_table, table_to_bytes
from ntt_ray.sources.archives import webdataset_key
from ntt_ray.storage import Storage
from tests.support.merging import merge_shards
from tests.support.odd_masks import MASKS, SIZE_HW

STORE = Storage()
CLASSES = (ClassLabel(1, "nut"), ClassLabel(2, "bölt"), ClassLabel(3, "never found"))
INFO = {"description": "test", "version": "0.1", "labels_hash": "0123456789abcdef"}
SCORES = (0.9375, 0.75, 0.5, 0.25)  # exact in float32; the last one is below the threshold


def detection(mask, category_id, score):
    rle = encode_mask(mask)
    box = tuple(rle_bbox_xywh(rle))
    return Detection(category_id, score, 0.875, box, rle_area(rle), rle)


def labelled_images():
    """Three masks that are kept in each image, and one that is not."""
    masks = list(MASKS.values())
    images = []
    for start in range(0, len(masks), 3):
        number = len(images) + 1
        chosen = [*masks[start : start + 3], masks[0]]
        found = tuple(
            detection(mask, 1 + (rank + number) % 2, score)
            for rank, (mask, score) in enumerate(zip(chosen, SCORES, strict=True))
        )
        entry = ImageEntry(number, f"deep/er/img {number}.jpg", "")
        images.append(ImageLabels.labelled(entry, SIZE_HW, found))
    empty = ImageLabels.labelled(ImageEntry(90, "empty.png", ""), SIZE_HW, ())
    failed = ImageLabels.failed(ImageEntry(91, "failed.jpg", ""), "truncated")
    return [*images, empty, failed]


def uris(shard_id):
    """As the manifest gives them."""
    images = labelled_images()
    part = images[:3] if shard_id == 0 else images[3:]
    return [f"s3://bucket/photos/{image.entry.file_name}" for image in part]


def write_run(output, store=STORE):
    images = labelled_images()
    for shard_id, rows in enumerate((images[:3], images[3:])):
        data = table_to_bytes(labels_to_table(rows), {})
        store.publish_bytes(shard_uri(output, shard_id), data)


def write_packed(output, place, rows_per_shard=3):
    """The images of the tests' run, each with the file and the key that `place` gives it."""
    rows = []
    for number, image in enumerate(labelled_images()):
        source, key = place(number, image.entry.file_name)
        rows.append(replace(image, entry=replace(image.entry, source=source, key=key)))
    starts = range(0, len(rows), rows_per_shard)
    for shard_id, start in enumerate(starts):
        data = table_to_bytes(labels_to_table(rows[start : start + rows_per_shard]), {})
        STORE.publish_bytes(shard_uri(str(output), shard_id), data)
    return list(range(len(starts)))


def in_tars(number, file_name):
    return f"deep/s-{number // 4}.tar", webdataset_key(file_name)


def merged(
    output,
    *profiles,
    shard_ids=(0, 1),
    min_score=0.4,
    categories=None,
    store=STORE,
    **options,
):
    """What each profile wrote."""
    written, _ = merge_shards(
        str(output),
        shard_ids,
        store,
        profiles=profiles,
        thresholds=Thresholds(min_score, {}, categories),
        **{"classes": CLASSES, "info": INFO, "uris": uris, **options},
    )
    return written


def kept_masks():
    """Masks, category ids and scores of all kept instances, in order, by file name."""
    from ntt_ray.masks import decode_rle

    return {
        image.entry.file_name: [
            (decode_rle(d.rle), d.category_id, d.score) for d in image.detections if d.score >= 0.4
        ]
        for image in labelled_images()
        if image.height is not None
    }


def iou(mask, other):
    return np.logical_and(mask, other).sum() / np.logical_or(mask, other).sum()
