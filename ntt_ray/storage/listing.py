"""Names of the objects below a prefix, a page at a time, so that a listing can be followed.

S3 is asked page by page (`s3_listing`), and a local disk folder by folder.
Other stores are asked for everything at once: fsspec offers no pages there. A page that failed is
asked for again; none is left out.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from fsspec.implementations.local import LocalFileSystem

from ntt_ray.storage.s3_listing import s3_pages

T = TypeVar("T")
Retried = Callable[[Callable[[], T]], T]


def pages(fs: Any, path: str, retried: Retried[Any], hidden: bool = False) -> Iterator[list[str]]:
    """Pages of names with ``/`` between parts, relative to a folder or key prefix, in no order.

    Args:
        fs: a file system of fsspec.
        path: the folder or key prefix as `fs` names it, without a protocol.
        retried: runs one request, again where that may help.
        hidden: whether hidden folders are looked into; else some of their names may come too.

    Raises:
        FileNotFoundError: there is no such folder or bucket.
    """
    if isinstance(fs, LocalFileSystem):
        return _local_folders(path, hidden)
    if hasattr(fs, "call_s3"):
        return s3_pages(fs, path, retried)
    return _at_once(fs, path, retried)


def is_hidden(name: str) -> bool:
    """Whether a part of a name starts with a dot."""
    return name.startswith(".") or "/." in name


def _local_folders(path: str, hidden: bool) -> Iterator[list[str]]:
    def refuse(error: OSError) -> None:
        raise error

    if os.path.isfile(path):
        return
    for folder, folders, names in os.walk(path, onerror=refuse, followlinks=True):
        start = os.path.relpath(folder, path)
        inner = [n for n in folders if hidden or not is_hidden(n)]
        folders[:] = [name for name in inner if not _leads_back(path, start, name)]
        yield names if start == "." else [f"{start}/{name}" for name in names]


def _leads_back(root: str, start: str, name: str) -> bool:
    """Whether a folder is a link to one of the folders on the way to it."""
    link = os.path.join(root, start, name)
    if not os.path.islink(link):
        return False
    parts = start.split("/")
    way = [os.path.join(root, *parts[:depth]) for depth in range(len(parts) + 1)]
    return os.path.realpath(link) in {os.path.realpath(folder) for folder in way}


def _at_once(fs: Any, path: str, retried: Retried[Any]) -> Iterator[list[str]]:
    base = path.rstrip("/") + "/"
    # a web server is walked folder by folder, where fsspec would leave out what fails
    options = {"on_error": "raise"} if "http" in fs.protocol else {}
    found = retried(lambda: fs.find(path, **options))
    yield [name.removeprefix(base) for name in found if name.startswith(base)]
