"""Access to all file systems: read, list, publish, with retries. Knows nothing of what it moves."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import IO, Any, TypeVar

import fsspec
from fsspec.implementations.local import LocalFileSystem

from ntt_ray.errors import InputError, MissingPackageError, StorageError
from ntt_ray.storage import listing, web
from ntt_ray.storage.cells import Cell, CellValue, cell_bytes, cell_of, read_values, value_bytes
from ntt_ray.storage.deadlines import LONGEST_S, METADATA_S, range_s, within
from ntt_ray.storage.listing import LeftOut, Page
from ntt_ray.storage.parts import part_of, read_part
from ntt_ray.storage.publishing import (
    COPY_BYTES,
    PART_BYTES,
    Retried,
    abort_uploads,
    discard_temporaries,
    link_new,
    parts,
    put_new,
    replacing,
    upload_stream,
)
from ntt_ray.storage.ranges import BUFFER_BYTES, RangeReader, checked
from ntt_ray.storage.retries import Retries
from ntt_ray.storage.streams import PIECE_BYTES, ForwardReader, S3Stream
from ntt_ray.storage.uploads import (
    LARGEST,
    LEAST_BYTES,
    StoredPart,
    Upload,
    begin_local,
    begin_s3,
    complete_local,
    complete_s3,
    discard_local,
    discard_s3,
    store_local,
    store_s3,
)
from ntt_ray.storage.uris import is_uri, redact, unescaped

logger = logging.getLogger(__name__)
T = TypeVar("T")

PROGRESS_S = 5.0  # between two lines about a long listing
S3_CONNECTIONS = 32  # of one process; more than it fetches at once
# what images of a table may be read by: others reach programs, other machines' disks, archives
PROTOCOLS = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "http", "https", "file")
_BUCKETS = ("s3", "s3a", "gs", "gcs")
_EXTRAS = {"gs": "gcs", "gcs": "gcs", "az": "azure", "abfs": "azure", "abfss": "azure"}


@dataclass(frozen=True)
class Storage:
    """Access to all file systems, with options for fsspec by protocol.

    As in ``{"s3": {"endpoint_url": ...}}``. Credentials are better left to the environment, where
    fsspec's file systems find them. The entry ``retries`` is ours, see `Retries`.

    Attributes:
        options: options by protocol.
        patience_s: seconds for which a request that fails in a way that passes is tried again; it
            has its usual attempts at least.
    """

    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, repr=False)
    patience_s: float = 0.0

    def __post_init__(self) -> None:
        Retries.from_options(self.options.get("retries", {}))

    def read_bytes(self, uri: str) -> bytes:
        """Read a whole object, or what of one the address names (`storage.parts`, `cells`).

        Raises:
            FileNotFoundError: there is no such object.
            ImageError: the address names a cell of a Parquet file, and that has no bytes.
            StorageError: the store failed after all retries, or refused.
        """
        if (cell := cell_of(uri)) is not None:
            return value_bytes(self.read_cells([cell])[0], cell, self.read_bytes)
        if (part := part_of(uri)) is not None:
            return read_part(part, self._read_range, self.read_bytes)

        def read() -> bytes:
            fs, path = self._open_fs(uri)
            return bytes(within(LONGEST_S, fs, "cat_file", path))

        return self._retried(read, f"reading {redact(uri)}")

    def read_cells(self, cells: Sequence[Cell]) -> list[CellValue]:
        """What cells of one row group and column of a Parquet file hold, in their order.

        Raises:
            FileNotFoundError: there is no such object.
            ImageError: the row group is damaged, or has no such rows.
            StorageError: the store failed after all retries, or refused.
        """
        with self.open_read(cells[0].uri, buffer_bytes=1) as stream:  # Arrow knows what it needs
            return read_values(stream, cells)

    def exists(self, uri: str) -> bool:
        """Whether an object is there."""
        try:
            return bool(self._info(uri)["type"] == "file")
        except FileNotFoundError:
            return False

    def size(self, uri: str) -> int:
        """Size of an object in bytes; of a cell of a Parquet file the mean of its row group.

        Raises:
            FileNotFoundError: there is no such object.
        """
        if (part := part_of(uri)) is not None:
            return part.end - part.start
        if (cell := cell_of(uri)) is not None:
            with self.open_read(cell.uri) as stream:
                return cell_bytes(stream, cell)
        return int(self._info(uri)["size"])

    def _info(self, uri: str) -> dict[str, Any]:
        def look() -> dict[str, Any]:
            fs, path = self._open_fs(uri)
            return dict(within(METADATA_S, fs, "info", path))

        return self._retried(look, f"looking at {redact(uri)}")

    @contextlib.contextmanager
    def open_read(self, uri: str, buffer_bytes: int = BUFFER_BYTES) -> Iterator[IO[bytes]]:
        """Open an object for reading with random access (Parquet footers, row groups).

        Args:
            uri: the object.
            buffer_bytes: how much of a store's object one request reads at least.

        Raises:
            StorageError: also at the end, where an object in a store has changed since its first
                range was read: what was read may be of both.
        """
        fs, path = self._open_fs(uri)
        if isinstance(fs, LocalFileSystem):
            opened = lambda: open(path, "rb")  # noqa: E731, SIM115
            with self._retried(opened, f"opening {uri}") as stream:
                yield stream
            return
        before = self._info(uri)
        raw = RangeReader(int(before["size"]), lambda *ends: self._read_range(uri, *ends))
        with io.BufferedReader(raw, buffer_bytes) as stream:
            yield stream
        if raw.requests > 1 and _version(self._info(uri)) != _version(before):
            raise StorageError(f"reading {redact(uri)}: it was changed while it was read")

    @contextlib.contextmanager
    def open_forward(self, uri: str, step_bytes: int) -> Iterator[IO[bytes]]:
        """Open an object for reading it once, from its start to its end.

        S3 is asked once, and again from where a failure that passes has broken the answer off.

        Args:
            uri: the object.
            step_bytes: how many bytes one request reads where the store is not S3.

        Raises:
            StorageError: also where an object in a store has changed since the first request.
        """
        fs, path = self._open_fs(uri)
        if not hasattr(fs, "call_s3"):
            with self.open_read(uri, step_bytes) as stream:
                yield stream
            return
        info = self._info(uri)
        raw = ForwardReader(
            int(info["size"]),
            lambda position: S3Stream(fs, path, position, info["ETag"]),
            lambda action: self._retried(action, f"reading {redact(uri)}"),
        )
        with io.BufferedReader(raw, PIECE_BYTES) as stream:
            yield stream

    def _read_range(self, uri: str, start: int, end: int) -> bytes:
        def read() -> bytes:
            fs, path = self._open_fs(uri)
            size = end - start
            data = within(range_s(size), fs, "cat_file", path, start=start, end=end)
            return checked(data, size)

        return self._retried(read, f"reading {redact(uri)}")

    def list_files(
        self,
        prefix: str,
        suffixes: tuple[str, ...] = (),
        *,
        hidden: bool = False,
        left_out: LeftOut | None = None,
        divide_at: Sequence[str] = (),
    ) -> list[str]:
        """Names of all objects below a prefix, relative to it, sorted.

        Long listings log how far they are. In memory are the names and one page of the store's
        answer.

        Args:
            prefix: a folder or key prefix; it need not exist.
            suffixes: endings of the names to keep, compared in lower case; empty keeps all.
            hidden: whether hidden files and folders are kept too.
            left_out: is told of each file that is not kept, and why.
            divide_at: sorted names at which a long listing of one folder may be divided.

        Returns:
            Relative names with ``/`` between parts. Hidden files and folders are those with a part
            that starts with a dot.
        """
        names: list[str] = []
        for page in self.list_pages(
            prefix, suffixes, hidden=hidden, left_out=left_out, divide_at=divide_at
        ):
            names += page
        names.sort()
        return names

    def list_pages(
        self,
        prefix: str,
        suffixes: tuple[str, ...] = (),
        *,
        hidden: bool = False,
        left_out: LeftOut | None = None,
        divide_at: Sequence[str] = (),
    ) -> Iterator[list[str]]:
        """As `list_files`, a page of the store's answer at a time, in no order."""
        left_out = LeftOut() if left_out is None else left_out
        found = self._pages(prefix, suffixes, hidden, left_out, divide_at)
        return (list(page) for page in found)

    def list_sizes(
        self, prefix: str, suffixes: tuple[str, ...] = (), *, left_out: LeftOut | None = None
    ) -> Iterator[Page]:
        """As `list_pages`, with the size of each object in bytes; None where that is not known."""
        fs, path = self._open_fs(prefix)
        left_out = LeftOut() if left_out is None else left_out
        for page in self._pages(prefix, suffixes, False, left_out, ()):
            is_local = isinstance(fs, LocalFileSystem)
            yield listing.local_sizes(path, list(page)) if is_local else page

    def _pages(
        self,
        prefix: str,
        suffixes: tuple[str, ...],
        hidden: bool,
        left_out: LeftOut,
        divide_at: Sequence[str],
    ) -> Iterator[Page]:
        what = f"listing {redact(prefix)}"
        fs, path = self._open_fs(prefix)
        seen, taken, told_at = 0, 0, time.monotonic()
        try:
            retried: Retried = lambda action: self._retried(action, what)  # noqa: E731
            for page in listing.pages(fs, path, retried, hidden, divide_at):
                wanted = left_out.without(list(page), suffixes, hidden, hasattr(fs, "call_s3"))
                seen, taken = seen + len(page), taken + len(wanted)
                yield {name: page[name] for name in wanted}
                if time.monotonic() - told_at >= PROGRESS_S:
                    logger.info("%s: %d files so far, %d to take", what, seen, taken)
                    told_at = time.monotonic()
        except FileNotFoundError:
            return
        except OSError as error:  # of a local folder
            raise StorageError(f"{what}: {error}") from error

    def list_folder(self, prefix: str) -> list[str]:
        """Names of the objects right below a prefix, sorted; hidden ones are left out."""
        fs, path = self._open_fs(prefix)
        what = f"listing {redact(prefix)}"
        try:
            names = listing.folder(fs, path, lambda action: self._retried(action, what))
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
            with replacing(Path(path)) as temporary:
                temporary.write_bytes(data)

        self._writing(publish, uri)

    def publish_new(self, uri: str, data: bytes) -> bool:
        """Write an object, whole, where there is none.

        One writer wins on a local disk and on stores with conditional writes (S3, Google). A store
        that ignores the condition writes over what is there and lets every writer win.

        Returns:
            Whether the object is ours. False where the answer to our own write was lost, too.
        """

        def create() -> bool:
            fs, path = self._open_fs(uri)
            try:
                if isinstance(fs, LocalFileSystem):
                    link_new(Path(path), data)
                else:
                    put_new(fs, path, data)
            except FileExistsError:
                return False
            return True

        return self._writing(create, uri)

    def publish_stream(self, uri: str, chunks: Iterable[bytes | memoryview]) -> None:
        """Write an object from pieces in constant memory; it appears whole or not at all.

        The pieces are consumed once. S3 takes parts of 64 MiB, each of them tried again; what is
        smaller is one PUT.
        """
        fs, path = self._open_fs(uri)
        if isinstance(fs, LocalFileSystem):
            try:
                with replacing(Path(path)) as temporary, temporary.open("wb") as stream:
                    stream.writelines(chunks)
            except OSError as error:
                raise StorageError(f"writing {redact(uri)}: {error}") from error
            return
        pieces = parts(chunks)
        first = next(pieces)
        if len(first) < PART_BYTES:
            self.publish_bytes(uri, first)
        elif hasattr(fs, "call_s3"):
            upload = self.begin_upload(uri)
            assert upload is not None
            data = enumerate(chain([first], pieces), 1)
            self.publish_parts(upload, (self.store_part(upload, n, part) for n, part in data))
        else:
            try:
                upload_stream(fs, path, chain([first], pieces))
            except OSError as error:
                raise StorageError(f"writing {redact(uri)}: {redact(str(error))}") from error

    def begin_upload(self, uri: str) -> Upload | None:
        """Begin to write an object in parts, from many processes; see `uploads`.

        Returns:
            What each of them needs, picklable. None where the store has nothing of the kind:
            `publish_stream` then.
        """

        def begin() -> Upload | None:
            fs, path = self._open_fs(uri)
            if isinstance(fs, LocalFileSystem):
                return Upload(uri, begin_local(Path(path)))
            return Upload(uri, begin_s3(fs, path)) if hasattr(fs, "call_s3") else None

        return self._writing(begin, uri)

    def store_part(self, upload: Upload, number: int, data: bytes | bytearray) -> StoredPart:
        """Store a part of an object; the same number again takes the place of the one before.

        Raises:
            StorageError: the upload was discarded, or the store failed after all retries.
        """

        def store() -> StoredPart:
            fs, path = self._open_fs(upload.uri)
            if isinstance(fs, LocalFileSystem):
                return store_local(upload.token, number, data)
            return store_s3(fs, path, upload.token, number, data)

        return self._writing(store, upload.uri)

    def publish_parts(self, upload: Upload, parts: Iterable[StoredPart]) -> None:
        """Make an object of stored parts, given by rising number; it appears whole or not at all.

        Where anything fails, also the iterable, what was stored is discarded.
        """
        fs, path = self._open_fs(upload.uri)
        if isinstance(fs, LocalFileSystem):
            try:
                complete_local(Path(path), upload.token, parts)
            except OSError as error:
                raise StorageError(f"writing {redact(upload.uri)}: {error}") from error
            return
        retried: Retried = lambda action: self._writing(action, upload.uri)  # noqa: E731
        complete_s3(fs, path, upload.token, parts, retried)

    def discard_upload(self, upload: Upload) -> None:
        """Discard what was stored of an object; one that is complete stays."""
        fs, path = self._open_fs(upload.uri)
        if isinstance(fs, LocalFileSystem):
            discard_local(upload.token)
        else:
            discard_s3(fs, path, upload.token)

    def stores_parts(self, prefix: str) -> bool:
        """Whether files below a prefix can be written in parts, see `begin_upload`."""
        fs, _ = self._open_fs(prefix)
        return isinstance(fs, LocalFileSystem) or hasattr(fs, "call_s3")

    def least_part(self, uri: str) -> int:
        """How many bytes a stored part must have there, unless it is the last of its object."""
        fs, _ = self._open_fs(uri)
        return LEAST_BYTES if hasattr(fs, "call_s3") else 0

    def largest_file(self, uri: str) -> int | None:
        """How many bytes an object may have there; None where no limit is known."""
        return LARGEST.get(uri.split("://", 1)[0]) if is_uri(uri) else None

    def publish_file(self, uri: str, local: Path) -> None:
        """Copy a local file to `uri`; it appears whole or not at all."""
        with local.open("rb") as source:
            self.publish_stream(uri, iter(lambda: source.read(COPY_BYTES), b""))

    def discard_unfinished(self, prefix: str, names: re.Pattern[str]) -> None:
        """Remove what killed writers left behind: local temporaries, S3 uploads never completed.

        For one writer at a time: a file that is being published would be lost. Where the store
        does not let us look (a role without ``s3:ListBucketMultipartUploads``), they stay.

        Args:
            prefix: the folder of the files.
            names: pattern that the whole name of a file right below the folder must match.
        """

        def discard() -> None:
            fs, path = self._open_fs(prefix)
            if isinstance(fs, LocalFileSystem):
                discard_temporaries(Path(path), names)
            elif hasattr(fs, "call_s3"):
                abort_uploads(fs, path, names)

        try:
            self._retried(discard, f"cleaning {redact(prefix)}")
        except StorageError as error:
            logger.warning("unfinished files of killed writers may stay: %s", error)

    def download(self, uri: str, local: Path) -> None:
        """Copy an object to a local file, replaced in one step, its length checked."""
        with replacing(local) as temporary:
            if uri.startswith(("http://", "https://")):  # servers need not know ranges
                fs, path = self._open_fs(uri)
                what = f"downloading {redact(uri)}"
                self._retried(lambda: fs.get_file(path, str(temporary)), what)
                return
            with self.open_read(uri) as source, temporary.open("wb") as target:
                shutil.copyfileobj(source, target, COPY_BYTES)

    def delete(self, uri: str) -> None:
        """Delete an object; that there is none is no error."""

        def delete() -> None:
            fs, path = self._open_fs(uri)
            with contextlib.suppress(FileNotFoundError):
                fs.rm_file(path)

        self._retried(delete, f"deleting {redact(uri)}")

    def _retried(self, action: Callable[[], T], what: str) -> T:
        retries = Retries.from_options(self.options.get("retries", {}))
        return replace(retries, patience_s=self.patience_s).run(action, what)

    def _writing(self, action: Callable[[], T], uri: str) -> T:
        try:
            return self._retried(action, f"writing {redact(uri)}")
        except FileNotFoundError as error:
            reason = f"no such folder or bucket ({redact(str(error))})"
            raise StorageError(f"writing {redact(uri)}: {reason}") from None

    def _open_fs(self, uri: str) -> tuple[Any, str]:
        """The file system of a URI, one per process and options, and the path in it."""
        protocol = uri.split("://", 1)[0] if is_uri(uri) else "file"
        if protocol in _BUCKETS and "@" in uri.split("/")[2]:
            raise InputError(
                f"{redact(uri)}: credentials do not belong into a URI; leave them to the "
                "environment (for S3: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY or AWS_PROFILE)"
            )
        kind = _file_system(protocol)
        try:
            # not url_to_fs, which would take a key with "::" in it for a chain of file systems
            fs = kind(**{**kind._get_kwargs_from_urls(uri), **self._fs_options(protocol)})
            path: str = kind._strip_protocol(unescaped(uri))
        except (TypeError, ValueError) as error:
            raise InputError(f"{redact(uri)}: {redact(str(error))}") from None
        if protocol in ("s3", "s3a"):
            fs.retries = 1  # botocore and we retry, with jitter; a third layer would multiply
        return fs, path

    def _fs_options(self, protocol: str) -> dict[str, Any]:
        options = dict(self.options.get(protocol, {}))
        if protocol in _EXTRAS or protocol in _BUCKETS:
            options.setdefault("use_listings_cache", False)  # stale listings broke resumes
        if protocol in ("s3", "s3a"):
            # more than one, and every read would begin with a HEAD request
            options.setdefault("max_concurrency", 1)
            chosen = options.get("config_kwargs") or {}
            options["config_kwargs"] = {"max_pool_connections": S3_CONNECTIONS, **chosen}
        if protocol in ("http", "https"):
            chosen = options.get("client_kwargs", {})
            options["client_kwargs"] = {**web.client_options(), **chosen}
        return options


def _version(info: Mapping[str, Any]) -> tuple[Any, ...]:
    """What changes when an object does, in the words of each store."""
    names = ("ETag", "etag", "generation", "LastModified", "last_modified", "created", "size")
    return tuple(str(info.get(name)) for name in names)


def check_protocol(protocol: str) -> None:
    """Whether images may be read by a protocol; asks no server.

    Raises:
        InputError: it is none of `PROTOCOLS`.
        MissingPackageError: the package that it needs is not installed.
    """
    if protocol not in PROTOCOLS:
        raise InputError(
            f"{protocol}:// is none of {', '.join(f'{p}://' for p in PROTOCOLS)}; copy the images "
            "to one of these, or take the row out"
        )
    check_package(protocol)


def check_package(protocol: str) -> None:
    """Whether the package that a protocol needs is installed.

    Raises:
        MissingPackageError: it is not; the message says what to install.
    """
    _file_system(protocol)


def _file_system(protocol: str) -> Any:
    try:
        return fsspec.get_filesystem_class(protocol)
    except ImportError as error:
        extra = _EXTRAS.get(protocol)
        hint = f'; pip install "ntt-ray[{extra}]"' if extra else ""
        raise MissingPackageError(f"{protocol}:// needs another package: {error}{hint}") from None
    except ValueError as error:
        raise InputError(f"{protocol}://: {error}") from None
