import os
import random

import pytest

from ntt_ray.sources import name_order
from ntt_ray.sources.name_order import decoded, encoded, in_name_order


def _pages(names, size=3):
    for start in range(0, len(names), size):
        yield {name: start + row for row, name in enumerate(names[start : start + size])}


@pytest.mark.parametrize(("rows", "piece"), [(1 << 20, 1 << 15), (8, 3), (1, 1), (9, 100)])
def test_names_come_in_order_with_their_sizes(monkeypatch, rows, piece):
    monkeypatch.setattr(name_order, "SORTED_ROWS", rows)
    monkeypatch.setattr(name_order, "PIECE_ROWS", piece)
    odd = [
        os.fsdecode(b"\xff.png"),
        "\ue000.png",
        "\U0001f600.png",
        "é.png",
        "e\u0301.png",
        "Z.png",
    ]
    names = [*odd, *(f"{folder}/{name}.jpg" for folder in "bca" for name in range(20))]
    random.Random(0).shuffle(names)
    tables = list(in_name_order(_pages(names)))
    found = [decoded(name) for table in tables for name in table["name"].to_pylist()]
    assert found == sorted(names)
    sizes = [size for table in tables for size in table["size"].to_pylist()]
    assert [names[size] for size in sizes] == found
    assert max(map(len, tables)) <= piece


def test_nothing_listed_is_one_empty_table():
    (table,) = in_name_order([])
    assert len(table) == 0


def test_any_name_comes_back():
    name = os.fsdecode(b"a/\xff\xfe.png")
    assert decoded(encoded(name)) == name
