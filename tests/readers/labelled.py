"""A merged run on disk with its pictures, for the readers: odd masks and ordinary ones.

The odd masks (`odd_masks`) are 40 x 60 pixels, where a border or a line that a reader paints is a
large part of a mask. The ordinary ones are blobs in 480 x 640, some with a hole or a second part.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from ntt_ray.masks import decode_rle
from ntt_ray.merge.outlines import trace_outlines
from ntt_ray.merge.passes import WRITERS
from ntt_ray.records import ImageEntry, ImageLabels
from ntt_ray.run.layout import shard_uri
from ntt_ray.run.shard import labels_to_table, table_to_bytes
from ntt_ray.sources.archives import webdataset_key
from tests.support.odd_masks import SIZE_HW as ODD_SIZE_HW
from tests.support.profile_run import CLASSES, SCORES, STORE, detection, labelled_images, merged

NAMES = {label.category_id: label.name for label in CLASSES}
MIN_SCORE = 0.4
ORDINARY_SIZE_HW = (480, 640)
KINDS = ("whole", "holed", "apart", "odd")
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Instance:
    """An instance as it was labelled, or as a reader sees it.

    Attributes:
        name: of its class.
        mask: bool ``(h, w)``.
        score: None where the reader has none.
    """

    name: str
    mask: Mask
    score: float | None = None


Found = dict[str, list[Instance]]  # by file name


@dataclass(frozen=True)
class Run:
    """What readers get.

    Attributes:
        folder: the output of the run; everything a merge writes is there.
        images: the pictures, under the names in the files.
        expected: what every reader should find.
        everything: the same with the instances below the threshold.
        packed: WebDataset tars that hold the pictures, below `images`.
    """

    folder: Path
    images: Path
    expected: Found
    everything: Found
    packed: tuple[str, ...] = ()


def write(folder: Path) -> Run:
    """Write the shards, the merged files of every profile, and the pictures."""
    rows = [_packed(row, number) for number, row in enumerate(_rows())]
    output, images = folder / "run", folder / "run" / "yolo" / "images"
    for shard_id, part in enumerate((rows[:3], rows[3:])):
        data = table_to_bytes(labels_to_table(part), {})
        STORE.publish_bytes(shard_uri(str(output), shard_id), data)
    merged(output, *WRITERS, uris=None, min_score=MIN_SCORE)
    everything = {}
    for row in rows:
        if row.height is not None:  # what could not be read is in no file
            path = images / row.entry.file_name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (row.width, row.height), "grey").save(path)
            everything[row.entry.file_name] = [
                Instance(NAMES[d.category_id], decode_rle(d.rle), d.score) for d in row.detections
            ]
    expected = {
        name: [instance for instance in found if instance.score >= MIN_SCORE]
        for name, found in everything.items()
    }
    return Run(output, images, expected, everything, _pack(images, rows))


PER_TAR = 5


def _rows() -> list[ImageLabels]:
    return [*labelled_images(), *ordinary_images()]


def _packed(row: ImageLabels, number: int) -> ImageLabels:
    """A row as of an image in a tar."""
    key = webdataset_key(row.entry.file_name)
    source = f"shards/s-{number // PER_TAR:03d}.tar"
    return replace(row, entry=replace(row.entry, key=key, source=source))


def _pack(images: Path, rows: Sequence[ImageLabels]) -> tuple[str, ...]:
    """The pictures in tars, as rows say; what failed is a broken file there."""
    packed: dict[str, list[str]] = {}
    for row in rows:
        packed.setdefault(row.entry.source, []).append(row.entry.file_name)
    for source, names in packed.items():
        (images / source).parent.mkdir(exist_ok=True)
        with tarfile.open(images / source, "w") as tar:
            for name in names:
                path = images / name
                data = path.read_bytes() if path.exists() else b"no image"
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return tuple(packed)


def kind_of(mask: Mask) -> str:
    """Which of `KINDS` a mask is."""
    if mask.shape == ODD_SIZE_HW:
        return "odd"
    holes = [outline.is_hole for outline in trace_outlines(mask)]
    return {1: "whole", 2: "holed" if any(holes) else "apart"}[len(holes)]


def ordinary_images() -> list[ImageLabels]:
    """Two images with blobs as a run finds them, by falling score."""
    rng = np.random.default_rng(7)
    images = []
    for number in (101, 102):
        whole, holed, apart = _blob(rng, 60), _blob(rng, 90), _blob(rng, 30)
        holed &= ~_blob(rng, 25, _middle(holed))
        apart |= _blob(rng, 20)
        masks = (whole, holed, apart, whole)
        found = tuple(
            detection(mask, 1 + (number + rank) % 2, score)
            for rank, (mask, score) in enumerate(zip(masks, SCORES, strict=True))
        )
        entry = ImageEntry(number, f"photo {number}.png", "")
        images.append(ImageLabels.labelled(entry, ORDINARY_SIZE_HW, found))
    return images


def _blob(rng: np.random.Generator, radius: float, middle: tuple[int, int] | None = None) -> Mask:
    """A wavy blob, somewhere."""
    height, width = ORDINARY_SIZE_HW
    y, x = middle or (rng.integers(radius, height - radius), rng.integers(radius, width - radius))
    rows, columns = np.mgrid[:height, :width]
    angle = np.arctan2(rows - y, columns - x)
    waves = 1 + 0.15 * np.sin(rng.integers(3, 7) * angle + rng.uniform(0, 6))
    return np.hypot(rows - y, columns - x) < radius * waves


def _middle(mask: Mask) -> tuple[int, int]:
    rows, columns = np.nonzero(mask)
    return int(rows.mean()), int(columns.mean())
