"""Addresses of parts of files: a member of an archive, as a stretch of the bytes that hold it.

``range://1536-20480/s3://bucket/a.tar`` is a stretch of the file itself, ``deflate://`` one that is
to be inflated (a zip's member), ``gunzip://`` a stretch of what the whole file unpacks to (a
``.tar.gz``). The end is excluded. The file must be one that may be named without the stretch, too.
"""

from __future__ import annotations

import gzip
import io
import re
import zlib
from collections.abc import Callable
from typing import NamedTuple

_PART = re.compile(r"(range|deflate|gunzip)://(\d+)-(\d+)/(.+)", re.DOTALL)
MOST_UNPACKED_BYTES = 1 << 30  # by one request: images are smaller, bombs are not
_STEP = 1 << 20


class Part(NamedTuple):
    """A stretch of a file.

    Attributes:
        kind: ``range``, ``deflate`` or ``gunzip``.
        start: the first byte.
        end: the byte after the last one.
        uri: the file.
    """

    kind: str
    start: int
    end: int
    uri: str

    def address(self) -> str:
        """The part as one text."""
        return f"{self.kind}://{self.start}-{self.end}/{self.uri}"


def part_of(address: str) -> Part | None:
    """The part that an address names; None where it names a file."""
    if (found := _PART.fullmatch(address)) is None:
        return None
    kind, start, end, uri = found.groups()
    return Part(kind, int(start), int(end), uri)


def read_part(
    part: Part, read_range: Callable[[str, int, int], bytes], read: Callable[[str], bytes]
) -> bytes:
    """The bytes of a part, unpacked; one request.

    Args:
        part: what is read.
        read_range: gives the bytes of a file from a start to an end.
        read: gives a whole file.
    """
    if part.kind == "gunzip":
        return gunzipped(read(part.uri), part.start, part.end)
    if part.start == part.end:
        return b""
    data = read_range(part.uri, part.start, part.end)
    return inflated(data) if part.kind == "deflate" else data


def inflated(data: bytes) -> bytes:
    """A zip's member unpacked; one that is damaged gives what can be read before the damage."""
    unpack, found = zlib.decompressobj(-zlib.MAX_WBITS), io.BytesIO()
    try:
        for start in range(0, len(data), _STEP):
            found.write(
                unpack.decompress(data[start : start + _STEP], MOST_UNPACKED_BYTES - found.tell())
            )
            if found.tell() >= MOST_UNPACKED_BYTES or unpack.unconsumed_tail:
                break
    except zlib.error:
        pass
    return found.getvalue()


def gunzipped(data: bytes, start: int, end: int) -> bytes:
    """A stretch of what a gzip file unpacks to; less where the file is cut or damaged."""
    found, end = bytearray(), min(end, start + MOST_UNPACKED_BYTES)
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as stream:
        try:
            stream.seek(start)
            while len(found) < end - start:
                if not (step := stream.read(min(_STEP, end - start - len(found)))):
                    break
                found += step
        except (EOFError, OSError, zlib.error):
            pass
    return bytes(found)
