import threading
import time

import pytest

from ntt_ray.sources import ahead


def test_files_are_looked_into_at_once_and_in_order():
    begun, lock, most = set(), threading.Lock(), list[int]()

    def look(number):
        with lock:
            begun.add(number)
            most.append(len(begun))
        time.sleep(0.01 if number % 3 else 0.03)
        with lock:
            begun.remove(number)
        return number * number

    assert list(ahead.in_order(look, range(40))) == [n * n for n in range(40)]
    assert 1 < max(most) <= ahead.FILES_AT_ONCE


def test_the_first_error_in_order_ends_it():
    begun = list[int]()

    def look(number):
        begun.append(number)
        if number in (3, 4):
            raise ValueError(f"file {number}")
        return number

    found = ahead.in_order(look, range(1000))
    assert [next(found) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="file 3"):
        next(found)
    assert len(begun) < 100
