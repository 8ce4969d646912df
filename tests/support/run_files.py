"""What the files of a run hold, made without models: rows of shards and of a manifest."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from ntt_ray.masks import encode_mask
from ntt_ray.records import Detection, ImageEntry, ImageLabels
from ntt_ray.sources.schema import SCHEMA


def make_labels(image_id=1, scores=(0.75, 0.5), size=(6, 8), name=None) -> ImageLabels:
    """An image with one detection per score; exact in float32."""
    entry = ImageEntry(image_id, name or f"img/{image_id}.jpg", "")
    detections = []
    for index, score in enumerate(scores):
        mask = np.zeros(size, dtype=bool)
        mask[1 : 3 + index, 2:5] = True
        rle = encode_mask(mask)
        box = (2.0, 1.0, 3.0, 2.0 + index)
        detections.append(Detection(1 + index, score, 0.875, box, int(mask.sum()), rle))
    return ImageLabels.labelled(entry, size, tuple(detections))


def manifest_table(entries: Sequence[ImageEntry]) -> pa.Table:
    """Entries as the table that a manifest is made of."""
    rows = [{"image_id": e.image_id, "file_name": e.file_name, "uri": e.uri} for e in entries]
    return pa.Table.from_pylist(rows, schema=SCHEMA)
