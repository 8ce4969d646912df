"""The masks of a flat table as pixels, one after the other, each only as large as its box.

For profiles whose format cannot hold an RLE. It does not know any of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from ntt_ray.errors import InputError
from ntt_ray.masks import BoolMask, Rle, decode_in_boxes
from ntt_ray.merge.instances import annotation_columns

# columns of a shard that `iter_parts` needs, besides what thresholds need
COLUMNS = ("image_id", "height", "width", *annotation_columns("category_id", "score", "counts"))


@dataclass(frozen=True)
class MaskPart:
    """A mask and where its pixels lie.

    Attributes:
        pixels: bool ``(h, w)``, what lies in the tight box.
        x: left edge of the box in the image.
        y: upper edge.
        rle: the whole mask.
    """

    pixels: BoolMask
    x: int
    y: int
    rle: Rle

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width of the image."""
        return self.rle["size"][0], self.rle["size"][1]


def iter_parts(instances: pa.Table) -> Iterator[MaskPart]:
    """The masks of a flat table (`instances.flat_instances`), in its order.

    Raises:
        InputError: an RLE is damaged; the shard was not written by this package.
    """
    counts = instances.column("counts").to_pylist()
    heights = instances.column("height").to_pylist()
    widths = instances.column("width").to_pylist()
    if None in heights or None in widths:
        raise InputError("an instance lies in an image without a size; the shard is damaged")
    try:
        for number, (pixels, x, y) in enumerate(decode_in_boxes(counts, heights, widths)):
            rle = Rle(size=[heights[number], widths[number]], counts=counts[number])
            yield MaskPart(pixels, x, y, rle)
    except ValueError as error:
        raise InputError(f"a mask is {error}; the shard is damaged") from None
