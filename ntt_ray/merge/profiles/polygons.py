"""The profile ``coco-polygon`` (``polygons.json``): COCO instances with polygons instead of RLE.

For tools that drop RLE. Each part of a mask is a polygon; holes are joined to it (`outlines`).
COCO's own tools make the same mask of them, and how far theirs is from ours is measured for every
instance. It does not know Ray or the models.
"""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa

from ntt_ray.masks import mask_iou, rasterise
from ntt_ray.merge.fragments import OUTLINES
from ntt_ray.merge.instances import flat_instances
from ntt_ray.merge.json_text import annotation_texts
from ntt_ray.merge.mask_parts import MaskPart, iter_parts
from ntt_ray.merge.outlines import NUDGE_PX, mask_polygons
from ntt_ray.merge.profiles.coco import coco_files, publish_split
from ntt_ray.merge.rendering import Loss, Merge, Texts, Written
from ntt_ray.merge.thresholds import Thresholds
from ntt_ray.run.layout import POLYGON_FILE

_DIGITS = 2  # behind the point; `INSET_PX` and `NUDGE_PX` of `outlines` are not finer


def write_polygons(merge: Merge) -> Written:
    """Write ``polygons.json``, or the files that it is split into, as ``annotations.json`` is."""
    files = coco_files(merge, POLYGON_FILE, _annotations, OUTLINES)
    return publish_split(merge, files, POLYGON_FILE)


def coco_polygons(part: MaskPart) -> list[list[float]]:
    """A mask as COCO's ``segmentation``: ``x, y, x, y, ...`` for each of its parts."""
    corner = np.array((part.x, part.y)) + NUDGE_PX
    polygons = [polygon + corner for polygon in mask_polygons(part.pixels)]
    return [polygon.round(_DIGITS).ravel().tolist() for polygon in polygons]


def _annotations(rows: pa.RecordBatch, thresholds: Thresholds, first_id: int) -> Texts:
    instances = flat_instances(rows, thresholds)
    texts, ious = [], []
    for part in iter_parts(instances):
        polygons = coco_polygons(part)
        texts.append(json.dumps(polygons, separators=(",", ":")))
        ious.append(mask_iou(part.rle, rasterise(polygons, *part.size_hw)))
    segmentations = pa.array(texts, pa.string())
    return annotation_texts(instances, first_id, segmentations), Loss.of(ious)
