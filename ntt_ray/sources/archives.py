"""Archives of images: WebDataset tars (``.tar``, ``.tar.gz``) and zips, listed by their headers.

Each member becomes an address of `storage.parts`, so that whoever reads an image needs to know no
archive. A tar is gone through once, on S3 with one request, in other stores in steps of
`STEP_BYTES`, which is what it takes of memory. Of a zip the directory and the header of each member
are read.
"""

from __future__ import annotations

import gzip
import logging
import re
import shlex
import tarfile
import zipfile
import zlib
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import IO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ntt_ray import storage
from ntt_ray.errors import InputError
from ntt_ray.images import image_suffixes
from ntt_ray.sources import schema
from ntt_ray.sources.ahead import in_order
from ntt_ray.sources.schema import PackedFile, Piece, numbered, packed_schema
from ntt_ray.storage import Storage
from ntt_ray.storage.parts import MOST_UNPACKED_BYTES, Part, part_of

logger = logging.getLogger(__name__)

ARCHIVE_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".zip")
STEP_BYTES = 32 << 20
MOST_READS = 8  # of a large .tar.gz: a run reads no more than so many times what there is
SMALL_BYTES = 64 << 20
_BLOCK = 512  # bytes of a tar's header
_KEY = re.compile(r"((?:.*/|)[^.]+)[.][^/]*", re.DOTALL)  # of webdataset's `base_plus_ext`
_SIZE = "size"
_LISTED = pa.schema([*list(packed_schema())[1:], pa.field(_SIZE, pa.int64())])
Member = tuple[str, Part, int]  # its path in the archive, where its bytes are, how many it has


def is_archive(images: str) -> bool:
    """Whether a name is that of an archive which can be read."""
    return images.lower().endswith(ARCHIVE_SUFFIXES)


class Packed(NamedTuple):
    """An image in an archive.

    Attributes:
        name: its path in the archive.
        address: where its bytes are, see `storage.parts`.
        key: its WebDataset key; None where it has none.
        size: its bytes, unpacked.
    """

    name: str
    address: str
    key: str | None
    size: int


def webdataset_key(path: str) -> str | None:
    """What `webdataset` groups members by: the path up to the first dot of its last part.

    >>> webdataset_key("a.b/0001.left.jpg"), webdataset_key(".hidden.jpg")
    ('a.b/0001', None)
    """
    found = _KEY.match(path)
    return found[1] if found else None


def archive_pieces(files: Sequence[PackedFile], store: Storage, *, alone: bool) -> Iterator[Piece]:
    """The images of archives, one archive after the other, numbered from 1.

    Several archives are gone through at once, see `ahead`.

    Args:
        files: the archives.
        store: access to files.
        alone: whether the names of images are the paths of members; else the archive's name stands
            before them.

    Raises:
        InputError: as for `members`.
    """
    count = 0
    for table in in_order(
        lambda file: _listed(file, store, "" if alone else f"{file.name}/"), files
    ):
        images = numbered(table.drop_columns([_SIZE]), count + 1)
        yield Piece(images, table[_SIZE])
        count += len(table)


def _listed(file: PackedFile, store: Storage, before: str) -> pa.Table:
    found, batches = members(storage.local_uri(storage.absolute(file.uri)), store), []
    before, source = storage.printable(before), storage.printable(file.name)
    while some := list(islice(found, schema.BATCH)):
        columns = [
            [before + image.name for image in some],
            [image.address for image in some],
            [image.key for image in some],
            [source] * len(some),
            [image.size for image in some],
        ]
        arrays = [pa.array(c, field.type) for c, field in zip(columns, _LISTED, strict=True)]
        batches.append(pa.record_batch(arrays, schema=_LISTED))
    return pa.Table.from_batches(batches, schema=_LISTED)


def members(uri: str, store: Storage) -> Iterator[Packed]:
    """Each image of an archive, in the archive's order.

    Members with other endings are counted in the log. Where a tar is cut or damaged, the rest of it
    is one entry, which becomes a failed row.

    Raises:
        InputError: there is no such file, it is no archive, or a member's path leads out of it.
    """
    shown, left_out = storage.redact(uri), Counter[str]()
    suffixes = image_suffixes()
    try:
        for path, part, size in _members(uri, store):
            if not path.lower().endswith(suffixes) and not path.endswith(_REST):
                left_out[path.rsplit("/", 1)[-1].partition(".")[2]] += 1
                continue
            name = storage.printable(path).removeprefix("./")
            storage.join(shown, name)  # refuses names that lead out
            key = None if path.endswith(_REST) else webdataset_key(storage.printable(path))
            yield Packed(name, part.address(), key, size)
    except FileNotFoundError:
        raise InputError(f"images: {shown}: no such file") from None
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"images: {shown}: cannot be read as an archive ({error})") from None
    for ending, count in left_out.most_common():
        logger.info("images: left out %d members of %s that end in %r", count, shown, ending)


def check_packed_tars(
    images: Iterable[pa.Table], ends: Sequence[int], images_per_unit: int, store: Storage
) -> None:
    """Whether no ``.tar.gz`` would be read over and over: each unit reads it whole.

    Args:
        images: the list of images in pieces, as `sources.schema` says.
        ends: how many images there are up to the end of each unit.
        images_per_unit: how many images a unit has at most.
        store: access to files.

    Raises:
        InputError: a file of more than `SMALL_BYTES` would be read by more than `MOST_READS` units.
    """
    for source, rows in _packed_rows(images).items():
        reads = bisect_right(ends, rows.last) - bisect_right(ends, rows.first) + 1
        part = part_of(rows.address)
        if reads <= MOST_READS or part is None or (size := store.size(part.uri)) <= SMALL_BYTES:
            continue
        tar = re.sub(r"\.tgz$|\.gz$", "", source.rsplit("/", 1)[-1], flags=re.IGNORECASE)
        tar = tar if tar.lower().endswith(".tar") else f"{tar}.tar"
        wanted = -(-(rows.last - rows.first + 1) // max(1, MOST_READS - 1))
        raise InputError(
            f"images: {storage.redact(part.uri)} ({size / 1e6:.0f} MB) cannot be read in part, and "
            f"{reads} units of {images_per_unit} images would each read it whole: write a .tar "
            f"(gunzip -c {shlex.quote(source.rsplit('/', 1)[-1])} > {shlex.quote(tar)}), or set "
            f"job.images_per_unit to {wanted} or more"
            + (", and job.unit_mb higher" if wanted <= images_per_unit else "")
        )


class _Rows(NamedTuple):
    """First and last row of the images of a file, from 0, and the address of the first."""

    first: int
    last: int
    address: str


def _packed_rows(images: Iterable[pa.Table]) -> dict[str, _Rows]:
    """Where the images of each ``.tar.gz`` lie, by its name."""
    found, start = dict[str, _Rows](), 0
    for piece in images:
        if "source" not in piece.column_names:
            return {}
        packed = np.flatnonzero(pc.starts_with(piece["uri"], "gunzip://").to_numpy())
        names = piece["source"].take(pa.array(packed)).to_pylist()
        for row, name in zip(packed.tolist(), names, strict=True):
            if name in found:
                found[name] = found[name]._replace(last=start + row)
            else:
                found[name] = _Rows(start + row, start + row, piece["uri"][row].as_py())
        start += len(piece)
    return found


def _members(uri: str, store: Storage) -> Iterator[Member]:
    lower = uri.lower()
    members: Callable[[IO[bytes], str], Iterator[Member]] = _tar
    if lower.endswith(".zip"):
        members = _zip
    elif not lower.endswith(".tar"):
        members = _tar_gz
    # of a zip the directory at the end comes first
    opened = store.open_read if members is _zip else store.open_forward
    with opened(uri, STEP_BYTES) as stream:
        yield from members(stream, uri)


_REST = ": the rest is cut or damaged"


def _tar(stream: IO[bytes], uri: str) -> Iterator[Member]:
    size = stream.seek(0, 2)
    stream.seek(0)
    ended = 0
    for path, start, end in _tar_members(stream):
        if path is not None:
            yield _member(path, Part("range", start, min(end, size), uri))
        ended = end
    after = -(-ended // _BLOCK) * _BLOCK
    stream.seek(min(after, size))
    if ended <= size and stream.read(_BLOCK).strip(b"\0"):
        yield _member(_rest(uri), Part("range", after, size, uri))


def _tar_gz(stream: IO[bytes], uri: str) -> Iterator[Member]:
    after, whole = 0, True
    with gzip.GzipFile(fileobj=stream) as unpacked:
        try:
            for path, start, end in _tar_members(unpacked):  # type: ignore[arg-type]
                if path is not None:
                    yield _member(path, Part("gunzip", start, end, uri))
                after = -(-end // _BLOCK) * _BLOCK
            unpacked.seek(after)
            whole = not unpacked.read(_BLOCK).strip(b"\0")
        except (EOFError, zlib.error):
            if not after:
                raise
            whole = False
    if not whole:
        yield _member(_rest(uri), Part("gunzip", after, after + _BLOCK, uri))


def _member(path: str, part: Part) -> Member:
    return path, part, max(0, part.end - part.start)


def _rest(uri: str) -> str:
    return storage.redact(uri).rsplit("/", 1)[-1] + _REST


def _tar_members(stream: IO[bytes]) -> Iterator[tuple[str | None, int, int]]:
    """Path (None: no file), start and end of each member, in bytes; ends where tarfile does."""
    with tarfile.open(fileobj=stream, mode="r:") as tar:
        try:
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # else it keeps all
                size = member.size if member.isreg() else 0
                path = member.name if member.isreg() else None
                yield path, member.offset_data, member.offset_data + size
        except tarfile.ReadError:  # cut in a member's bytes: its row says so
            return


def _zip(stream: IO[bytes], uri: str) -> Iterator[Member]:
    with zipfile.ZipFile(stream) as archive:
        for info in archive.infolist():
            if info.is_dir():
                continue
            kind = {zipfile.ZIP_STORED: "range", zipfile.ZIP_DEFLATED: "deflate"}
            if info.compress_type not in kind or info.flag_bits & 1:
                raise zipfile.BadZipFile(f"{info.filename}: encrypted, or not stored or deflated")
            stream.seek(info.header_offset)
            header = stream.read(30)
            if header[:4] != b"PK\3\4":
                raise zipfile.BadZipFile(f"{info.filename}: no header where it should be")
            names = sum(int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
            start = info.header_offset + 30 + names
            end = start + info.compress_size
            part = Part(kind[info.compress_type], start, end, uri)
            yield info.filename, part, min(info.file_size, MOST_UNPACKED_BYTES)
