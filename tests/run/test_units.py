"""Where units end, by images or by bytes, and how a manifest says it."""

import io
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ntt_ray.errors import InputError, StorageError
from ntt_ray.records import ImageEntry
from ntt_ray.run import local_manifest, manifest, manifest_writer, units
from ntt_ray.run.layout import MANIFEST_FILE
from ntt_ray.run.units import Units, metadata_of, unit_ends
from ntt_ray.sources.schema import Piece
from ntt_ray.storage import Storage
from tests.support.run_files import manifest_table

STORE = Storage()
# bytes of images, images and bytes of a unit at most -> ends
ENDS = {
    "no images": ([], 3, 10, []),
    "by images": ([1] * 7, 3, 10, [3, 6, 7]),
    "by bytes": ([4, 4, 4, 4, 4], 9, 10, [2, 4, 5]),
    "exactly full": ([5, 5, 5, 5], 9, 10, [2, 4]),
    "whichever is first": ([1, 1, 1, 9, 1, 1], 3, 10, [3, 5, 6]),
    "an image that is larger alone": ([50, 1, 50, 50], 9, 10, [1, 2, 3, 4]),
    "sizes that are not known count as none": ([0, 0, 0, 8, 0, 8], 9, 10, [5, 6]),
    "a size that no file has": ([2**62, 2**62, 1], 9, 10, [1, 2, 3]),
}


@pytest.mark.parametrize(("sizes", "per_unit", "most", "ends"), ENDS.values(), ids=ENDS)
def test_where_units_end(sizes, per_unit, most, ends):
    assert unit_ends(np.array(sizes, np.int64), per_unit, most) == ends


def _pieces(sizes, rows):
    """A list of images with these sizes, so many rows in a piece."""
    entries = [ImageEntry(i + 1, f"{i}.jpg", f"/x/{i}.jpg") for i in range(len(sizes))]
    for start in range(0, len(sizes), rows):
        part = slice(start, start + rows)
        yield Piece(manifest_table(entries[part]), pa.chunked_array([pa.array(sizes[part])]))


def _bytes(sizes, rows, per_unit, unit_bytes):
    return b"".join(
        manifest_writer.write_manifest(_pieces(sizes, rows), per_unit, unit_bytes).chunks()
    )


@pytest.mark.parametrize("rows", [1, 4, 7, 1000])
@pytest.mark.parametrize("group", [3, 8, 100])
def test_units_cut_by_bytes_are_read_back(tmp_path, monkeypatch, rows, group):
    monkeypatch.setattr(manifest_writer, "ROWS_PER_GROUP", group)
    sizes = [1, 9, 3, 3, 3, 3, 20, 1, 1, 1, 1, 1, 9, 9, 2]
    data = _bytes(sizes, rows, 3, 10)
    wanted = np.diff([0, *unit_ends(np.array(sizes), 3, 10)]).tolist()
    assert wanted == [2, 3, 1, 1, 3, 2, 1, 1, 1]
    assert manifest.unit_sizes(data) == wanted
    assert manifest.recorded_unit_images(data) == 3
    footer = pq.read_metadata(io.BytesIO(data))
    found = Units.of(footer)
    assert set(found.groups) <= set(found.ends)
    assert max(b - a for a, b in pairwise(found.groups)) <= max(3, group)
    STORE.publish_bytes(str(tmp_path / MANIFEST_FILE), data)
    digest, ids = manifest.manifest_digest(data), manifest.UnitIds(data)
    read = [manifest.read_unit(str(tmp_path), unit, digest, STORE) for unit in range(len(wanted))]
    assert [len(unit) for unit in read] == wanted
    assert [e.image_id for unit in read for e in unit] == list(range(1, len(sizes) + 1))
    assert [ids(unit) for unit in range(len(wanted))] == [[e.image_id for e in u] for u in read]
    # however the list is divided
    assert data == _bytes(sizes, 1000, 3, 10)


@pytest.mark.parametrize("unit_bytes", [None, 30, 1 << 40])
def test_a_manifest_of_which_no_unit_is_cut_knows_nothing_of_bytes(unit_bytes):
    table = pa.concat_tables(piece.images for piece in _pieces([10] * 8, 3))
    assert _bytes([10] * 8, 3, 3, unit_bytes) == manifest_writer.manifest_bytes(table, 3)


def test_versions_that_know_nothing_of_bytes_refuse_such_a_file():
    footer = pq.read_metadata(io.BytesIO(_bytes([9] * 4, 4, 3, 10)))
    with pytest.raises(ValueError, match="invalid literal"):
        int(footer.metadata[units.UNIT_KEY])


def test_auto_reads_no_more_of_a_list_than_it_takes(monkeypatch):
    monkeypatch.setattr(manifest_writer, "UNITS_WANTED", 4)
    monkeypatch.setattr(manifest_writer, "MOST", 5)
    for images, wanted in ((7, 4), (18, 5), (1000, 5)):
        found = manifest_writer.write_manifest(_pieces([1] * images, 3), "auto", None)
        assert manifest.recorded_unit_images(found) == wanted


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a full disk of Linux")
def test_a_full_disk_is_named_with_what_to_do(monkeypatch):
    full = SimpleNamespace(TemporaryFile=lambda **_: open("/dev/full", "wb"))  # noqa: SIM115
    monkeypatch.setattr(local_manifest, "tempfile", full)
    with pytest.raises(StorageError, match=r"No space left on device; .* with TMPDIR"):
        manifest_writer.write_manifest(_pieces([1] * 100_000, 50_000), "auto", None)


def test_what_else_fails_while_a_list_is_read_stays_as_it_is():
    def pieces():
        yield from _pieces([1] * 8, 4)
        raise ConnectionResetError("by the store")

    with pytest.raises(ConnectionResetError):
        manifest_writer.write_manifest(pieces(), 3, None)


DAMAGE = {
    "no number": ([2, 2], b"AAAA", "cannot be read"),
    "too many images": ([2, 9], None, "are not those of its images"),
    "another number of images": ([2, 1], None, "are not those of its images"),
    "no images": ([0, 2, 2], None, "are not those of its images"),
    "units across row groups": ([1, 3], None, "row groups do not hold"),
}


@pytest.mark.parametrize(("sizes", "packed", "message"), DAMAGE.values(), ids=DAMAGE)
def test_what_the_metadata_say_is_checked(sizes, packed, message):
    metadata = metadata_of([*sizes, 1], 3, 10)
    said = metadata_of(sizes, 3, 10) if len(set(sizes)) > 1 else metadata
    said = {**said, units.SIZES_KEY: packed or said[units.SIZES_KEY]}
    sink = io.BytesIO()
    (piece,) = _pieces([1] * 4, 4)
    with pq.ParquetWriter(sink, piece.images.schema) as writer:
        for start in (0, 2):
            writer.write_table(piece.images.slice(start, 2))
        writer.add_key_value_metadata(said)
    with pytest.raises(InputError, match=f"is damaged.*{message}"):
        manifest.unit_sizes(sink.getvalue())
