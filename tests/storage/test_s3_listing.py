"""Listing a bucket side by side: every key once, whatever the folders and the store."""

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.listing import SlowBucket
from ntt_ray.errors import StorageError
from ntt_ray.storage import s3_listing

PREFIX = "photos/"


@pytest.fixture(autouse=True)
def divide_early(monkeypatch):
    monkeypatch.setattr(s3_listing, "LONG", 1)
    monkeypatch.setattr(s3_listing, "FOLDERS", 4)


def _listed(bucket: SlowBucket) -> list[str]:
    pages = s3_listing.s3_pages(bucket, f"bucket/{PREFIX}", lambda ask: ask())
    return [name for page in pages for name in page]


NAMES = st.lists(st.sampled_from(["a", "b", "B", "é", "\U0001f600", ".x", "0", "~"]), min_size=1)


@settings(deadline=None)
@given(
    st.sets(NAMES.map("/".join), max_size=60),
    st.integers(1, 5),
    st.booleans(),
    st.sets(st.sampled_from(["a/", "a/b/", "photos.txt", "photo", "photot/a"])),
)
def test_every_key_once(names, page_keys, heeds_start, others):
    inside = {PREFIX + name for name in names}
    markers = {PREFIX + other for other in others if other.endswith("/")}
    beside = {other for other in others if not other.endswith("/")}
    keys = sorted(inside | markers | beside)
    bucket = SlowBucket(keys, page_keys=page_keys, heeds_start=heeds_start)
    assert sorted(_listed(bucket)) == sorted(names)


def test_few_more_requests_than_pages_and_many_at_once():
    keys = sorted(f"{PREFIX}{i % 20:03d}/{i:06d}.jpg" for i in range(10_000))
    bucket = SlowBucket(keys, page_keys=100)
    together = threading.Barrier(s3_listing.AT_ONCE, timeout=20)
    seen = 0

    def retried(ask):
        nonlocal seen
        seen += 1
        if 3 <= seen < 3 + s3_listing.AT_ONCE:  # after the first page and the look at the folders
            together.wait()
        return ask()

    names = [n for page in s3_listing.s3_pages(bucket, "bucket/photos", retried) for n in page]
    assert sorted(names) == [key.removeprefix(PREFIX) for key in keys]
    assert len(bucket.requests) <= 100 + 2 * 20


def test_a_short_listing_is_one_request():
    bucket = SlowBucket([f"{PREFIX}a/{i:03d}" for i in range(100)], page_keys=100)
    assert len(_listed(bucket)) == 100
    assert len(bucket.requests) == 1


def test_keys_in_no_order_are_listed_page_after_page():
    keys = [f"{PREFIX}{i % 7}/{i:03d}" for i in range(50)]

    class Unordered(SlowBucket):  # as S3's directory buckets
        def call_s3(self, method, **request):
            assert "StartAfter" not in request
            self.requests.append(request)
            at = int(request.get("ContinuationToken", 0))
            page = {"Contents": [{"Key": key} for key in self.keys[at : at + 10]]}
            more = at + 10 < len(self.keys)
            return page | {"IsTruncated": more, "NextContinuationToken": str(at + 10)}

    bucket = Unordered(keys)
    assert sorted(_listed(bucket)) == sorted(key.removeprefix(PREFIX) for key in keys)
    assert len(bucket.requests) == 5


def test_a_part_that_cannot_be_listed_ends_the_listing():
    bucket = SlowBucket(sorted(f"{PREFIX}{i % 20:03d}/{i:06d}" for i in range(2000)), page_keys=50)
    asked = 0

    def retried(ask):
        nonlocal asked
        asked += 1
        if asked == 10:
            raise StorageError("listing s3://bucket/photos: 503")
        return ask()

    with pytest.raises(StorageError, match="503"):
        list(s3_listing.s3_pages(bucket, "bucket/photos", retried))
    assert asked <= 10 + 2 * s3_listing.AT_ONCE


@pytest.mark.parametrize("count", [0, 900, 2500])
def test_one_flat_folder_is_divided_at_known_names(count):
    """Also at names that are not there, or lie before or after all keys."""
    keys = [f"{PREFIX}{i:06d}" for i in range(count)]
    bucket = SlowBucket(keys, page_keys=100)
    known = [*(f"{i:06d}" for i in range(0, 4000, 250)), "9"]
    pages = s3_listing.s3_pages(bucket, "bucket/photos", lambda ask: ask(), known)
    assert sorted(n for page in pages for n in page) == [key.removeprefix(PREFIX) for key in keys]
    starts = {request["StartAfter"] for request in bucket.requests if "StartAfter" in request}
    assert len(starts) == (len(known) - 1 if count else 0)
