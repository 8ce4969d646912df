"""Files that many processes write: each stores parts, one puts them together or discards them.

S3 has uploads for it. On a local disk the parts are files in a hidden folder beside the file, which
one process joins as they come; a part that comes after the folder was discarded is refused, so that
the writers of a process that was killed leave nothing. Other stores have nothing of the kind here.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ntt_ray.storage.publishing import COPY_BYTES, Retried

MOST_PARTS = 10_000  # of a file on S3
LEAST_BYTES = 5 << 20  # that S3 takes for a part that is not the last
LARGEST = dict.fromkeys(("s3", "s3a", "gs", "gcs"), 5 << 40)  # bytes of a file


@dataclass(frozen=True)
class Upload:
    """A file that is written in parts, and not to be seen before it is complete.

    Attributes:
        uri: the file.
        token: what the store calls the upload; on a local disk the folder of the parts.
    """

    uri: str
    token: str


@dataclass(frozen=True)
class StoredPart:
    """A part that lies in the store.

    Attributes:
        number: its place in the file, from 1 to `MOST_PARTS`; numbers may be left out.
        size: its length in bytes.
        tag: what the store calls its content; empty on a local disk.
    """

    number: int
    size: int
    tag: str = ""


def begin_s3(fs: Any, path: str) -> str:
    """Begin an upload to S3; gives its id."""
    return str(fs.call_s3("create_multipart_upload", **_where(fs, path))["UploadId"])


def store_s3(fs: Any, path: str, token: str, number: int, data: bytes | bytearray) -> StoredPart:
    """Upload a part to S3; the same number again takes the place of the one before."""
    where = {**_where(fs, path), "UploadId": token, "PartNumber": number}
    return StoredPart(number, len(data), fs.call_s3("upload_part", Body=data, **where)["ETag"])


def complete_s3(
    fs: Any, path: str, token: str, parts: Iterable[StoredPart], retried: Retried
) -> None:
    """Make a file of parts, in the order of their numbers; on failure they are discarded."""
    where = {**_where(fs, path), "UploadId": token}
    try:
        done = list(parts)
        listed = [{"PartNumber": part.number, "ETag": part.tag} for part in done]
    except BaseException:
        discard_s3(fs, path, token)
        raise

    def complete() -> None:
        try:
            fs.call_s3("complete_multipart_upload", MultipartUpload={"Parts": listed}, **where)
        except FileNotFoundError:  # an attempt whose answer was lost has completed it
            if fs.info(path)["size"] != sum(part.size for part in done):
                raise

    retried(complete)


def discard_s3(fs: Any, path: str, token: str) -> None:
    """Discard the parts of an upload to S3, if it lets us."""
    with contextlib.suppress(Exception):
        fs.call_s3("abort_multipart_upload", UploadId=token, **_where(fs, path))


def _where(fs: Any, path: str) -> dict[str, str]:
    bucket, key, _ = fs.split_path(path)
    return {"Bucket": bucket, "Key": key}


def begin_local(target: Path) -> str:
    """Make the folder for the parts of a local file."""
    folder = target.with_name(f".{target.name[:100]}.{uuid.uuid4().hex[:12]}.tmp")
    folder.mkdir(parents=True)
    return str(folder)


def store_local(token: str, number: int, data: bytes | bytearray) -> StoredPart:
    """Write a part of a local file.

    Raises:
        FileNotFoundError: the upload was discarded.
    """
    _part(token, number).write_bytes(data)
    return StoredPart(number, len(data))


def complete_local(target: Path, token: str, parts: Iterable[StoredPart]) -> None:
    """Join parts as they come, and rename what they became; on failure they are discarded."""
    joined = Path(token) / "joined"
    try:
        with joined.open("wb", buffering=0) as stream:
            for part in parts:
                with _part(token, part.number).open("rb", buffering=0) as source:
                    _append(source, stream, part.size)
                _part(token, part.number).unlink()
            os.fsync(stream.fileno())  # else a machine that stops could leave an empty file
        os.replace(joined, target)
    finally:
        discard_local(token)


def discard_local(token: str) -> None:
    """Remove the folder of parts and what is in it, if it is there."""
    shutil.rmtree(token, ignore_errors=True)


def _part(token: str, number: int) -> Path:
    return Path(token) / f"{number:05d}"


def _append(source: BinaryIO, target: BinaryIO, size: int) -> None:
    """Copy a part behind what was copied before, where that can be done without reading it."""
    copy: Callable[..., int] | None = getattr(os, "copy_file_range", None)
    left = size
    with contextlib.suppress(OSError):  # file systems that cannot
        while copy is not None and left > 0:
            if (copied := copy(source.fileno(), target.fileno(), left)) == 0:
                break
            left -= copied
    if left:
        before = target.tell()
        shutil.copyfileobj(source, target, COPY_BYTES)
        if target.tell() - before != left:
            raise OSError(f"a part has another length than the {size} bytes that were written")
