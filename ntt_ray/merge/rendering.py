"""What every profile of a merge works with: the shards, what runs functions over items, the rows.

It does not know Ray or any format.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from ntt_ray import storage
from ntt_ray.errors import InputError
from ntt_ray.merge.digests import FileDigest, FolderDigest, digest_of_bytes
from ntt_ray.merge.fragments import Layout, Slice
from ntt_ray.merge.thresholds import Thresholds
from ntt_ray.records import ClassLabel
from ntt_ray.run.layout import shard_name
from ntt_ray.run.shard import (
    carried_columns,
    has_embeddings,
    iter_batches,
    misfit,
    open_shard,
)
from ntt_ray.sources.schema import PACKED
from ntt_ray.storage import Storage

T = TypeVar("T")
R = TypeVar("R")
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Loss:
    """How far the masks that a format holds are from ours.

    Attributes:
        instances: how many masks were compared.
        changed: how many masks are not the same.
        lost_iou: sum of 1 - IoU over all masks.
        min_iou: lowest IoU of a mask.
    """

    instances: int = 0
    changed: int = 0
    lost_iou: float = 0.0
    min_iou: float = 1.0

    def __add__(self, other: Loss) -> Loss:
        return Loss(
            self.instances + other.instances,
            self.changed + other.changed,
            self.lost_iou + other.lost_iou,
            min(self.min_iou, other.min_iou),
        )

    @classmethod
    def total(cls, losses: Iterable[Loss | None]) -> Loss | None:
        """The loss of all that lost anything; None where the format holds all masks as they are."""
        known = [loss for loss in losses if loss is not None]
        return sum(known, cls()) if known else None

    @classmethod
    def of(cls, ious: Sequence[float]) -> Loss:
        """The loss of some instances."""
        lost = sum(1.0 - iou for iou in ious)
        return cls(len(ious), sum(iou < 1.0 for iou in ious), lost, min(ious, default=1.0))


@dataclass(frozen=True)
class Written:
    """What a profile published.

    Attributes:
        files: name of each file, relative to the output, and its digest.
        folders: name of each folder with a file for every image, relative to the output and with a
            slash at the end, and the digest of those files.
        loss: how far the masks in the files are from ours; None: the format holds them as they are.
    """

    files: Mapping[str, FileDigest]
    folders: Mapping[str, FolderDigest] = field(default_factory=dict)
    loss: Loss | None = None


# what rows became: a text for each item, and the loss where masks had to change
Texts = tuple[pa.StringArray, Loss | None]
# rows of a shard with the columns asked for, thresholds, id of the first item
Render = Callable[[pa.RecordBatch, Thresholds, int], Texts]


class Mapper(Protocol):
    """Runs a function over items and gives the results in their order, like `map`."""

    def __call__(
        self, function: Callable[[T], R], items: Iterable[T], *, large: bool = False
    ) -> Generator[R]:
        """Both are picklable. Where results are `large`, some megabytes each, few of them wait."""
        ...


def map_here(
    function: Callable[[T], R],
    items: Iterable[T],
    *,
    large: bool = False,  # noqa: ARG001  # one result at a time is in memory
) -> Generator[R]:
    """The `Mapper` that works in this process, where no result waits."""
    yield from map(function, items)


@dataclass(frozen=True)
class Source:
    """The shards of a run and which of their instances are kept.

    Attributes:
        output: the run's prefix.
        store: access to files.
        thresholds: which instances are kept.
        uris: gives the addresses of a shard's images in their order; picklable. None: unknown.
        labels_hash: the hash of settings that the run's shards carry, see `record.Identity.digest`;
            None believes shards of any run.
        image_ids: gives the ids of a unit's images in order, for shards that do not say; picklable.
        to: the prefix that files are written to; None: the run's.
    """

    output: str
    store: Storage
    thresholds: Thresholds
    uris: Callable[[int], Sequence[str]] | None = None
    labels_hash: str | None = None
    image_ids: Callable[[int], Sequence[int]] | None = None
    to: str | None = None

    @property
    def target(self) -> str:
        """The prefix that files are written to."""
        return self.output if self.to is None else self.to

    def misfit(self, file: pq.ParquetFile, shard_id: int) -> str | None:
        """Why an open shard is not the one of its unit; None where it is."""
        if self.labels_hash is None:
            return None
        ids = None
        if self.image_ids is not None and b"images" not in file.schema_arrow.metadata:
            ids = self.image_ids(shard_id)
        return misfit(file, shard_id, self.labels_hash, ids)

    def carried(self, shard_id: int) -> list[pa.Field]:
        """The columns that a shard carries of the manifest: of packed images and of tables."""
        with open_shard(self.output, shard_id, self.store) as file:
            schema = file.schema_arrow
            return [schema.field(name) for name in carried_columns(schema)]

    def embedded(self, shard_id: int) -> bool:
        """Whether a shard has the embeddings of its annotations."""
        with open_shard(self.output, shard_id, self.store) as file:
            return has_embeddings(file.schema_arrow)

    def publish(self, name: str, data: bytes) -> FileDigest:
        """Publish a small file of the output; gives its digest."""
        self.store.publish_bytes(storage.join(self.target, name), data)
        return digest_of_bytes(data)

    def delete(self, name: str) -> None:
        """Delete a file of the output, if it is there."""
        self.store.delete(storage.join(self.target, name))

    def delete_others(self, ours: re.Pattern[str], kept: Container[str], folder: str = "") -> None:
        """Delete the files of a folder of the output that match `ours` and are not to be kept."""
        for left in self.store.list_folder(storage.join(self.target, folder)):
            if ours.fullmatch(left) and (name := storage.join(folder, left)) not in kept:
                self.delete(name)


@dataclass(frozen=True)
class Merge:
    """What every profile gets.

    Attributes:
        source: the shards.
        layout: the rows of all shards, counted.
        classes: the classes that the files name, also those without a detection, by rising id.
        info: the ``info`` block; no clock in it, so that the same run gives the same bytes.
        images_per_file: JSON files are split into self-contained files of so many images, with
            ids that are unique across them; None: one file.
        image_url: address of an image in Label Studio's tasks, see `config`; None: its URI.
        val_share: share of the images that YOLO validates on.
        split_seed: seed that these are drawn with.
        mapper: runs functions over items, in this process or in many.
        progress: called by a profile with its items written so far and its items in all.
    """

    source: Source
    layout: Layout
    classes: Sequence[ClassLabel]
    info: Mapping[str, Any]
    images_per_file: int | None = None
    mapper: Mapper = map_here
    progress: Progress = lambda _done, _total: None
    image_url: str | None = None
    val_share: float = 0.1
    split_seed: int = 0

    def mapped(
        self,
        function: Callable[[T], R],
        work: Iterable[T],
        items: Sequence[int],
        *,
        large: bool = False,
    ) -> Generator[R]:
        """Results in order, and the progress: how many items each piece of work has."""
        done, total = 0, sum(items)
        with closing(self.mapper(function, work, large=large)) as results:
            for own, result in zip(items, results, strict=True):
                done += own
                self.progress(done, total)
                yield result


def iter_rows(part: Slice, columns: Sequence[str], source: Source) -> Iterator[pa.RecordBatch]:
    """Rows of a slice with some columns of the shard, and ``uri`` when it is one of them.

    Shards of loose images have neither ``key`` nor ``source``: these are null then.
    """
    position = 0
    uris = source.uris(part.shard_id) if "uri" in columns and source.uris is not None else None
    stored = [name for name in columns if name != "uri"]
    with open_shard(source.output, part.shard_id, source.store) as file:
        absent = [f for f in PACKED if f.name in columns and f.name not in file.schema_arrow.names]
        for batch in iter_batches(file, stored):
            for field in absent:
                batch = batch.append_column(field, pa.nulls(len(batch), field.type))
            start, stop = max(0, part.start - position), min(len(batch), part.stop - position)
            if start < stop:
                rows = batch.slice(start, stop - start)
                if "uri" in columns:
                    found = uris[position + start : position + stop] if uris is not None else None
                    rows = rows.append_column("uri", _addresses(found, rows))
                yield rows
            position += len(batch)
            if position >= part.stop:
                return


@contextmanager
def naming_shard(shard_id: int) -> Iterator[None]:
    """An error about rows says of which shard they are."""
    try:
        yield
    except InputError as error:
        name = shard_name(shard_id)
        raise error if name in str(error) else InputError(f"{name}: {error}") from None


def _addresses(uris: Sequence[str] | None, rows: pa.RecordBatch) -> pa.StringArray:
    """Addresses for files that people pass on: without credentials; else the file names."""
    if uris is None:
        return rows.column("file_name")
    if len(uris) != len(rows):
        raise InputError("the manifest has fewer images than the shard")
    return pa.array([storage.redact(uri) for uri in uris], pa.string())
