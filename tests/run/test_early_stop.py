import pytest

from ntt_ray.errors import RunIncompleteError
from ntt_ray.run.early_stop import EarlyStop
from ntt_ray.run.job import UnitDone


def _unit(number: int, images: int = 50, failed: int = 0, **more) -> UnitDone:
    return UnitDone(number, images, failed, 0, 0.1, 0.0, 0.1, 0.1, **more)


def _useless(number: int) -> UnitDone:
    return _unit(number, failed=50, reason="not an image but a web page")


def test_the_first_hundred_images_are_none():
    stop = EarlyStop(fresh=True)
    stop.unit(_useless(0))
    with pytest.raises(RunIncompleteError, match="first 100 images are all none: not an image but"):
        stop.unit(_useless(1))
    assert stop.useless


def test_one_good_image_is_enough():
    stop = EarlyStop(fresh=True)
    stop.unit(_useless(0))
    stop.unit(_unit(1, failed=49))
    for number in range(2, 10):
        stop.unit(_useless(number))
    assert not stop.useless


def test_a_resumed_run_has_good_images_already():
    stop = EarlyStop(fresh=False)
    for number in range(10):
        stop.unit(_useless(number))


def test_images_that_could_not_be_read_are_not_useless():
    stop = EarlyStop(fresh=True)
    for number in range(10):
        stop.unit(_unit(number, failed=50, unreachable=50))
    assert not stop.useless


def test_units_given_back_in_a_row():
    stop = EarlyStop(fresh=True)
    for number in range(2):
        stop.unit(_unit(number, 0, given_back="403"))
    stop.unit(_unit(2))
    for number in range(3, 5):
        stop.unit(_unit(number, 0, given_back="403"))
    with pytest.raises(
        RunIncompleteError, match="3 units one after the other could not be done: 403"
    ):
        stop.unit(_unit(5, 0, given_back="403"))
