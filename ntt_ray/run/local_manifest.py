"""A manifest on this machine: of a local output the file itself, of one in a store a copy.

A driver looks into its manifest in many places: what a copy takes is one pass over the file, and
room for it in the folder for temporary files. It knows nothing of what is in it.
"""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
from collections.abc import Callable, Iterator
from typing import IO

from ntt_ray import storage
from ntt_ray.errors import StorageError
from ntt_ray.run.layout import MANIFEST_FILE
from ntt_ray.sources.spool import no_room
from ntt_ray.storage import Storage
from ntt_ray.storage.ranges import RangeReader

_CHUNK_BYTES = 8 << 20


class ManifestFile:
    """A manifest on this machine, in a file that nobody else changes.

    Attributes:
        sha256: SHA-256 of its bytes, in hex.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file, digest = file, hashlib.sha256()
        for chunk in self.chunks():
            digest.update(chunk)
        self.sha256 = digest.hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ManifestFile) and self.sha256 == other.sha256

    def __hash__(self) -> int:
        return hash(self.sha256)

    def chunks(self) -> Iterator[bytes]:
        """Its bytes, some at a time."""
        start = 0
        while chunk := os.pread(self._file.fileno(), _CHUNK_BYTES, start):
            yield chunk
            start += len(chunk)

    def stream(self) -> IO[bytes]:
        """Its bytes as a stream with a place of its own."""
        file = self._file  # lives as long as the stream
        size = os.fstat(file.fileno()).st_size
        raw = RangeReader(size, lambda start, end: os.pread(file.fileno(), end - start, start))
        return io.BufferedReader(raw)


Source = ManifestFile | bytes  # what is read of a manifest


def written_here(write: Callable[[IO[bytes]], None]) -> ManifestFile:
    """What a function writes, in a temporary file that is gone with the process.

    Raises:
        StorageError: there is no room for temporary files.
    """
    file = tempfile.TemporaryFile(prefix="ntt-ray-")  # noqa: SIM115  # closed with its owner
    try:
        write(file)
        file.flush()
    except OSError as error:
        raise no_room(error) from error
    return ManifestFile(file)


def local_manifest(output: str, store: Storage) -> ManifestFile:
    """The manifest file of a run on this machine; one in a store is copied into a temporary file.

    Raises:
        FileNotFoundError: it is missing.
        StorageError: it cannot be read, or there is no room for temporary files.
    """
    uri = storage.join(output, MANIFEST_FILE)
    if not storage.is_uri(uri):
        try:
            return ManifestFile(open(uri, "rb"))  # closed with its owner
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StorageError(f"reading {uri}: {error}") from error
    file = tempfile.TemporaryFile(prefix="ntt-ray-")  # noqa: SIM115
    with store.open_read(uri, _CHUNK_BYTES) as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            try:
                file.write(chunk)
                file.flush()
            except OSError as error:
                raise no_room(error) from error
    return ManifestFile(file)
