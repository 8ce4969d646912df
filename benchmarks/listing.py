"""How long the names below a prefix of S3 take: one page after the other, and side by side.

    python -m benchmarks.listing --keys 1000000 --folders 365 --page-s 0.1
    python -m benchmarks.listing --keys 400000 --shards

`--shards`: one flat folder with the shards of a run, divided at names that are known.
The bucket is a stand-in whose pages take as long as is asked for; requests to it cost nothing else.
"""

from __future__ import annotations

import argparse
import bisect
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

from ntt_ray.run.layout import shard_name
from ntt_ray.run.shard import NAMES_BETWEEN
from ntt_ray.storage import s3_listing


@dataclass
class SlowBucket:
    """Answers S3's ListObjectsV2 as s3fs does, after a while.

    Attributes:
        keys: sorted.
        page_s: seconds a request takes.
        page_keys: keys and folders of a page.
        heeds_start: whether it knows ``StartAfter``; not every store does.
        requests: those that were made.
    """

    keys: Sequence[str]
    page_s: float = 0.0
    page_keys: int = 1000
    heeds_start: bool = True
    requests: list[dict[str, Any]] = field(default_factory=list)

    def call_s3(self, method: str, **request: Any) -> dict[str, Any]:
        """A page of keys and of folders."""
        assert method == "list_objects_v2"
        self.requests.append(request)
        time.sleep(self.page_s)
        prefix, delimiter = request["Prefix"], request.get("Delimiter")
        after = request.get("StartAfter", "") if self.heeds_start else ""
        at = bisect.bisect_right(self.keys, max(after, request.get("ContinuationToken", "")))
        at = max(at, bisect.bisect_left(self.keys, prefix))
        found: list[str] = []
        folders: list[str] = []
        last = ""
        while at < len(self.keys) and self.keys[at].startswith(prefix):
            if len(found) + len(folders) == self.page_keys:
                return _answer(found, folders, last)
            last = self.keys[at]
            name, slash, _ = last.removeprefix(prefix).partition(delimiter or "\0")
            if not slash:
                found.append(last)
                at += 1
                continue
            folders.append(prefix + name + slash)
            last = folders[-1] + chr(0x10FFFF)
            at = bisect.bisect_right(self.keys, last)
        return _answer(found, folders, None)


def _answer(keys: list[str], folders: list[str], token: str | None) -> dict[str, Any]:
    page: dict[str, Any] = {"IsTruncated": token is not None}
    if keys:
        page["Contents"] = [{"Key": key} for key in keys]
    if folders:
        page["CommonPrefixes"] = [{"Prefix": folder} for folder in folders]
    return page | ({"NextContinuationToken": token} if token is not None else {})


def timed(bucket: SlowBucket, list_names: Callable[[SlowBucket], int]) -> tuple[float, int]:
    """Seconds and requests of a listing; checks that it is whole."""
    begun = time.monotonic()
    count = list_names(bucket)
    assert count == len(bucket.keys), (count, len(bucket.keys))
    return time.monotonic() - begun, len(bucket.requests)


def _count(bucket: SlowBucket, divide_at: Sequence[str] = ()) -> int:
    pages = s3_listing.s3_pages(bucket, "bucket/p", lambda ask: ask(), divide_at)
    return sum(len(page) for page in pages)


def _count_shards(bucket: SlowBucket) -> int:
    return _count(bucket, NAMES_BETWEEN)


def _count_in_order(bucket: SlowBucket) -> int:
    with patch.object(s3_listing, "LONG", len(bucket.keys)):
        return _count(bucket)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keys", type=int, default=200_000)
    parser.add_argument("--folders", type=int, default=365)
    parser.add_argument("--page-s", type=float, default=0.1)
    parser.add_argument("--shards", action="store_true")
    arguments = parser.parse_args()
    folders = 1 if arguments.shards else arguments.folders
    keys = sorted(f"p/{i % folders:05d}/IMG_{i:09d}.jpg" for i in range(arguments.keys))
    side_by_side = _count
    if arguments.shards:
        keys, side_by_side = [f"p/{shard_name(i)}" for i in range(arguments.keys)], _count_shards
    print(f"{len(keys):,} keys in {folders} folders, {1000 * arguments.page_s:.0f} ms a page")
    for what, action in (("side by side", side_by_side), ("one by one", _count_in_order)):
        seconds, requests = timed(SlowBucket(keys, arguments.page_s), action)
        print(f"{what}: {seconds:.1f} s, {requests} requests")


if __name__ == "__main__":
    main()
