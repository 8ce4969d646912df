from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ntt_ray.errors import InputError
from ntt_ray.run import box_file as box_file_module
from ntt_ray.run import manifest as manifest_file
from ntt_ray.run.box_file import BoxesOf, box_file, check_file, is_there, read_boxes
from ntt_ray.run.local_manifest import ManifestFile
from ntt_ray.run.manifest_writer import write_manifest
from ntt_ray.settings import BoxSettings
from ntt_ray.sources.boxes import BoxCounts, PlacedBoxes
from ntt_ray.sources.schema import SCHEMA, Piece
from ntt_ray.storage import Storage

COUNTS = [2, 0, 1, 3, 0, 0, 4, 1, 0, 2, 5]  # boxes of each image
STORE = Storage()


def _manifest(units: str) -> ManifestFile:
    count = len(COUNTS)
    images = pa.table(
        [
            range(1, 2 * count, 2),
            [f"{n}.jpg" for n in range(count)],
            [f"/x/{n}" for n in range(count)],
        ],
        schema=SCHEMA,
    )
    sizes = pa.chunked_array([[9, 1, 1, 9, 9, 1, 1, 1, 9, 1, 1]], pa.int64())
    return write_manifest(iter([Piece(images, sizes)]), 3, 10 if units == "by bytes" else None)


def _placed() -> PlacedBoxes:
    rows = np.repeat(np.arange(len(COUNTS)), COUNTS)
    boxes = np.arange(4 * len(rows), dtype=np.float32).reshape(-1, 4)
    scores = np.linspace(1, 0, len(rows), dtype=np.float32)
    nothing = BoxCounts(0, 0, 0, 0, 0, 0, 0)
    return PlacedBoxes(rows, boxes, scores, True, nothing)


def _job(output: Any, manifest: ManifestFile, source: str = "abc", per_image: int = 9) -> Any:
    boxes = SimpleNamespace(source_sha256=source, settings=BoxSettings(per_image=per_image))
    return SimpleNamespace(
        output=str(output), store=STORE, manifest_digest=manifest.sha256, boxes=boxes
    )


def _write(output: Any, manifest: ManifestFile) -> BoxesOf:
    made_of = BoxesOf("abc", 9, manifest.sha256)
    file = box_file(_placed(), manifest, made_of)
    (output / "boxes.parquet").write_bytes(b"".join(file.chunks()))
    return made_of


@pytest.fixture(autouse=True)
def _nothing_kept():
    """A process reads a footer once; each test has another file of the same name."""
    box_file_module._units.clear()


@pytest.mark.parametrize("rows_per_group", [1, 4, 1024])
@pytest.mark.parametrize("units", ["by number", "by bytes"])
def test_each_unit_reads_the_boxes_of_its_images(tmp_path, monkeypatch, units, rows_per_group):
    monkeypatch.setattr(box_file_module, "ROWS_PER_GROUP", rows_per_group)
    manifest, placed = _manifest(units), _placed()
    made_of = _write(tmp_path, manifest)
    sizes = manifest_file.unit_sizes(manifest)
    assert sizes != [3, 3, 3, 2] or units == "by number"
    row = 0
    for unit, size in enumerate(sizes):
        found = read_boxes(unit, _job(tmp_path, manifest))
        assert list(found) == [2 * n + 1 for n in range(row, row + size)]
        for own in found.values():
            here = placed.rows == row
            np.testing.assert_array_equal(own.boxes_xyxy, placed.boxes_xyxy[here])
            np.testing.assert_array_equal(own.scores, placed.scores[here])
            row += 1
    assert row == len(COUNTS)
    assert is_there(str(tmp_path), made_of, STORE)
    groups = pq.read_metadata(tmp_path / "boxes.parquet").num_row_groups
    assert groups == (
        len(sizes) if rows_per_group == 1 else 1 if rows_per_group == 1024 else groups
    )


@pytest.mark.parametrize("rows_per_group", [1, 4, 1024])
@pytest.mark.parametrize("units", ["by number", "by bytes"])
def test_a_whole_file_has_no_problem(tmp_path, monkeypatch, units, rows_per_group):
    monkeypatch.setattr(box_file_module, "ROWS_PER_GROUP", rows_per_group)
    manifest = _manifest(units)
    made_of = _write(tmp_path, manifest)
    sizes = manifest_file.unit_sizes(manifest)
    ends = np.cumsum([0, *sizes])

    def image_ids(unit):
        return range(2 * int(ends[unit]) + 1, 2 * int(ends[unit + 1]), 2)

    def check(of=made_of, count=None, ids=image_ids):
        check_file(str(tmp_path), of, STORE, count or len(sizes), ids)

    def moved(unit):
        return image_ids(unit)[::-1] if unit == 2 else image_ids(unit)

    check()
    check(ids=lambda _: None)
    with pytest.raises(InputError, match="it belongs to another run"):
        check(of=made_of._replace(source="abd"))
    with pytest.raises(InputError, match=f"it has {len(sizes)} units, the run 9"):
        check(count=9)
    with pytest.raises(InputError, match="its images of unit 2 are not those of the manifest"):
        check(ids=moved)
    path = tmp_path / "boxes.parquet"
    data = bytearray(path.read_bytes())
    for place in range(4, 40):
        data[place] ^= 255
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"boxes\.parquet is damaged"):
        check()
    path.unlink()
    with pytest.raises(InputError, match=r"boxes\.parquet is missing"):
        check()


def test_the_same_boxes_give_the_same_bytes(tmp_path):
    manifest = _manifest("by number")
    made_of = BoxesOf("abc", 9, manifest.sha256)
    first, second = (box_file(_placed(), manifest, made_of) for _ in range(2))
    assert first.sha256 == second.sha256


OTHERS = {
    "other boxes": {"source": "abd"},
    "more of an image": {"per_image": 10},
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS.keys())
def test_the_file_of_another_run_is_refused(tmp_path, other):
    manifest = _manifest("by number")
    made_of = _write(tmp_path, manifest)
    with pytest.raises(InputError, match=r"boxes.parquet is damaged \(it belongs to another run"):
        read_boxes(0, _job(tmp_path, manifest, **other))
    changed = made_of._replace(**other)
    assert not is_there(str(tmp_path), changed, STORE)
    assert not is_there(str(tmp_path), made_of._replace(manifest="other"), STORE)


def test_a_file_that_is_missing_or_damaged_is_named(tmp_path):
    manifest = _manifest("by number")
    with pytest.raises(InputError, match=r"boxes\.parquet is missing"):
        read_boxes(0, _job(tmp_path, manifest))
    made_of = _write(tmp_path, manifest)
    path = tmp_path / "boxes.parquet"
    path.write_bytes(path.read_bytes()[:-9])
    assert not is_there(str(tmp_path), made_of, STORE)
    with pytest.raises(InputError, match=r"boxes\.parquet is damaged"):
        read_boxes(0, _job(tmp_path, manifest))
