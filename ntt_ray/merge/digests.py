"""What the files behind the shards must be: their digests, of one, of a folder, or inside of one.

The digest of a folder is the sum, modulo 2^256, of the SHA-256 of each file's line as `sha256sum`
prints it: ``<SHA-256>  <name>``. A sum needs no order and no list of names, so that processes add
up what they wrote, and millions of files are checked in little memory. It finds damage; whoever
wants to forge can.

The digest of a file that several processes wrote in parts is the SHA-256 of the parts' own, put one
after another in binary: no process has all of its bytes.

``metrics.json`` and ``report.json`` are *sealed*: their key ``sha256`` is the digest of all their
other keys. File and digest are one object, so that they are published in one step; a record beside
them would be another file, and a process that ended between both would leave a contradiction.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any, TypeVar

from ntt_ray.storage import Storage

Chunk = TypeVar("Chunk", bytes, bytes | memoryview)
SEAL = "sha256"  # key of a sealed file
READ_BYTES = 8 << 20
_MODULUS = 1 << 256


@dataclass(frozen=True, slots=True)
class FileDigest:
    """The content of a file.

    Attributes:
        size: length in bytes.
        sha256: SHA-256 in hex; where there are parts, that of their SHA-256, see the module.
        parts: length in bytes of each part of a file that was written in several.
    """

    size: int
    sha256: str
    parts: tuple[int, ...] = ()

    @classmethod
    def of_parts(cls, parts: Sequence[FileDigest]) -> FileDigest:
        """The file that is made of parts; one part alone is the file."""
        if len(parts) == 1:
            return parts[0]
        sizes = tuple(part.size for part in parts)
        inner = b"".join(bytes.fromhex(part.sha256) for part in parts)
        return cls(sum(sizes), hashlib.sha256(inner).hexdigest(), sizes)

    def plain(self) -> dict[str, Any]:
        """As it stands in a record."""
        parts = {"parts": list(self.parts)} if self.parts else {}
        return {"size": self.size, "sha256": self.sha256, **parts}


@dataclass(frozen=True, slots=True)
class FolderDigest:
    """The content of a folder, see the module.

    Attributes:
        files: how many files it has.
        size: length of all files together in bytes.
        sha256_sum: the sum of the SHA-256 of each file's line, in hex.
    """

    files: int = 0
    size: int = 0
    sha256_sum: str = "0" * 64

    @classmethod
    def of(cls, name: str, file: FileDigest) -> FolderDigest:
        """The folder that has only this file; its name is relative to the output."""
        line = f"{file.sha256}  {name}\n"
        return cls(1, file.size, digest_of_bytes(line.encode()).sha256)

    def __add__(self, other: FolderDigest) -> FolderDigest:
        total = (int(self.sha256_sum, 16) + int(other.sha256_sum, 16)) % _MODULUS
        return FolderDigest(self.files + other.files, self.size + other.size, f"{total:064x}")


class DigestingStream:
    """Hands chunks of a file through and adds them up, so that no byte is read twice."""

    def __init__(self) -> None:
        self._sha256, self._size = hashlib.sha256(), 0

    def through(self, chunks: Iterable[Chunk]) -> Iterator[Chunk]:
        """The same chunks."""
        for chunk in chunks:
            self._sha256.update(chunk)
            self._size += len(chunk)
            yield chunk

    def digest(self) -> FileDigest:
        """Of the chunks that were handed through so far."""
        return FileDigest(self._size, self._sha256.hexdigest())


def digest_of_bytes(data: bytes | bytearray) -> FileDigest:
    """The digest of a file with this content."""
    return FileDigest(len(data), hashlib.sha256(data).hexdigest())


def digest_of_json(data: Any) -> str:
    """SHA-256 of JSON data as it is read from a file, in hex, whatever the order of keys."""
    return digest_of_bytes(json.dumps(data, sort_keys=True).encode()).sha256


def sealed(data: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a JSON file with the digest of its other keys, see the module."""
    others = {key: value for key, value in data.items() if key != SEAL}
    others = json.loads(json.dumps(others))  # keys that are numbers would be sorted otherwise
    return {**others, SEAL: digest_of_json(others)}


def json_file(data: Mapping[str, Any]) -> bytes:
    """JSON as it is published: sorted and indented, so that the same data are the same bytes."""
    return (json.dumps(data, indent=1, sort_keys=True) + "\n").encode()


def seal_problem(text: bytes, data: Any) -> str | None:
    """What is wrong with a sealed file and the data in it; None where nothing is."""
    if not isinstance(data, dict):
        return "is no JSON object"
    if SEAL in data and sealed(data)[SEAL] != data[SEAL]:
        return "is not as it was written, by its SHA-256"
    if SEAL in data and json_file(data) != text:
        return "has other white space or more than was written"
    return None


def digest_of_file(uri: str, store: Storage, parts: Sequence[int] = ()) -> FileDigest:
    """Read a file of any size in little memory.

    Args:
        uri: the file.
        store: access to files.
        parts: the length of each part, where it was written in several. What comes after all of
            them is one part more.

    Raises:
        FileNotFoundError: there is none.
    """
    with store.open_read(uri) as stream:
        if not parts:
            return _digest_of_rest(stream)
        found = [_digest_of_rest(stream, size) for size in parts]
        rest = _digest_of_rest(stream)
        return FileDigest.of_parts([*found, rest] if rest.size else found)


def _digest_of_rest(stream: IO[bytes], left: int | None = None) -> FileDigest:
    """Read so many bytes of a stream, or all that are left."""
    found = DigestingStream()
    for _ in found.through(_read(stream, left)):
        pass
    return found.digest()


def _read(stream: IO[bytes], left: int | None) -> Iterator[bytes]:
    while left is None or left > 0:
        if not (chunk := stream.read(READ_BYTES if left is None else min(READ_BYTES, left))):
            return
        left = None if left is None else left - len(chunk)
        yield chunk
