"""From fragments to published text files, whatever the format.

A profile says which files it has, which sections each file has and how rows become texts. A file
is divided into parts by the sizes that the shards tell; whatever runs functions over items renders
each part and stores it, and here they are put together, so that the bytes of a file never come
through this process. Stores that know no parts are written to from here, as a stream.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice

import pyarrow as pa

from ntt_ray import storage
from ntt_ray.errors import InputError
from ntt_ray.merge.digests import DigestingStream, FileDigest, digest_of_bytes
from ntt_ray.merge.fragments import Fragment
from ntt_ray.merge.rendering import Loss, Merge, Render, Source, Written, iter_rows, naming_shard
from ntt_ray.storage import LEAST_BYTES, MOST_PARTS, Storage, StoredPart, Upload

PART_BYTES = 32 << 20
MOST_TASKS = 8000  # of a file, about; there may be `MOST_PARTS`


@dataclass(frozen=True)
class Section:
    """A list in a file.

    Attributes:
        opening: text before the first item.
        skip: how many characters of the first item are left out (a separator in front of it).
        closing: text after the last item.
        fragments: the rows that the items are made of.
        columns: the columns of these rows that are needed.
        render: makes the items.
    """

    opening: str
    skip: int
    closing: str
    fragments: Sequence[Fragment]
    columns: tuple[str, ...]
    render: Render


@dataclass(frozen=True)
class TextFile:
    """A file to be written: its name, relative to the output, and its sections."""

    name: str
    sections: tuple[Section, ...]


@dataclass(frozen=True)
class Piece:
    """A fragment, its columns, what to make of them, and what of the first text is left out."""

    fragment: Fragment
    columns: tuple[str, ...]
    render: Render
    skip: int


@dataclass(frozen=True)
class Part:
    """What one task writes of a file.

    Attributes:
        uri: the file.
        texts: bytes as they are, and pieces to render, in order.
        items: how many items the pieces have.
        of: how many parts the file has.
        part_bytes: about how long a stored part is.
        first_number: number of the first stored part.
        most: how many stored parts it may become, where it is longer than was thought.
        upload: what the part belongs to; None where it is the whole file.
    """

    uri: str
    texts: tuple[bytes | Piece, ...]
    items: int
    of: int
    part_bytes: int
    first_number: int = 1
    most: int = 1
    upload: Upload | None = None


@dataclass(frozen=True)
class WrittenPart:
    """What became of a part: what lies in the store, the digest of each, the loss of all."""

    stored: tuple[StoredPart, ...]
    digests: tuple[FileDigest, ...]
    loss: Loss | None

    @property
    def size(self) -> int:
        """Length in bytes."""
        return sum(digest.size for digest in self.digests)


def publish_files(merge: Merge, files: Sequence[TextFile]) -> Written:
    """Render and publish files, one after the other."""
    if not merge.source.store.stores_parts(merge.source.target):
        return _publish_streams(merge, files)
    planned = {file.name: planned_parts(file, merge.source) for file in files}
    parts = list(chain.from_iterable(planned.values()))
    losses, digests = list[Loss | None](), dict[str, FileDigest]()
    write = partial(write_part, source=merge.source)
    with _Uploads(merge.source.store) as uploads:
        work = (dataclasses.replace(part, upload=uploads.of(part)) for part in parts)
        with closing(merge.mapped(write, work, [part.items for part in parts])) as written:
            for name, own in planned.items():
                found = _completed(merge, own, islice(written, len(own)), uploads)
                losses += [part.loss for part in found]
                digests[name] = FileDigest.of_parts([d for part in found for d in part.digests])
    return Written(digests, loss=Loss.total(losses))


def planned_parts(file: TextFile, source: Source) -> list[Part]:
    """Divide a file into about `MOST_TASKS` parts at most, all of which can be stored."""
    texts = list(_texts(file))
    part_bytes = max(PART_BYTES, -(-sum(map(_size, texts)) // MOST_TASKS))
    groups: list[list[bytes | Piece]] = [[]]
    size = 0
    for text in texts:
        if size + _size(text) > part_bytes and size:
            groups.append([])
            size = 0
        groups[-1].append(text)
        size += _size(text)
    groups = _at_most(groups, MOST_PARTS)
    count, uri = len(groups), storage.join(source.target, file.name)
    most = MOST_PARTS // count
    return [
        Part(uri, tuple(own), sum(map(_items, own)), count, part_bytes, 1 + number * most, most)
        for number, own in enumerate(groups)
    ]


def _at_most(groups: list[list[bytes | Piece]], most: int) -> list[list[bytes | Piece]]:
    """The same texts in fewer groups, where neighbours did not fill a part together."""
    step = -(-len(groups) // most)
    starts = range(0, len(groups), step)
    return [list(chain.from_iterable(groups[start : start + step])) for start in starts]


def _texts(file: TextFile) -> Iterator[bytes | Piece]:
    """What a file is made of; fragments without an item are left out."""
    for section in file.sections:
        yield section.opening.encode("ascii")
        skip = section.skip
        for fragment in section.fragments:
            if fragment.items:
                yield Piece(fragment, section.columns, section.render, skip)
                skip = 0
        yield section.closing.encode("ascii")


def _size(text: bytes | Piece) -> int:
    return len(text) if isinstance(text, bytes) else text.fragment.size


def _items(text: bytes | Piece) -> int:
    return 0 if isinstance(text, bytes) else text.fragment.items


class _Uploads:
    """The uploads of files that have several parts; at the end what is not complete goes."""

    def __init__(self, store: Storage) -> None:
        self._store, self._open = store, dict[str, Upload]()

    def __enter__(self) -> _Uploads:
        return self

    def __exit__(self, *_: object) -> None:
        for upload in self._open.values():
            self._store.discard_upload(upload)

    def of(self, part: Part) -> Upload | None:
        """That of the file of a part, which is begun by now; None where the part is the file."""
        if part.of > 1 and part.uri not in self._open:
            upload = self._store.begin_upload(part.uri)
            assert upload is not None
            self._open[part.uri] = upload
        return self._open.get(part.uri)

    def complete(self, upload: Upload, parts: Iterable[StoredPart]) -> None:
        """Make the file of its parts."""
        self._store.publish_parts(upload, parts)
        del self._open[upload.uri]


def write_part(part: Part, source: Source) -> WrittenPart:
    """Render a part and store it.

    Raises:
        InputError: a shard is missing or damaged; it is named.
        StorageError: it cannot be stored.
    """
    losses: list[Loss | None] = []
    chunks = _rendered(part.texts, source, losses)
    if part.upload is None:
        stream = DigestingStream()
        source.store.publish_stream(part.uri, stream.through(chunks))
        return WrittenPart((), (stream.digest(),), Loss.total(losses))
    stored, digests = [], []
    for number, data in enumerate(stored_pieces(chunks, part.part_bytes, part.most), 0):
        digests.append(digest_of_bytes(data))
        stored.append(source.store.store_part(part.upload, part.first_number + number, data))
    return WrittenPart(tuple(stored), tuple(digests), Loss.total(losses))


def stored_pieces(
    chunks: Iterable[bytes | memoryview], size: int, most: int
) -> Iterator[bytes | bytearray]:
    """Chunks as pieces to store, at least one: usually one, several of `size` where it is too long.

    Each of several has at least the bytes that a store takes for a part.
    """
    held, count, size = bytearray(), 1, max(size, LEAST_BYTES)
    for chunk in chunks:
        held += chunk
        while count < most and len(held) >= size + LEAST_BYTES:
            yield bytes(held[:size])
            del held[:size]
            count += 1
    yield held


def _rendered(
    texts: Iterable[bytes | Piece], source: Source, losses: list[Loss | None]
) -> Iterator[bytes | memoryview]:
    for text in texts:
        if isinstance(text, bytes):
            yield text
        else:
            yield from _rendered_piece(text, source, losses)


def _rendered_piece(
    piece: Piece, source: Source, losses: list[Loss | None]
) -> Iterator[memoryview]:
    """The texts of a piece, as they lie in memory.

    Raises:
        InputError: a shard is missing or damaged; it is named.
    """
    next_id, skip = piece.fragment.first_id, piece.skip
    for part in piece.fragment.slices:
        with naming_shard(part.shard_id):
            for rows in iter_rows(part, piece.columns, source):
                texts, loss = piece.render(rows, source.thresholds, next_id)
                next_id += len(texts)
                losses.append(loss)
                if text := memoryview(_bytes_of(texts)):
                    yield text[skip:]
                    skip = 0
    if skip:
        names = ", ".join(str(part.shard_id) for part in piece.fragment.slices)
        raise InputError(f"shards {names} have changed since they were counted; merge again")


def _bytes_of(texts: pa.StringArray) -> pa.Buffer:
    """The characters of all texts, which lie one after the other; not copied."""
    _, offsets, data = texts.buffers()
    if not len(texts):
        return pa.py_buffer(b"")
    ends = memoryview(offsets).cast("i")
    first, last = ends[texts.offset], ends[texts.offset + len(texts)]
    return data.slice(first, last - first)


def _completed(
    merge: Merge, parts: Sequence[Part], written: Iterable[WrittenPart], uploads: _Uploads
) -> list[WrittenPart]:
    """Put a file together of its parts as they come."""
    upload, found = uploads.of(parts[0]), list[WrittenPart]()
    if upload is None:
        return list(written)
    if least := merge.source.store.least_part(upload.uri):
        written = _large_enough(merge, parts, list(written), upload, least)

    def stored() -> Iterator[StoredPart]:
        for part in written:
            found.append(part)
            yield from part.stored

    uploads.complete(upload, stored())
    return found


def _large_enough(
    merge: Merge, parts: Sequence[Part], written: list[WrittenPart], upload: Upload, least: int
) -> list[WrittenPart]:
    """Parts that came out shorter than the store takes are written again, with their neighbours."""
    groups = neighbours([part.size for part in written], least)
    again = [_joined(parts[own.start : own.stop], upload) for own in groups if len(own) > 1]
    rewritten = merge.mapper(partial(write_part, source=merge.source), again)
    return [next(rewritten) if len(own) > 1 else written[own.start] for own in groups]


def neighbours(sizes: Sequence[int], least: int) -> list[range]:
    """Neighbours that have `least` bytes together; the last of them may have less."""
    groups, start, size = list[range](), 0, 0
    for number, own in enumerate(sizes):
        size += own
        if size >= least or number == len(sizes) - 1:
            groups.append(range(start, number + 1))
            start, size = number + 1, 0
    return groups


def _joined(parts: Sequence[Part], upload: Upload) -> Part:
    texts = tuple(chain.from_iterable(part.texts for part in parts))
    items, most = sum(part.items for part in parts), sum(part.most for part in parts)
    return dataclasses.replace(parts[0], texts=texts, items=items, most=most, upload=upload)


def _publish_streams(merge: Merge, files: Sequence[TextFile]) -> Written:
    """Publish files to a store that knows no parts: their bytes come through this process."""
    source, digests, losses = merge.source, {}, list[Loss | None]()
    texts = [(file, list(_texts(file))) for file in files]
    pieces = [text for _, own in texts for text in own if isinstance(text, Piece)]
    render = partial(render_piece, source=source)
    items = [piece.fragment.items for piece in pieces]
    with closing(merge.mapped(render, pieces, items, large=True)) as rendered:

        def chunks(own: Sequence[bytes | Piece]) -> Iterator[bytes | memoryview]:
            for text in own:
                if isinstance(text, bytes):
                    yield text
                    continue
                buffers, loss = next(rendered)
                losses.append(loss)
                yield from [memoryview(buffer) for buffer in buffers]

        for file, own in texts:
            stream, uri = DigestingStream(), storage.join(source.target, file.name)
            source.store.publish_stream(uri, stream.through(chunks(own)))
            digests[file.name] = stream.digest()
    return Written(digests, loss=Loss.total(losses))


def render_piece(piece: Piece, source: Source) -> tuple[list[pa.Buffer], Loss | None]:
    """The texts of a piece, as they lie in memory, and their loss."""
    losses: list[Loss | None] = []
    buffers = [pa.py_buffer(text) for text in _rendered_piece(piece, source, losses)]
    return buffers, Loss.total(losses)
