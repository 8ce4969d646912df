"""The short form of the simulation that the intervals of a review were chosen by."""

import pytest

from benchmarks import review

pytestmark = pytest.mark.slow
REPEATS = 1000  # 0.015 below or above is less than one chance in 50 for a cell that is exact
SLACK = 0.02


def test_intervals_of_precision_cover_and_are_as_narrow_as_the_table():
    for cell in review.precision_cells(REPEATS, names=("steep curve", "flat .9", ".99")):
        wanted = review.WIDTHS[cell.name][review.SIZES.index(cell.size)]
        assert cell.coverage >= 0.94 - SLACK, cell
        assert cell.width <= 1.05 * wanted + 0.0005, cell


def test_promises_are_kept_and_worth_something():
    cells = review.promise_cells(REPEATS)
    assert all(cell.coverage >= 0.95 for cell in cells)
    assert review.promise_problems(cells) == []


def test_intervals_of_recall_cover():
    cells = review.recall_cells(REPEATS // 2, images=(50,))
    assert all(cell.coverage >= 0.91 - SLACK for cell in cells)
    assert sum(cell.coverage for cell in cells) / len(cells) >= 0.95
