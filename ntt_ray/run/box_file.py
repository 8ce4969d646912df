"""The boxes of a run, by unit. Defines ``boxes.parquet``.

It has a row for each row of the manifest, in the same order and divided into the same units:
``image_id``, ``box`` (x1, y1, x2, y2 in pixels of the image, float32) and ``score``, lists of equal
length, the best box first. A row group has some whole units, so that a unit is read with few other
rows. The metadata say which file the boxes are from, and which manifest they belong to.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ntt_ray import storage
from ntt_ray.errors import InputError
from ntt_ray.records import ImageBoxes
from ntt_ray.run import manifest as manifest_file
from ntt_ray.run.job import LabelJob
from ntt_ray.run.layout import BOXES_FILE
from ntt_ray.run.local_manifest import ManifestFile, written_here
from ntt_ray.run.units import Units
from ntt_ray.sources.boxes import PlacedBoxes
from ntt_ray.storage import Storage

FORMAT_VERSION = b"1"
ROWS_PER_GROUP = 1024  # images; with 30 boxes each half a megabyte
SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.int64(), nullable=False),
        pa.field("box", pa.list_(pa.list_(pa.float32(), 4)), nullable=False),
        pa.field("score", pa.list_(pa.float32()), nullable=False),
    ]
)


class BoxesOf(NamedTuple):
    """What a file of boxes is made of.

    Attributes:
        source: SHA-256 of the file that a detector's boxes are from, in hex.
        per_image: how many boxes of an image were taken at most.
        manifest: SHA-256 of the manifest that lists the images.
    """

    source: str
    per_image: int
    manifest: str

    def metadata(self) -> dict[bytes, bytes]:
        """What the metadata of the file say."""
        return {
            b"format_version": FORMAT_VERSION,
            b"boxes_sha256": self.source.encode(),
            b"boxes_per_image": str(self.per_image).encode(),
            b"manifest_sha256": self.manifest.encode(),
        }


def box_file(placed: PlacedBoxes, manifest: ManifestFile, made_of: BoxesOf) -> ManifestFile:
    """Write the boxes of all images into a temporary file, which is gone with the process.

    Raises:
        StorageError: there is no room for temporary files.
    """
    return written_here(lambda sink: _write(placed, manifest, made_of, sink))


def _write(placed: PlacedBoxes, manifest: ManifestFile, made_of: BoxesOf, sink: IO[bytes]) -> None:
    units, said = manifest_file.division(manifest)
    ids = manifest_file.column(manifest, "image_id")
    with pq.ParquetWriter(
        sink, SCHEMA.with_metadata({**said, **made_of.metadata()}), compression="zstd"
    ) as writer:
        for start, end in _groups(units, whole_units=bool(said)):
            # of the type of the rows, or all of these would be copied to that of the others
            ends = np.array([start, end], placed.rows.dtype)
            first, last = np.searchsorted(placed.rows, ends)
            rows = placed.rows[first:last]
            offsets = np.searchsorted(rows, np.arange(start, end + 1)).astype(np.int32)
            flat = pa.array(placed.boxes_xyxy[first:last].reshape(-1), pa.float32())
            boxes = pa.FixedSizeListArray.from_arrays(flat, 4)
            scores = pa.array(placed.scores[first:last], pa.float32())
            columns = [
                ids.slice(start, end - start).combine_chunks(),
                pa.ListArray.from_arrays(pa.array(offsets), boxes),
                pa.ListArray.from_arrays(pa.array(offsets), scores),
            ]
            writer.write_table(pa.Table.from_arrays(columns, schema=writer.schema))


def _groups(sizes: list[int], *, whole_units: bool) -> Iterator[tuple[int, int]]:
    """First rows and ends of row groups of some units; `whole_units`: of more than one each."""
    start = end = 0
    for size in sizes:
        if end > start and (not whole_units or end - start + size > ROWS_PER_GROUP):
            yield start, end
            start = end
        end += size
    yield start, end


def is_there(output: str, made_of: BoxesOf, store: Storage) -> bool:
    """Whether an output has its file of boxes, as far as the metadata tell."""
    try:
        with store.open_read(storage.join(output, BOXES_FILE)) as stream:
            said = pq.read_metadata(stream).metadata or {}
    except (FileNotFoundError, pa.ArrowException, OSError) as error:
        if isinstance(error, ConnectionError | TimeoutError):
            raise
        return False
    return made_of.metadata().items() <= said.items()


def check_file(
    output: str,
    made_of: BoxesOf,
    store: Storage,
    units: int,
    image_ids: Callable[[int], Sequence[int] | None],
) -> None:
    """Whether the file of a run is whole; reads all of it, a row group at a time.

    Args:
        output: the run's prefix.
        made_of: what its metadata must say.
        store: access to files.
        units: how many units the run has.
        image_ids: gives the ids of a unit's images in the order of the manifest, if it is known.

    Raises:
        InputError: the file is missing, damaged, or that of another run.
        StorageError: it cannot be read.
    """
    with _reading(), store.open_read(storage.join(output, BOXES_FILE)) as stream:
        file = pq.ParquetFile(stream)
        _check_origin(made_of, file.metadata)
        places, read, table = Units.of(file.metadata), -1, pa.table({})
        if len(places.sizes()) != units:
            raise ValueError(f"it has {len(places.sizes())} units, the run {units}")
        for unit in range(units):
            group, first, end = places.place(unit)
            if group != read:
                read, table = group, file.read_row_group(group)
            own = [image for image, _ in _images_of(table.slice(first, end - first))]
            if (wanted := image_ids(unit)) is not None and own != list(wanted):
                raise ValueError(f"its images of unit {unit} are not those of the manifest")


def read_boxes(shard_id: int, job: LabelJob) -> dict[int, ImageBoxes]:
    """The boxes of the images of one unit, by image id; reads little else.

    Raises:
        InputError: the file is missing, damaged, or that of another run.
        StorageError: it cannot be read.
    """
    assert job.boxes is not None
    uri = storage.join(job.output, BOXES_FILE)
    with _reading(), job.store.open_read(uri) as stream:
        units = _units_of(uri, job)
        group, first, end = units.place(shard_id)
        file = pq.ParquetFile(stream, metadata=units.footer)
        return dict(_images_of(file.read_row_group(group).slice(first, end - first)))


def _images_of(table: pa.Table) -> Iterator[tuple[int, ImageBoxes]]:
    table = table.cast(SCHEMA).combine_chunks()
    table.validate(full=True)
    boxes, scores = (table[name].chunk(0) for name in ("box", "score"))
    ends = np.asarray(boxes.offsets)
    flat = np.asarray(boxes.values.flatten(), np.float32).reshape(-1, 4)
    every, score_ends = np.asarray(scores.values, np.float32), np.asarray(scores.offsets)
    if len(score_ends) != len(ends) or (np.diff(score_ends) != np.diff(ends)).any():
        raise ValueError("an image has another number of scores than of boxes")
    for number, image_id in enumerate(table["image_id"].to_pylist()):
        own, own_scores = slice(*ends[number : number + 2]), slice(*score_ends[number : number + 2])
        yield image_id, ImageBoxes(flat[own], every[own_scores])


_units: dict[tuple[str, str], Units] = {}  # they grow with the run; a process reads them once


def _units_of(uri: str, job: LabelJob) -> Units:
    assert job.boxes is not None
    key = uri, job.boxes.source_sha256
    if key not in _units:
        _units.clear()
        with job.store.open_read(uri) as stream:
            footer: Any = pq.read_metadata(stream)
        asked = BoxesOf(job.boxes.source_sha256, job.boxes.settings.per_image, job.manifest_digest)
        _check_origin(asked, footer)
        _units[key] = Units.of(footer)
    return _units[key]


def _check_origin(made_of: BoxesOf, footer: Any) -> None:
    if not made_of.metadata().items() <= (footer.metadata or {}).items():
        raise ValueError("it belongs to another run")


@contextlib.contextmanager
def _reading() -> Iterator[None]:
    """What is wrong with the file becomes an error that says what to do."""
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"{BOXES_FILE} is missing from the run; start the same command") from None
    except (pa.ArrowException, OSError, ValueError, IndexError) as error:
        if isinstance(error, ConnectionError | TimeoutError):
            raise  # that is the store's
        raise InputError(
            f"{BOXES_FILE} is damaged ({error}); delete it, and start the same command"
        ) from None
