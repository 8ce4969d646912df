"""Files wherever they are: local paths, ``s3://``, ``gs://``, ``az://``, ``memory://``, ``https://``.

The only user of fsspec. Owns listing, reading, publishing and retries. What is published appears
whole or not at all: a rename on a local disk, one PUT on an object store.
"""

from __future__ import annotations

import contextlib
import logging
import os
import posixpath
import random
import re
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TypeVar
from urllib.parse import quote, unquote_to_bytes

import fsspec
from fsspec.implementations.local import LocalFileSystem

from ntt_ray.errors import InputError, StorageError

logger = logging.getLogger(__name__)
T = TypeVar("T")

ATTEMPTS = 5
FIRST_DELAY_S = 0.5
COPY_BYTES = 8 << 20
# object stores answer these for a while when they are busy; everything else is final at once
_TRANSIENT_TEXT = re.compile(
    r"SlowDown|Throttl|TooManyRequests|RequestTimeout|ServiceUnavailable|InternalError|"
    r"\b(429|500|502|503|504)\b|[Tt]imed? ?out|[Cc]onnection (reset|aborted|closed)|"
    r"Connect(ion)?(Timeout)?Error|EndpointConnectionError|ServerDisconnected|IncompleteRead"
)
_URI = re.compile(r"^[a-zA-Z][a-zA-Z0-9+.-]*://")
_TEMPORARY = re.compile(r"^\.(.+)\.[0-9a-f]{12}\.tmp$")  # see `_local_publishing`
_CREDENTIALS = re.compile(r"://[^/@\s]*@")


def is_uri(path: str) -> bool:
    """Whether `path` names its protocol, as in ``s3://bucket/key``."""
    return bool(_URI.match(path))


def absolute(path: str) -> str:
    """Make a local path absolute, so that it means the same in every process; URIs stay."""
    if path.startswith("file://"):
        path = path.removeprefix("file://")
    return path if is_uri(path) else os.path.abspath(os.path.expanduser(path))


def join(prefix: str, *parts: str) -> str:
    """Join path parts below a prefix.

    Raises:
        InputError: a part is absolute or climbs out of the prefix with ``..``.
    """
    for part in parts:
        if is_uri(part) or part.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", part):
            raise InputError(f"{part!r} leads out of {redact(prefix)}; names must stay below it")
    return posixpath.join(prefix, *parts)


def below(root: str, name: str) -> str:
    """Where the file of that name lies below a root; web addresses have its signs escaped.

    Raises:
        InputError: see `join`.
    """
    is_web = root.lower().startswith(("http://", "https://"))
    joined = join(root, name)
    return join(root, quote(name)) if is_web else joined


def local_uri(path: str) -> str:
    """A path as a text that every format can hold.

    Names on disk are bytes. Where they are not UTF-8, Python has lone surrogates in their place,
    which neither Parquet nor JSON takes; such a path becomes a ``file://`` URI with escapes.
    """
    return path if printable(path) == path else "file://" + quote(os.fsencode(path))


def _unescaped(uri: str) -> str:
    """The inverse of `local_uri`."""
    if not uri.startswith("file://"):
        return uri
    return os.fsdecode(unquote_to_bytes(uri.removeprefix("file://")))


def printable(text: str) -> str:
    """A text with what is not Unicode (lone surrogates) written out as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def redact(text: str) -> str:
    """Remove user names and passwords from the URIs in a text meant for people."""
    return _CREDENTIALS.sub("://", text)


@dataclass(frozen=True)
class Storage:
    """Access to all file systems, with options by protocol.

    Attributes:
        options: passed to fsspec by protocol, e.g. ``{"s3": {"endpoint_url": ...}}``. Credentials
            are better left to the environment, where fsspec's file systems find them.
    """

    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def _open_fs(self, uri: str) -> tuple[Any, str]:
        protocol = uri.split("://", 1)[0] if is_uri(uri) else "file"
        options = dict(self.options.get(protocol, {}))
        if protocol in ("s3", "s3a", "gs", "gcs", "az", "abfs"):
            options.setdefault("use_listings_cache", False)  # stale listings broke resumes
        if protocol == "file":
            options.setdefault("auto_mkdir", False)
        try:
            # not url_to_fs: it takes "::" in a name for a chain of file systems
            kind = fsspec.get_filesystem_class(protocol)
            fs = kind(**{**kind._get_kwargs_from_urls(uri), **options})
            path = kind._strip_protocol(_unescaped(uri))
        except ImportError as error:
            extra = {"gs": "gcs", "gcs": "gcs", "az": "azure", "abfs": "azure"}.get(protocol)
            hint = f'; pip install "ntt-ray[{extra}]"' if extra else ""
            raise InputError(f"{protocol}:// needs another package: {error}{hint}") from None
        except ValueError as error:
            raise InputError(f"{redact(uri)}: {error}") from None
        return fs, path

    def read_bytes(self, uri: str) -> bytes:
        """Read a whole object.

        Raises:
            FileNotFoundError: there is none.
            StorageError: the store failed after all retries, or refused.
        """

        def read() -> bytes:
            fs, path = self._open_fs(uri)
            return bytes(fs.cat_file(path))

        return _retried(read, f"reading {redact(uri)}")

    def exists(self, uri: str) -> bool:
        """Whether an object is there."""

        def look() -> bool:
            fs, path = self._open_fs(uri)
            return bool(fs.isfile(path))

        return _retried(look, f"looking for {redact(uri)}")

    def size(self, uri: str) -> int:
        """Size of an object in bytes."""

        def look() -> int:
            fs, path = self._open_fs(uri)
            return int(fs.size(path))

        return _retried(look, f"looking at {redact(uri)}")

    @contextlib.contextmanager
    def open_read(self, uri: str) -> Iterator[IO[bytes]]:
        """Open an object for reading with random access (Parquet footers, row groups)."""

        def open_it() -> IO[bytes]:
            fs, path = self._open_fs(uri)
            return fs.open(path, "rb")  # type: ignore[no-any-return]

        with _retried(open_it, f"opening {redact(uri)}") as stream:
            yield stream

    def list_files(
        self, prefix: str, suffixes: tuple[str, ...] = (), *, hidden: bool = False
    ) -> list[str]:
        """Names of all objects below a prefix, relative to it, sorted.

        Args:
            prefix: a folder or key prefix; need not exist.
            suffixes: keep only names with one of these endings, compared in lower case.
            hidden: keep hidden files and folders too.

        Returns:
            Relative names with ``/`` between parts. Hidden files and folders (a part that starts
            with a dot) are left out.
        """

        def find() -> list[str]:
            fs, path = self._open_fs(prefix)
            base = path.rstrip("/") + "/"
            return [name.removeprefix(base) for name in fs.find(path) if name.startswith(base)]

        try:
            names = _retried(find, f"listing {redact(prefix)}")
        except FileNotFoundError:
            return []
        return sorted(
            name
            for name in names
            if (hidden or not any(part.startswith(".") for part in name.split("/")))
            and (not suffixes or name.lower().endswith(suffixes))
        )

    def list_folder(self, prefix: str) -> list[str]:
        """Names of the objects right below a prefix, sorted; hidden ones are left out."""

        def find() -> list[str]:
            fs, path = self._open_fs(prefix)
            found = fs.ls(path, detail=True)
            return [posixpath.basename(item["name"]) for item in found if item["type"] == "file"]

        try:
            names = _retried(find, f"listing {redact(prefix)}")
        except FileNotFoundError:
            return []
        return sorted(name for name in names if not name.startswith("."))

    def publish_bytes(self, uri: str, data: bytes) -> None:
        """Write an object so that it appears whole or not at all."""

        def publish() -> None:
            fs, path = self._open_fs(uri)
            if not isinstance(fs, LocalFileSystem):
                fs.pipe_file(path, data)
                return
            with _local_publishing(Path(path)) as temporary:
                temporary.write_bytes(data)

        _retried(publish, f"writing {redact(uri)}")

    def publish_new(self, uri: str, data: bytes) -> bool:
        """Write an object, whole, where there is none; whether that was done.

        One writer wins on a local disk and on stores with conditional writes (S3, Google). A store
        that ignores the condition writes over what is there and lets every writer win.
        """

        def create() -> bool:
            fs, path = self._open_fs(uri)
            try:
                if isinstance(fs, LocalFileSystem):
                    _link_new(Path(path), data)
                else:
                    _put_new(fs, path, data)
            except FileExistsError:
                return False
            return True

        return _retried(create, f"writing {redact(uri)}")

    def publish_stream(self, uri: str, chunks: Iterable[bytes | memoryview]) -> None:
        """Write an object from pieces in constant memory; it appears whole or not at all.

        The pieces are consumed once, so a store that fails in the middle is an error here.
        """
        fs, path = self._open_fs(uri)
        try:
            if isinstance(fs, LocalFileSystem):
                with _local_publishing(Path(path)) as temporary, temporary.open("wb") as stream:
                    stream.writelines(chunks)
                return
            # committing apart from closing: what fails in the middle never appears
            stream = fs.open(path, "wb", autocommit=False)
            try:
                for chunk in chunks:
                    stream.write(chunk)
                stream.close()
            except BaseException:
                stream.discard()
                raise
            stream.commit()
        except OSError as error:
            raise StorageError(f"writing {redact(uri)}: {redact(str(error))}") from error

    def publish_file(self, uri: str, local: Path) -> None:
        """Copy a local file to `uri`; it appears whole or not at all."""
        with local.open("rb") as source:
            self.publish_stream(uri, iter(lambda: source.read(COPY_BYTES), b""))

    def discard_unfinished(self, prefix: str, names: re.Pattern[str]) -> None:
        """Remove what killed writers left behind: local temporaries, S3 uploads never completed.

        For one writer at a time: a file that is being published would be lost.

        Args:
            prefix: the folder of the files.
            names: which names right below it, whole.
        """

        def discard() -> None:
            fs, path = self._open_fs(prefix)
            if isinstance(fs, LocalFileSystem):
                for left in Path(path).glob(".*.tmp"):
                    if (match := _TEMPORARY.match(left.name)) and names.fullmatch(match[1]):
                        left.unlink(missing_ok=True)
            elif "s3" in fs.protocol:
                _abort_uploads(fs, path, names)

        _retried(discard, f"cleaning {redact(prefix)}")

    def download(self, uri: str, local: Path) -> None:
        """Copy an object to a local file, replaced in one step."""

        def copy() -> None:
            fs, path = self._open_fs(uri)
            with (
                _local_publishing(local) as temporary,
                fs.open(path, "rb") as source,
                temporary.open("wb") as target,
            ):
                while chunk := source.read(COPY_BYTES):
                    target.write(chunk)

        _retried(copy, f"downloading {redact(uri)}")

    def delete(self, uri: str) -> None:
        """Delete an object; one that is not there is fine."""

        def delete() -> None:
            fs, path = self._open_fs(uri)
            with contextlib.suppress(FileNotFoundError):
                fs.rm_file(path)

        _retried(delete, f"deleting {redact(uri)}")


@contextlib.contextmanager
def _local_publishing(target: Path) -> Iterator[Path]:
    """A temporary name beside `target`, renamed over it at the end, removed on failure."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name[:100]}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        yield temporary
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _link_new(target: Path, data: bytes) -> None:
    """Create a file with its content in one step; `FileExistsError` when there is one."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name[:100]}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        temporary.write_bytes(data)
        try:
            os.link(temporary, target)
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links
            with target.open("xb") as stream:
                stream.write(data)
    finally:
        temporary.unlink(missing_ok=True)


def _put_new(fs: Any, path: str, data: bytes) -> None:
    """A PUT on the condition that nothing is there; without it where the store knows none."""
    try:
        fs.pipe_file(path, data, mode="create")
    except FileExistsError:
        raise
    except (TypeError, ValueError, NotImplementedError):
        fs.pipe_file(path, data)
    except OSError as error:
        if "NotImplemented" not in str(error):
            raise
        fs.pipe_file(path, data)


def _abort_uploads(fs: Any, path: str, names: re.Pattern[str]) -> None:
    """End multipart uploads to names right below an S3 path; their parts would be paid for."""
    bucket, key, _ = fs.split_path(path)
    folder = f"{key.strip('/')}/" if key.strip("/") else ""
    answer = fs.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=folder)
    for upload in answer.get("Uploads", ()):
        if names.fullmatch(upload["Key"].removeprefix(folder)):
            chosen = {"Key": upload["Key"], "UploadId": upload["UploadId"]}
            fs.call_s3("abort_multipart_upload", Bucket=bucket, **chosen)


def _retried(action: Callable[[], T], what: str) -> T:
    """Run `action` again on transient failures, with doubling delays and full jitter."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return action()
        except (FileNotFoundError, InputError):
            raise
        except Exception as error:  # each store brings its own exception types
            reason = f"{type(error).__name__}: {redact(str(error))}"
            if not _is_transient(error):
                raise StorageError(f"{what}: {reason}") from error
            if attempt == ATTEMPTS:
                raise StorageError(f"{what}: {reason} (after {ATTEMPTS} attempts)") from error
            delay_s = random.uniform(0.5, 1.0) * FIRST_DELAY_S * 2 ** (attempt - 1)
            logger.info("%s: %s; trying again in %.1f s", what, reason, delay_s)
            time.sleep(delay_s)
    raise AssertionError("unreachable")


def _is_transient(error: Exception) -> bool:
    if isinstance(error, PermissionError | IsADirectoryError | NotADirectoryError):
        return False
    if isinstance(error, TimeoutError | ConnectionError):
        return True
    text = f"{type(error).__name__}: {error}"
    cause = error.__cause__ or error.__context__
    return bool(_TRANSIENT_TEXT.search(text)) or (
        isinstance(cause, Exception) and bool(_TRANSIENT_TEXT.search(f"{type(cause).__name__}"))
    )
