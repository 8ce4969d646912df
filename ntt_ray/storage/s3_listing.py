"""Keys below a prefix of an S3 bucket, many pages at once.

S3 gives 1000 keys a page, each page after the one before: that is minutes for a million keys, and
hours for a hundred million. A listing that turns out to be long is divided at the folders in it,
and the parts are listed side by side. One flat folder can only be divided at names that are known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from ntt_ray.storage.deadlines import METADATA_S, within

AT_ONCE = 16  # requests that are under way at once
PARTS = 256  # at most; they differ in size, and each takes a request at least
FOLDERS = 64  # so many are enough to divide at
LONG = 10  # pages; a listing that is shorter is not divided
_LEVELS = 4  # of folders that are looked into for more folders
_LOOK_PAGES = 16  # asked for at most when one folder is looked into
Retried = Callable[[Callable[[], Any]], Any]
Ask = Callable[..., Any]
_Keys = dict[str, int | None]  # with their sizes in bytes


@dataclass(frozen=True)
class _Part:
    """The keys after `start` up to `end`, in the order of their UTF-8 bytes; None: all of them."""

    start: str | None = None
    end: str | None = None
    token: str | None = None  # where the next page begins

    def holds(self, key: str) -> bool:
        """Whether a key lies in it; not every store heeds `StartAfter`."""
        return (self.start is None or self.start < key) and not self.is_before(key)

    def is_before(self, key: str) -> bool:
        return self.end is not None and self.end < key


def s3_pages(
    fs: Any, path: str, retried: Retried, divide_at: Sequence[str] = ()
) -> Iterator[dict[str, int | None]]:
    """Pages of names below ``bucket/prefix``, relative to it, with the bytes of each object.

    Many threads call `retried`. A key with a slash at its end stands for a folder, and is left out.
    `divide_at` are sorted names at which a long listing is divided; without them it is divided at
    its folders.
    """
    ask, prefix = _asking(fs, path, retried)
    for keys in _keys(ask, prefix, [prefix + name for name in divide_at]):
        sized = ((key, size) for key, size in keys.items() if not key.endswith("/"))
        yield {key.removeprefix(prefix): size for key, size in sized}


def s3_folder(fs: Any, path: str, retried: Retried) -> list[str]:
    """Names right below ``bucket/prefix``, page after page."""
    ask, prefix = _asking(fs, path, retried)
    request, names = {"Delimiter": "/"}, list[str]()
    while True:
        page = ask(**request)
        names += [item["Key"].removeprefix(prefix) for item in page.get("Contents", ())]
        if not page.get("IsTruncated"):
            return [name for name in names if name]
        request["ContinuationToken"] = page["NextContinuationToken"]


def _asking(fs: Any, path: str, retried: Retried) -> tuple[Ask, str]:
    """What asks for a page of ``bucket/prefix``, and the prefix of its keys."""
    bucket, _, key = path.partition("/")
    prefix = key.rstrip("/") + "/" if key else ""

    def ask(**request: Any) -> Any:
        whole = {"Bucket": bucket, "Prefix": prefix, **request}
        return retried(lambda: within(METADATA_S, fs, "call_s3", "list_objects_v2", **whole))

    return ask, prefix


def _keys(ask: Ask, prefix: str, known: Sequence[str] = ()) -> Iterator[_Keys]:
    left = _Part()
    last, in_order = "", True
    for _ in range(LONG):
        keys, rest = _page(ask, left)
        yield keys
        if rest is None:
            return
        left = rest
        in_order &= [last, *keys] == sorted([last, *keys])  # S3's directory buckets keep none
        last = next(reversed(keys), last)
    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        bounds = [name for name in known if name > last]
        if not in_order or not known:
            bounds = _folders(ask, prefix, last, pool) if in_order else []
        waiting = {pool.submit(_page, ask, part) for part in _divided(left, bounds)}
        while waiting:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                keys, more = future.result()
                yield keys
                if more is not None:
                    waiting.add(pool.submit(_page, ask, more))
    finally:
        pool.shutdown(cancel_futures=True)


def _page(ask: Ask, part: _Part) -> tuple[_Keys, _Part | None]:
    """The next keys of a part with their sizes, and what is left of it."""
    where = {"StartAfter": part.start} if part.start else {}
    page = ask(**({"ContinuationToken": part.token} if part.token else where))
    keys = {item["Key"]: item.get("Size") for item in page.get("Contents", ())}
    is_done = not page.get("IsTruncated") or (keys and part.is_before(next(reversed(keys))))
    rest = None if is_done else replace(part, token=page["NextContinuationToken"])
    return {key: size for key, size in keys.items() if part.holds(key)}, rest


def _divided(part: _Part, bounds: list[str]) -> list[_Part]:
    kept = bounds[:: max(1, math.ceil(len(bounds) / (PARTS - 1)))]
    parts = [_Part(start, end) for start, end in pairwise([*kept, None])]
    return [replace(part, end=kept[0] if kept else None), *parts]


def _folders(ask: Ask, prefix: str, last: str, pool: ThreadPoolExecutor) -> list[str]:
    """Some of the folders after a key, in order."""

    def inside(folder: str) -> list[str]:
        request = {"Prefix": folder, "Delimiter": "/", "StartAfter": last}
        found: list[str] = []
        for _ in range(_LOOK_PAGES):
            page = ask(**request)
            here = [item["Prefix"] for item in page.get("CommonPrefixes", ())]
            found += here
            if not here or not page.get("IsTruncated"):
                break
            request["ContinuationToken"] = page["NextContinuationToken"]
        return found

    level, found = [prefix], []
    for _ in range(_LEVELS):
        level = [name for names in pool.map(inside, level) for name in names]
        found += [name for name in level if name > last]
        if len(found) >= FOLDERS:
            break
    return sorted(found)
