"""Cells of Parquet files: addresses, and what is read of a row group."""

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ntt_ray.errors import ImageError, StorageError
from ntt_ray.storage import Storage, cells
from ntt_ray.storage.cells import Cell, cell_of
from ntt_ray.storage.parts import part_of

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
ROWS = [{"bytes": bytes([n]) * (n + 1), "path": f"{n}.png"} for n in range(10)]


def _file(column: pa.Array, rows_per_group: int = 4, **options) -> bytes:
    sink = io.BytesIO()
    table = pa.table({"n": pa.array(range(len(column))), "image": column})
    pq.write_table(table, sink, row_group_size=rows_per_group, **options)
    return sink.getvalue()


@pytest.fixture
def where(tmp_path):
    return f"{tmp_path}/a.parquet"


@pytest.mark.parametrize(
    "uri", ["s3://bucket/a.parquet", "/data/ä b.parquet", "file:///%FF.parquet"]
)
@pytest.mark.parametrize("column", ["image", "a-b/c d", "ü"])
def test_an_address_names_its_cell(uri, column):
    cell = Cell(3, 17, column, uri)
    assert cell_of(cell.address()) == cell
    assert part_of(cell.address()) is None


@pytest.mark.parametrize("uri", ["s3://b/a.parquet", "parquet://1-2/x", "parquet://1-x-image/a"])
def test_a_file_is_no_cell(uri):
    assert cell_of(uri) is None


COLUMNS = {
    "a struct": pa.array(ROWS, STRUCT),
    "bytes": pa.array([row["bytes"] for row in ROWS], pa.binary()),
    "large bytes": pa.array([row["bytes"] for row in ROWS], pa.large_binary()),
    "bytes without paths": pa.array(
        [{"bytes": row["bytes"]} for row in ROWS], pa.struct([("bytes", pa.large_binary())])
    ),
}


@pytest.mark.parametrize("kind", COLUMNS)
@pytest.mark.parametrize("large", [False, True])
def test_cells_are_read(where, kind, large, monkeypatch):
    monkeypatch.setattr(cells, "MOST_AT_ONCE", 0 if large else 1 << 20)
    monkeypatch.setattr(cells, "_STEP_ROWS", 2)
    Storage().publish_bytes(where, _file(COLUMNS[kind]))
    for n, row in enumerate(ROWS):
        assert Storage().read_bytes(Cell(n // 4, n % 4, "image", where).address()) == row["bytes"]
    some = [Cell(1, row, "image", where) for row in (3, 0, 3)]
    assert [value.data for value in Storage().read_cells(some)] == [
        ROWS[n]["bytes"] for n in (7, 4, 7)
    ]


def test_null_bytes_are_those_of_the_file_beside_or_a_reason(where, tmp_path):
    rows = [
        {"bytes": None, "path": "deep/x.png"},
        {"bytes": None, "path": "../x.png"},
        {"bytes": None, "path": "/etc/passwd"},
        {"bytes": None, "path": None},
        None,
        {"bytes": b"", "path": None},
    ]
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "x.png").write_bytes(b"beside")
    Storage().publish_bytes(where, _file(pa.array(rows, STRUCT), 10))

    def read(row):
        return Storage().read_bytes(Cell(0, row, "image", where).address())

    assert read(0) == b"beside"
    assert read(5) == b""
    for row in (1, 2):
        with pytest.raises(ImageError, match="no bytes here, and its path leads out of"):
            read(row)
    for row in (3, 4):
        with pytest.raises(ImageError, match=r"^column image is null here$"):
            read(row)


def test_what_is_not_there_is_no_image(where):
    Storage().publish_bytes(where, _file(COLUMNS["a struct"]))
    for cell in (Cell(3, 0, "image", where), Cell(2, 2, "image", where), Cell(0, 0, "x", where)):
        with pytest.raises(
            ImageError, match=rf"row group {cell.group} of .*a\.parquet cannot be read"
        ):
            Storage().read_bytes(cell.address())
    with pytest.raises(FileNotFoundError):
        Storage().read_bytes(Cell(0, 0, "image", f"{where}.gone").address())


def test_a_damaged_row_group_is_no_image_and_the_others_are(where):
    data = bytearray(_file(COLUMNS["bytes"], use_dictionary=False, compression="none"))
    chunk = pq.read_metadata(io.BytesIO(data)).row_group(1).column(1)
    data[chunk.data_page_offset : chunk.data_page_offset + 20] = b"\xff" * 20
    Storage().publish_bytes(where, bytes(data))
    assert Storage().read_bytes(Cell(0, 1, "image", where).address()) == ROWS[1]["bytes"]
    with pytest.raises(ImageError, match="row group 1 of"):
        Storage().read_bytes(Cell(1, 1, "image", where).address())


def test_a_cell_has_about_the_size_of_the_others(where):
    data = [bytes([n]) * 1000 for n in range(8)]
    options = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    Storage().publish_bytes(where, _file(pa.array(data), 4, **options))
    assert 1000 <= Storage().size(Cell(1, 2, "image", where).address()) < 1100


def test_a_row_group_comes_by_few_requests(s3):
    from ntt_ray.sources.stretches import Stretches
    from tests.support.hostile_proxy import Hostility, hostile_proxy

    uri = f"{s3.prefix()}/a.parquet"
    data = [bytes([n]) * 50_000 for n in range(40)]
    s3.storage().publish_bytes(uri, _file(pa.array(data), 20, compression="none"))
    addresses = [Cell(n // 20, n % 20, "image", uri).address() for n in range(5, 40)]
    with hostile_proxy(s3.endpoint, Hostility(("error",), rate=0.0)) as proxy:
        store = s3.storage(endpoint=proxy.endpoint)
        read = Stretches(addresses, store.read_bytes, store.read_cells)
        assert [read(address) for address in addresses] == data[5:]
        # each group: how long the file is, its chunk, and whether it is still the same; once the
        # footer
        assert proxy.happened()["requests"] <= 6


@pytest.mark.parametrize("large", [False, True])
def test_bad_weather_is_no_damage(monkeypatch, large):
    """A store that fails is asked again; an image is not blamed for it."""
    monkeypatch.setattr(cells, "MOST_AT_ONCE", 0 if large else 1 << 20)
    where, whole = "memory://cells/weather.parquet", Storage._read_range
    Storage().publish_bytes(where, _file(COLUMNS["a struct"]))
    some = [Cell(1, 1, "image", where)]
    Storage().read_cells(some)  # the footer is known by now
    for error in (StorageError("busy"), ConnectionError("gone"), FileNotFoundError(where)):

        def failing(*_, error=error):
            raise error

        monkeypatch.setattr(Storage, "_read_range", failing)
        with pytest.raises(type(error), match=str(error)):
            Storage().read_cells(some)
    monkeypatch.setattr(Storage, "_read_range", whole)
    assert Storage().read_cells(some)[0].data == ROWS[5]["bytes"]
