"""How the bytes of a unit travel, and that their memory goes back."""

import gc
import os
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pytest

from benchmarks.fetch_memory import one_task, write_image
from benchmarks.scaling import apart
from ntt_ray.records import FetchedImage, ImageEntry
from ntt_ray.run.fetched import fetched_image, fetched_table, give_memory_back
from ntt_ray.run.job import FETCHED

UNIT = {"shard_id": 3, "again": False, "given_back": None, "fetch_s": 0.5}
OUTCOMES = [
    (b"abc", None),
    (None, "there is no such file"),
    (b"", None),
    (None, None),
    (b"x", None),
]


def _images():
    entries = [ImageEntry(i, f"{i}.jpg", f"/x/{i}.jpg") for i in range(1, len(OUTCOMES) + 1)]
    found = zip(entries, OUTCOMES, strict=True)
    return [FetchedImage(entry, *outcome, final=entry.image_id == 2) for entry, outcome in found]


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_a_row_holds_what_was_fetched(count):
    images = _images()[:count]
    rows = [{**asdict(i.entry), "data": i.data, "error": i.error, "final": i.final} for i in images]
    moved = list(images)
    table = fetched_table(UNIT, moved)
    table.validate(full=True)
    assert moved == []
    assert table.equals(pa.Table.from_pylist([{**UNIT, "images": rows}], schema=FETCHED))
    assert [fetched_image(row) for row in table["images"].to_pylist()[0]] == images


def _resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="asks Linux")
def test_a_unit_is_there_once_and_its_memory_goes_back():
    entry, size, count = ImageEntry(1, "1.jpg", "/1.jpg"), 1 << 20, 100
    before = _resident()
    images = [FetchedImage(entry, os.urandom(size), None) for _ in range(count)]
    table = fetched_table(UNIT, images)
    give_memory_back()
    assert _resident() - before < 1.2 * size * count
    del table
    gc.collect()
    assert _resident() - before < 0.2 * size * count


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="asks Linux")
def test_a_process_that_fetches_takes_little_more_than_a_unit_and_keeps_none_of_it(tmp_path):
    """In a process of its own: what it says to the allocators holds as long as it lives."""
    image = tmp_path / "6.jpg"
    write_image(image, 6_000_000)
    found = apart(one_task, image, 20)
    unit_mb = found["unit_mb"]
    assert unit_mb == pytest.approx(120, rel=0.02)
    assert max(call["peak_mb"] for call in found["calls"]) < 1.6 * unit_mb
    assert found["calls"][-1]["kept_mb"] < 0.2 * unit_mb
