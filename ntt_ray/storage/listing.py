"""Names of the objects below a prefix, a page at a time, so that a listing can be followed.

S3 is asked page by page (`s3_listing`), and a local disk folder by folder.
Other stores are asked for everything at once: fsspec offers no pages there. A page that failed is
asked for again; none is left out.
"""

from __future__ import annotations

import os
import posixpath
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from fsspec.implementations.local import LocalFileSystem

from ntt_ray.storage.deadlines import LONGEST_S, within
from ntt_ray.storage.s3_listing import s3_folder, s3_pages

T = TypeVar("T")
Retried = Callable[[Callable[[], T]], T]
Page = dict[str, int | None]  # names, and bytes of each where the store says them unasked

_HIDDEN = "a part of the name starts with a dot"
_VERSION = "?versionId= in a name would be taken for a version of another object"
_SUFFIX = "the name has another ending"
_ENDINGS = 20  # told apart; what comes after these counts as _SUFFIX


@dataclass(frozen=True)
class LeftOut:
    """What a listing left out, counted by reason.

    Attributes:
        counts: how many files, by the reason why they were left out; a hidden folder of a local
            disk, which is not looked into, counts as one.
        examples: the first name of each reason.
    """

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def without(
        self, names: list[str], suffixes: tuple[str, ...], hidden: bool, is_s3: bool
    ) -> list[str]:
        """The names to keep, see `Storage.list_files`; the others are counted."""
        kept = []
        for name in names:
            reason = _why_not(name, suffixes, hidden, is_s3)
            if reason is None:
                kept.append(name)
                continue
            if reason not in self.counts and len(self.counts) >= _ENDINGS:
                reason = _SUFFIX
            self.counts[reason] += 1
            self.examples.setdefault(reason, name)
        return kept


def _why_not(name: str, suffixes: tuple[str, ...], hidden: bool, is_s3: bool) -> str | None:
    if is_s3 and "?versionId=" in name:
        return _VERSION
    if not hidden and is_hidden(name):
        return _HIDDEN
    if suffixes and not name.lower().endswith(suffixes):
        ending = posixpath.splitext(name)[1].lower()
        return f"the name ends in {ending!r}" if ending else "the name has no ending"
    return None


def pages(
    fs: Any,
    path: str,
    retried: Retried[Any],
    hidden: bool = False,
    divide_at: Sequence[str] = (),
) -> Iterator[Page]:
    """Names relative to a folder or key prefix, in no order, with the sizes that stores tell.

    Args:
        fs: a file system of fsspec.
        path: the folder or key prefix as `fs` names it, without a protocol.
        retried: runs one request, again where that may help.
        hidden: whether hidden folders are looked into; else those of a local disk stand for their
            files, with a slash at the end.
        divide_at: sorted names at which a long listing of one folder may be divided.

    Raises:
        FileNotFoundError: there is no such folder or bucket.
    """
    if isinstance(fs, LocalFileSystem):
        return _local_folders(path, hidden)
    if hasattr(fs, "call_s3"):
        return s3_pages(fs, path, retried, divide_at)
    return _at_once(fs, path, retried)


def local_sizes(path: str, names: Sequence[str]) -> Page:
    """Bytes of files below a local folder; None of those that are gone by now."""
    return {name: _local_size(f"{path}/{name}") for name in names}


def _local_size(path: str) -> int | None:
    try:
        return os.stat(path).st_size
    except OSError:
        return None


def folder(fs: Any, path: str, retried: Retried[Any]) -> list[str]:
    """Names of the files right below a folder or key prefix, in no order.

    Raises:
        FileNotFoundError: there is no such folder or bucket.
    """
    if hasattr(fs, "call_s3"):
        return s3_folder(fs, path, retried)
    found = retried(lambda: within(LONGEST_S, fs, "ls", path, detail=True))
    return [posixpath.basename(item["name"]) for item in found if item["type"] == "file"]


def is_hidden(name: str) -> bool:
    """Whether a part of a name starts with a dot."""
    return name.startswith(".") or "/." in name


def _local_folders(path: str, hidden: bool) -> Iterator[Page]:
    def refuse(error: OSError) -> None:
        raise error

    if os.path.isfile(path):
        return
    for here, folders, names in os.walk(path, onerror=refuse, followlinks=True):
        start = os.path.relpath(here, path)
        inner = [name for name in folders if hidden or not is_hidden(name)]
        names += [f"{name}/" for name in folders if not hidden and is_hidden(name)]
        folders[:] = [name for name in inner if not _leads_back(path, start, name)]
        yield dict.fromkeys(names if start == "." else [f"{start}/{name}" for name in names])


def _leads_back(root: str, start: str, name: str) -> bool:
    """Whether a folder is a link to one of the folders on the way to it."""
    link = os.path.join(root, start, name)
    if not os.path.islink(link):
        return False
    parts = start.split("/")
    way = [os.path.join(root, *parts[:depth]) for depth in range(len(parts) + 1)]
    return os.path.realpath(link) in {os.path.realpath(folder) for folder in way}


def _at_once(fs: Any, path: str, retried: Retried[Any]) -> Iterator[Page]:
    base = path.rstrip("/") + "/"
    # a web server is walked folder by folder, where fsspec would leave out what fails; asked for
    # sizes, it would be asked for each file
    if "http" in fs.protocol:
        found = dict.fromkeys(
            retried(lambda: within(LONGEST_S, fs, "find", path, on_error="raise"))
        )
    else:
        infos = retried(lambda: within(LONGEST_S, fs, "find", path, detail=True))
        found = {name: info.get("size") for name, info in infos.items()}
    yield {name.removeprefix(base): found[name] for name in found if name.startswith(base)}
