"""The columns of every list of images, and their rows as records; it knows no place of images."""

from __future__ import annotations

import pyarrow as pa

from ntt_ray.records import ImageEntry

SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.int64(), nullable=False),
        pa.field("file_name", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
    ]
)


def entries_of(images: pa.Table) -> list[ImageEntry]:
    """The rows of a table with the columns of `SCHEMA`."""
    return [ImageEntry(**row) for row in images.to_pylist()]
