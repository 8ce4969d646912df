"""From fragments to published files, whatever the format of the text.

A profile says which files it has, which sections each file has and how rows become texts; here
fragments are rendered, by whatever runs functions over items, and put one after another into the
store. No process ever holds more than a few fragments. It does not know Ray or any format.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

import pyarrow as pa

from ntt_ray import storage
from ntt_ray.errors import InputError
from ntt_ray.outputs.fragments import Fragment, Layout, Slice
from ntt_ray.outputs.shards import iter_batches, open_shard, shard_name
from ntt_ray.outputs.thresholds import Thresholds
from ntt_ray.records import ClassLabel
from ntt_ray.storage import Storage

T = TypeVar("T")
R = TypeVar("R")
Progress = Callable[[int, int], None]
# rows of a shard with the columns asked for, thresholds, id of the first item -> a text for each
Render = Callable[[pa.RecordBatch, Thresholds, int], pa.StringArray]


class Mapper(Protocol):
    """Runs a function over items and gives the results in their order, like `map`."""

    def __call__(self, function: Callable[[T], R], items: Iterable[T]) -> Generator[R]:
        """Both are picklable; few results may wait for the reader at any time."""
        ...


def map_here(function: Callable[[T], R], items: Iterable[T]) -> Generator[R]:
    """The `Mapper` that works in this process."""
    yield from map(function, items)


@dataclass(frozen=True)
class Source:
    """The shards of a run and which of their instances are kept."""

    output: str
    store: Storage
    thresholds: Thresholds


@dataclass(frozen=True)
class Piece:
    """A fragment and what is to be made of it; travels to the process that renders it."""

    fragment: Fragment
    columns: tuple[str, ...]
    render: Render


@dataclass(frozen=True)
class Section:
    """A list in a file.

    Attributes:
        opening: text before the first item.
        skip: how many characters of the first item are left out (a separator in front of it).
        closing: text after the last item.
        pieces: the items.
    """

    opening: str
    skip: int
    closing: str
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class TextFile:
    """A file to be written: its name, relative to the output, and its sections."""

    name: str
    sections: tuple[Section, ...]


@dataclass(frozen=True)
class Merge:
    """What every profile gets.

    Attributes:
        source: the shards.
        layout: their rows, counted.
        classes: of the run, all of them, also those without a detection.
        info: provenance, without clocks.
        images_per_file: split files for people after so many images; None: one file.
        mapper: runs functions, in this process or in many.
        progress: called with the items written and the items in all, of one profile.
    """

    source: Source
    layout: Layout
    classes: Sequence[ClassLabel]
    info: Mapping[str, Any]
    images_per_file: int | None
    mapper: Mapper
    progress: Progress


def publish_files(merge: Merge, files: Sequence[TextFile]) -> list[str]:
    """Render and publish files, one after the other; gives their names."""
    pieces = [piece for file in files for section in file.sections for piece in section.pieces]
    total, done = sum(piece.fragment.items for piece in pieces), 0

    def in_order(rendered: Iterator[list[pa.Buffer]]) -> Iterator[list[memoryview]]:
        nonlocal done
        for piece, buffers in zip(pieces, rendered, strict=True):
            done += piece.fragment.items
            merge.progress(done, total)
            yield [memoryview(buffer) for buffer in buffers]

    source = merge.source
    with closing(merge.mapper(partial(render_piece, source=source), pieces)) as rendered:
        texts = in_order(rendered)
        for file in files:
            source.store.publish_stream(
                storage.join(source.output, file.name), _chunks(file, texts)
            )
    return [file.name for file in files]


def render_piece(piece: Piece, source: Source) -> list[pa.Buffer]:
    """The texts of a fragment, as they lie in memory.

    Raises:
        InputError: a shard is missing or damaged; it is named.
    """
    buffers, next_id = [], piece.fragment.first_id
    for part in piece.fragment.slices:
        for rows in _rows(part, piece.columns, source):
            try:
                texts = piece.render(rows, source.thresholds, next_id)
            except InputError as error:
                raise InputError(f"{shard_name(part.shard_id)}: {error}") from None
            next_id += len(texts)
            buffers.append(_bytes_of(texts))
    return buffers


def _rows(part: Slice, columns: Sequence[str], source: Source) -> Iterator[pa.RecordBatch]:
    position = 0
    with open_shard(source.output, part.shard_id, source.store) as file:
        for batch in iter_batches(file, columns):
            start, stop = max(0, part.start - position), min(len(batch), part.stop - position)
            if start < stop:
                yield batch.slice(start, stop - start)
            position += len(batch)
            if position >= part.stop:
                return


def _bytes_of(texts: pa.StringArray) -> pa.Buffer:
    """The characters of all texts, which lie one after the other; not copied."""
    _, offsets, data = texts.buffers()
    if not len(texts):
        return pa.py_buffer(b"")
    ends = memoryview(offsets).cast("i")
    first, last = ends[texts.offset], ends[texts.offset + len(texts)]
    return data.slice(first, last - first)


def _chunks(file: TextFile, texts: Iterator[list[memoryview]]) -> Iterator[bytes | memoryview]:
    """The content of a file; takes from `texts` what belongs to it."""
    for section in file.sections:
        yield section.opening.encode("ascii")
        skip = section.skip
        for _ in section.pieces:
            for text in next(texts):
                if len(text):
                    yield text[skip:]
                    skip = 0
        yield section.closing.encode("ascii")
