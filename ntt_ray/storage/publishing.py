"""How a file appears in one step: renamed, linked, put on a condition, or completed at the end."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from ntt_ray.storage.retries import statuses

COPY_BYTES = 8 << 20
PART_BYTES = 64 << 20
PARTS_OF_A_SIZE = 1000  # then they double: S3 takes 10,000 parts, whose sum nobody may know
_TEMPORARY = re.compile(r"^\.(.+)\.[0-9a-f]{12}\.tmp$")  # see `_beside`
Retried = Callable[[Callable[[], Any]], Any]


@contextlib.contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """A name beside `target`, in a folder that is made; its file is removed at the end."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name[:100]}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A temporary name beside `target`, renamed over it at the end, removed on failure."""
    with _beside(target) as temporary:
        yield temporary
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())  # else a machine that stops could leave an empty file
        os.replace(temporary, target)


def link_new(target: Path, data: bytes) -> None:
    """Create a file with its content in one step; `FileExistsError` when there is one."""
    with _beside(target) as temporary:
        temporary.write_bytes(data)
        try:
            os.link(temporary, target)
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links
            with target.open("xb") as stream:
                stream.write(data)


def put_new(fs: Any, path: str, data: bytes) -> None:
    """A PUT on the condition that nothing is there; without it where the store knows none.

    Stores say in dialects of their own that something is there: the status counts, whatever the
    body holds. 412 says so; 409 says it, too, or that another writer is at work at this moment.

    Raises:
        FileExistsError: something is there.
        ConnectionError: another writer was at work; a moment later more is known.
    """
    try:
        fs.pipe_file(path, data, mode="create")
    except FileExistsError:
        raise
    except (TypeError, ValueError, NotImplementedError):
        fs.pipe_file(path, data)
    except OSError as error:
        found = set(statuses(error))
        if 412 in found or (409 in found and fs.exists(path)):
            raise FileExistsError(path) from None
        if 409 in found:
            raise ConnectionError(f"409: another writer is at work on {path}") from None
        if 501 not in found and "NotImplemented" not in str(error):
            raise
        fs.pipe_file(path, data)


def parts(chunks: Iterable[bytes | memoryview]) -> Iterator[bytes]:
    """Pieces of any size as parts of about `PART_BYTES`; at least one, which may be empty.

    After every `PARTS_OF_A_SIZE` of them parts are twice as large, so that 10,000 are enough.
    """
    part, count = bytearray(), 0
    for chunk in chunks:
        part += chunk
        if len(part) >= PART_BYTES << count // PARTS_OF_A_SIZE:
            yield bytes(part)
            part.clear()
            count += 1
    yield bytes(part)


def upload_stream(fs: Any, path: str, pieces: Iterable[bytes]) -> None:
    """Upload to another store; committing apart from closing, so that a part never appears."""
    stream = fs.open(path, "wb", autocommit=False)
    try:
        for piece in pieces:
            stream.write(piece)
        stream.close()
    except BaseException:
        stream.discard()
        raise
    stream.commit()


def discard_temporaries(folder: Path, names: re.Pattern[str]) -> None:
    """Remove what killed writers of those names left in a local folder."""
    for left in folder.glob(".*.tmp"):
        if (match := _TEMPORARY.match(left.name)) and names.fullmatch(match[1]):
            if left.is_dir():  # parts, see `uploads`
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)


def abort_uploads(fs: Any, path: str, names: re.Pattern[str]) -> None:
    """End multipart uploads to names right below an S3 path; their parts would be paid for."""
    bucket, key, _ = fs.split_path(path)
    folder = f"{key.strip('/')}/" if key.strip("/") else ""
    answer = fs.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=folder)
    for upload in answer.get("Uploads", ()):
        if names.fullmatch(upload["Key"].removeprefix(folder)):
            chosen = {"Key": upload["Key"], "UploadId": upload["UploadId"]}
            fs.call_s3("abort_multipart_upload", Bucket=bucket, **chosen)
