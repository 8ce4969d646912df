import io
from dataclasses import asdict, replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ntt_ray.errors import InputError
from ntt_ray.records import ImageEntry
from ntt_ray.run import manifest, manifest_writer, units
from ntt_ray.run.layout import MANIFEST_FILE
from ntt_ray.sources.schema import SCHEMA, carried, packed_schema
from ntt_ray.storage import Storage
from tests.support.run_files import manifest_table

ENTRIES = [ImageEntry(i, f"{i}.jpg", f"/x/{i}.jpg") for i in range(1, 8)]


def _units(folder, data):
    """All units of a manifest, read one by one, each twice."""
    Storage().publish_bytes(str(folder / MANIFEST_FILE), data)
    digest, count = manifest.manifest_digest(data), len(manifest.unit_sizes(data))
    found = [manifest.read_unit(str(folder), unit, digest, Storage()) for unit in range(count)]
    assert manifest.read_unit(str(folder), count - 1, digest, Storage()) == found[-1]
    return found


def _groups(data):
    footer = pq.read_metadata(io.BytesIO(data))
    return [footer.row_group(index).num_rows for index in range(footer.num_row_groups)]


# images per unit -> row groups where four rows make one, units
LAYOUTS = {
    "one image a unit": (1, [4, 3], [1] * 7),
    "two units a group": (2, [4, 3], [2, 2, 2, 1]),
    "one unit a group": (3, [3, 3, 1], [3, 3, 1]),
    "a unit that fills a group": (4, [4, 3], [4, 3]),
    "a unit above a group": (5, [5, 2], [5, 2]),
    "one unit": (9, [7], [7]),
}


@pytest.mark.parametrize(("per_unit", "groups", "sizes"), LAYOUTS.values(), ids=LAYOUTS)
def test_units_are_found_in_their_row_groups(tmp_path, monkeypatch, per_unit, groups, sizes):
    monkeypatch.setattr(manifest_writer, "ROWS_PER_GROUP", 4)
    data = manifest_writer.manifest_bytes(manifest_table(ENTRIES), per_unit)
    assert data == manifest_writer.manifest_bytes(manifest_table(ENTRIES), per_unit)
    assert _groups(data) == groups
    assert manifest.unit_sizes(data) == sizes
    units = _units(tmp_path, data)
    assert [len(unit) for unit in units] == sizes
    assert [entry for unit in units for entry in unit] == ENTRIES
    assert manifest.file_names(data)[7] == "7.jpg"


def test_the_footer_stays_small(tmp_path):
    rows = [ImageEntry(i, f"{i}.jpg", f"/x/{i}.jpg") for i in range(1, 20_001)]
    data = manifest_writer.manifest_bytes(manifest_table(rows), 1)
    assert len(_groups(data)) == 3
    digest = manifest.manifest_digest(data)
    Storage().publish_bytes(str(tmp_path / MANIFEST_FILE), data)
    for unit in (0, 8191, 8192, 19_999):
        assert manifest.read_unit(str(tmp_path), unit, digest, Storage()) == [rows[unit]]


def test_older_files_have_a_row_group_for_each_unit(tmp_path):
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, SCHEMA) as writer:
        for start in (0, 3, 6):
            writer.write_table(manifest_table(ENTRIES[start : start + 3]))
    data = sink.getvalue()
    assert manifest.unit_sizes(data) == [3, 3, 1]
    assert _units(tmp_path, data) == [ENTRIES[:3], ENTRIES[3:6], ENTRIES[6:]]


def test_packed_images_have_more_columns(tmp_path):
    kept = pa.field("caption", pa.string())
    entries = [replace(entry, key=f"k{entry.image_id}", source="a.tar") for entry in ENTRIES]
    rows = [{**asdict(entry), "caption": None} for entry in entries]
    data = manifest_writer.manifest_bytes(
        pa.Table.from_pylist(rows, schema=packed_schema((kept,))), 3
    )
    assert [entry for unit in _units(tmp_path, data) for entry in unit] == entries
    assert manifest.entries_at(data, [1]) == entries[1:2]
    assert manifest.file_names(data)[7] == "7.jpg"
    assert carried(manifest.manifest_schema(data)) == ["key", "source", "caption"]
    assert not carried(
        manifest.manifest_schema(manifest_writer.manifest_bytes(manifest_table([]), 3))
    )


def test_other_columns_are_damage(tmp_path):
    rows = [{**asdict(entry), "key": None} for entry in ENTRIES]
    table = pa.Table.from_pylist(rows).drop_columns(["source"])
    with pytest.raises(ValueError, match="other columns than a list of images"):
        manifest_writer.manifest_bytes(table, 3)


@pytest.mark.parametrize("said", ["0", "-3", "x", "2"])
def test_a_contradiction_is_damage(said):
    sink = io.BytesIO()
    schema = SCHEMA.with_metadata({units.UNIT_KEY: said})
    with pq.ParquetWriter(sink, schema) as writer:
        for start in (0, 3, 6):
            writer.write_table(manifest_table(ENTRIES[start : start + 3]).cast(schema))
    with pytest.raises(InputError, match="is damaged"):
        manifest.unit_sizes(sink.getvalue())
