"""Few requests: members that lie together come by one, and each gets its own bytes."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from ntt_ray.errors import StorageError
from ntt_ray.sources import stretches
from ntt_ray.sources.stretches import Stretches
from ntt_ray.storage import Storage
from ntt_ray.storage.cells import Cell, CellValue
from ntt_ray.storage.parts import Part

FILE = "memory://stretches/a.bin"
DATA = bytes(range(256)) * 40


class _Counted:
    """Reads as a store does, and notes what was asked; the first `failing` requests fail."""

    def __init__(self, failing: int = 0) -> None:
        self.asked, self.failing = list[str](), failing
        Storage().publish_bytes(FILE, DATA)

    def __call__(self, uri: str) -> bytes:
        self.asked.append(uri)
        if len(self.asked) <= self.failing:
            raise StorageError("bad weather")
        return Storage().read_bytes(uri)


def _addresses(*places: tuple[int, int]) -> list[str]:
    return [Part("range", start, end, FILE).address() for start, end in places]


def test_neighbours_come_by_one_request():
    uris, read = _addresses(*((n * 100, n * 100 + 90) for n in range(64))), _Counted()
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(Stretches(uris, read), uris))
    assert found == [DATA[n * 100 : n * 100 + 90] for n in range(64)]
    assert read.asked == _addresses((0, 6390))


def test_far_members_and_long_stretches_are_divided(monkeypatch):
    monkeypatch.setattr(stretches, "GAP_BYTES", 50)
    monkeypatch.setattr(stretches, "MOST_BYTES", 1000)
    uris, read = _addresses((0, 400), (410, 900), (910, 1100), (1200, 1300)), _Counted()
    get = Stretches(uris, read)
    assert [get(uri) for uri in reversed(uris)] == [
        DATA[1200:1300],
        DATA[910:1100],
        DATA[410:900],
        DATA[:400],
    ]
    assert read.asked == _addresses((1200, 1300), (910, 1100), (0, 900))


def test_a_request_that_fails_is_made_again_for_all():
    uris, read = _addresses((0, 10), (10, 20), (20, 30)), _Counted(failing=1)
    get = Stretches(uris, read)
    with pytest.raises(StorageError):
        get(uris[0])
    assert [get(uri) for uri in uris] == [DATA[:10], DATA[10:20], DATA[20:30]]
    assert read.asked == _addresses((0, 30), (0, 30))


def test_a_file_of_its_own_and_a_second_look_are_read_alone():
    uris, read = _addresses((0, 10), (10, 20)), _Counted()
    get = Stretches([*uris, FILE], read)
    assert get(FILE) == DATA
    assert (get(uris[0]), get(uris[0])) == (DATA[:10], DATA[:10])
    assert read.asked == [FILE, *_addresses((0, 20), (0, 10))]


CELLS = [Cell(n // 3, n % 3, "image", FILE) for n in range(6)]


def test_cells_of_a_row_group_are_read_at_once():
    asked, read = list[list[Cell]](), _Counted()

    def read_cells(cells):
        asked.append(list(cells))
        if len(asked) == 1:
            raise StorageError("bad weather")
        beside = CellValue(None, "a.bin")
        return [beside if cell.row else CellValue(bytes([cell.group]), None) for cell in cells]

    uris = [cell.address() for cell in CELLS]
    get = Stretches(uris, read, read_cells)
    with pytest.raises(StorageError):
        get(uris[0])
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(get, uris)) == [b"\0", DATA, DATA, b"\1", DATA, DATA]
    assert sorted(cells[0].group for cells in asked) == [0, 0, 1]
    assert all(len(cells) == 3 for cells in asked)
    assert read.asked == [FILE] * 4
    with pytest.raises(FileNotFoundError):  # once taken, a cell is read alone, as a part is
        Stretches([], read, read_cells)(CELLS[0].address().replace("a.bin", "gone"))
