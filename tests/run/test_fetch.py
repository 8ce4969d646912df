"""What is waited for, and what is given up; how reads run side by side: test_chain.py."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from ntt_ray.errors import GivenBackError, ImageError, StorageError
from ntt_ray.images import looks_cut
from ntt_ray.records import FetchedImage, ImageEntry
from ntt_ray.run import fetch
from ntt_ray.run.fetch import MOST, fetch_images, weather
from ntt_ray.run.fetched import fetched_image
from tests.support.golden import GOLDEN

DENIED = StorageError("reading s3://bucket/7.png: PermissionError: Access Denied")
BUSY = StorageError("reading s3://bucket/7.png: SlowDown (after 5 attempts)")
BUSY.passing = True
PNG = min((GOLDEN / "targets").glob("*.png"), key=lambda path: path.stat().st_size).read_bytes()


@pytest.fixture(autouse=True)
def waits(monkeypatch) -> list[float]:
    """Waits take no time here, but the clock goes on."""
    slept: list[float] = []

    class Clock:
        now = 0.0

        def sleep(self, seconds):
            slept.append(seconds)
            self.now += seconds

        def monotonic(self):
            return self.now

        perf_counter = monotonic

    monkeypatch.setattr(fetch, "time", Clock())
    return slept


def _entries(count: int) -> list[ImageEntry]:
    return [ImageEntry(i, f"{i}.png", f"/{i}.png") for i in range(1, count + 1)]


class _Store:
    """Fails over some files, so many times each."""

    def __init__(self, error: Exception, names: set[str], times: int) -> None:
        self.error, self.left = error, dict.fromkeys(names, times)
        self.reads = 0

    def read(self, uri: str) -> bytes:
        self.reads += 1
        if self.left.get(uri, 0):
            self.left[uri] -= 1
            raise self.error
        return PNG


def test_what_passes_is_waited_for(waits):
    store = _Store(BUSY, {"/3.png", "/4.png"}, times=3)
    images = fetch_images(_entries(6), store.read, 60, patience_s=600)
    assert [image.error for image in images] == [None] * 6
    assert waits == [1, 2, 4]
    assert store.reads == 6 + 3 * 2


def test_patience_ends(waits):
    store = _Store(BUSY, {"/3.png"}, times=1000)
    images = fetch_images(_entries(6), store.read, 60, patience_s=100)
    assert [image.error is None for image in images] == [True, True, False, True, True, True]
    assert "SlowDown" in images[2].error
    assert sum(waits) == 100
    assert max(waits) == 30


def test_a_refusal_of_few_is_not_waited_for(waits):
    store = _Store(DENIED, {"/3.png"}, times=1000)
    images = fetch_images(_entries(6), store.read, 60, patience_s=600)
    assert "Access Denied" in images[2].error
    assert waits == []


def test_a_refusal_of_most_is_the_weather(waits):
    """A token that expires: a few are asked again each time, all of them once one is answered."""
    names = {f"/{i}.png" for i in range(5, 25)}
    store = _Store(DENIED, names, times=3)
    images = fetch_images(_entries(24), store.read, 60, patience_s=600)
    assert all(image.error is None for image in images)
    assert len(waits) >= 3
    assert store.reads < 24 + 3 * 20 + 20


def test_the_weather_by_numbers():
    def images(failed: int, count: int) -> list[FetchedImage]:
        bad = [FetchedImage(entry, None, "403 for s3://b/x") for entry in _entries(failed)]
        return bad + [FetchedImage(entry, b"", None) for entry in _entries(count - failed)]

    assert weather(images(0, 100)) is None
    assert weather(images(MOST - 1, MOST - 1)) is None  # few: they may be the images themselves
    assert weather(images(50, 100)) is None
    assert weather(images(51, 100)) == "51 of 100 images could not be read: N for …"
    assert weather(images(MOST, MOST)) is not None


def test_a_body_cut_short_is_read_again():
    """Without a Content-Length nobody else can tell."""
    answers = [PNG[: len(PNG) // 2], PNG]
    (image,) = fetch_images(_entries(1), lambda _: answers.pop(0), 60)
    assert image.data == PNG
    assert answers == []


def test_a_file_that_is_cut_in_the_store_is_taken_as_it_is():
    (image,) = fetch_images(_entries(1), lambda _: PNG[:-20], 60)
    assert image.data == PNG[:-20]


JPEG = b"\xff\xd8" + b"x" * 200 + b"\xff\xd9"
FILES = {
    "jpeg": (JPEG, False),
    "jpeg, cut": (JPEG[:-1], True),
    "jpeg with a trailer": (JPEG + b"\0" * 30, False),
    "png": (PNG, False),
    "png, cut": (PNG[:-9], True),
    "webp": (b"RIFF" + (12).to_bytes(4, "little") + b"WEBPVP8 1234", False),
    "webp, cut": (b"RIFF" + (12).to_bytes(4, "little") + b"WEBPVP8 123", True),
    "gif": (b"GIF89a" + b"x" * 100 + b";", False),
    "gif, cut": (b"GIF89a" + b"x" * 100, True),
    "empty": (b"", True),
    "something else": (b"II*\0 a TIFF has no end", False),
}


@pytest.mark.parametrize(("data", "cut"), FILES.values(), ids=FILES.keys())
def test_what_looks_cut(data, cut):
    assert looks_cut(data) == cut


def test_what_has_no_bytes_is_final_and_no_weather(waits):
    """As a null in a column of images: a second attempt changes nothing."""
    names = {f"/{i}.png" for i in range(1, 25)}
    store = _Store(ImageError("column image is null here"), names, times=1000)
    images = fetch_images(_entries(24), store.read, 60, patience_s=600)
    assert {(image.error, image.final) for image in images} == {("column image is null here", True)}
    assert (waits, store.reads, weather(images)) == ([], 24, None)
    row = {**asdict(images[0].entry), "data": None, "error": images[0].error, "final": True}
    assert fetched_image(row) == images[0]


@pytest.mark.parametrize(("most", "read"), [(None, 40), (1, 16), (25 * len(PNG), 41), (10**9, 40)])
def test_no_read_is_begun_after_so_many_bytes(waits, most, read):
    store = _Store(DENIED, set(), times=0)
    images = fetch_images(_entries(40), store.read, 60, 600, most_bytes=most)
    assert [image.entry.image_id for image in images] == list(range(1, 41))
    unread = [image.is_unread for image in images]
    assert sum(unread) == 40 - store.reads
    assert store.reads <= min(read, 40)
    assert unread == sorted(unread)  # those at the end


def test_images_that_fail_do_not_count_as_bytes(waits):
    store = _Store(DENIED, {f"/{i}.png" for i in range(1, 6)}, times=1000)
    images = fetch_images(_entries(40), store.read, 60, 0, most_bytes=1)
    assert [image.error is None for image in images] == [False] * 5 + [True] * 35


def test_what_is_read_later_is_given_back_where_most_cannot_be_read(monkeypatch):
    def read(entries, job, most_bytes):
        assert most_bytes is None
        return [FetchedImage(entry, None, "reading it: SlowDown") for entry in entries]

    monkeypatch.setattr(fetch, "_read", read)
    assert len(fetch.read_later(_entries(MOST - 1), None)) == MOST - 1
    with pytest.raises(GivenBackError, match=f"{MOST} of {MOST} images could not be read: .*Slow"):
        fetch.read_later(_entries(MOST), None)
