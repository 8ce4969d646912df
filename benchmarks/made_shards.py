"""Shards of made-up labels, drawn column by column, so that a million images take a few minutes.

Masks are drawn from a stock of wavy blobs with true boxes and areas; 100 to 200 bytes of RLE each.
The same sizes give the same shards.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

import numpy as np
import pyarrow as pa

from ntt_ray.masks import Rle, encode_part, rle_area, rle_bbox_xywh
from ntt_ray.records import ClassLabel
from ntt_ray.run.layout import shard_uri
from ntt_ray.run.shard import ANNOTATION, SCHEMA, table_to_bytes
from ntt_ray.storage import Storage

SIZE_HW = (480, 640)
SEED = 33
CLASSES = tuple(ClassLabel(number, f"class {number}") for number in range(1, 81))


class Stock:
    """Masks to choose from, as columns."""

    def __init__(self, count: int) -> None:
        rng = np.random.default_rng(SEED)
        rles = [_blob(rng) for _ in range(count)]
        self.counts = pa.array([rle["counts"] for rle in rles], pa.string())
        self.areas = np.array([rle_area(rle) for rle in rles])
        self.boxes = np.array([rle_bbox_xywh(rle) for rle in rles], dtype=np.float32)

    def table(self, first_image: int, images: int, per_image: int) -> pa.Table:
        """Rows of a shard: every image has `per_image` instances; every 100th image failed."""
        rng = np.random.default_rng((SEED, first_image))
        ids = np.arange(first_image, first_image + images)
        failed = ids % 100 == 0
        lengths = np.where(failed, 0, per_image)
        n = int(lengths.sum())
        chosen = rng.integers(0, len(self.areas), n)
        row = np.repeat(np.arange(images), lengths)
        scores = rng.random(n, dtype=np.float32)
        scores = scores[np.lexsort((-scores, row))]  # falling in each image
        fields = {
            "category_id": pa.array(rng.integers(1, len(CLASSES) + 1, n).astype(np.int32)),
            "score": pa.array(scores),
            "predicted_iou": pa.array(rng.random(n, dtype=np.float32)),
            "bbox": pa.FixedSizeListArray.from_arrays(pa.array(self.boxes[chosen].ravel()), 4),
            "area": pa.array(self.areas[chosen].astype(np.int64)),
            "counts": self.counts.take(pa.array(chosen)),
        }
        offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)
        instances = pa.StructArray.from_arrays(list(fields.values()), fields=list(ANNOTATION))
        names = [f"photos/{number // 1000:05d}/img-{number:09d}.jpg" for number in ids.tolist()]
        sizes = {"height": SIZE_HW[0], "width": SIZE_HW[1]}
        columns = {
            "image_id": pa.array(ids),
            "file_name": pa.array(names),
            **{
                name: pa.array(np.full(images, value, np.int32), mask=failed)
                for name, value in sizes.items()
            },
            "status": pa.array(np.where(failed, "failed", "ok" if per_image else "empty")),
            "error": pa.array(np.where(failed, "truncated", None), pa.string()),
            "failure": pa.array(np.where(failed, "content", None), pa.string()),
            "notes": pa.nulls(images, SCHEMA.field("notes").type),
            "annotations": pa.ListArray.from_arrays(
                pa.array(offsets), instances, type=SCHEMA.field("annotations").type
            ),
        }
        return pa.table(list(columns.values()), schema=SCHEMA)


def write_shards(
    output: str,
    images: int,
    *,
    per_image: int = 10,
    images_per_shard: int = 256,
    masks: int = 4000,
    provenance: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[int]:
    """Write the shards of a run of so many images; yields the id of each.

    Args:
        output: the run's prefix.
        images: how many rows, in all shards.
        per_image: instances of each image.
        images_per_shard: rows of each shard but the last.
        masks: different ones, see `Stock`.
        provenance: what the metadata of the shards say of their run, as
            `record.Identity.provenance` gives it; empty for shards of no run.
    """
    stock, store = Stock(masks), Storage()
    for shard_id, first in enumerate(range(0, images, images_per_shard)):
        rows = min(images_per_shard, images - first)
        table = stock.table(first + 1, rows, per_image)
        store.publish_bytes(shard_uri(output, shard_id), table_to_bytes(table, provenance))
        yield shard_id


def _blob(rng: np.random.Generator) -> Rle:
    """A wavy blob somewhere in an image; never empty."""
    half = 54  # pixels; the largest radius with its waves
    y, x = np.mgrid[-half:half, -half:half]
    waves = 1 + 0.15 * np.sin(rng.integers(3, 7) * np.arctan2(y, x) + rng.uniform(0, 6))
    part = np.hypot(y, x) < rng.uniform(18, 45) * waves
    top, left = (int(rng.integers(0, side - 2 * half)) for side in SIZE_HW)
    return encode_part(part, left, top, *SIZE_HW)
