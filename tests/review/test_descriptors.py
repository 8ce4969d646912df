import numpy as np
import pytest

from ntt_ray.review.descriptors import ALIKE, NEIGHBOURS, alike_pairs, look_of, outlier_factors

SIZE = (48, 64)


def label(seed, *, colour=(200, 60, 60), box=(10, 8, 30, 24), noise=6):
    """A filled ellipse in a box on a noisy ground."""
    rng = np.random.default_rng(seed)
    x, y, width, height = box
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    mask = ((columns - x - width / 2) / (width / 2)) ** 2 + (
        (rows - y - height / 2) / (height / 2)
    ) ** 2 <= 1
    image = rng.integers(90, 90 + noise, (*SIZE, 3))
    image[mask] = np.clip(np.array(colour) + rng.integers(-noise, noise, 3), 0, 255)
    return look_of(image.astype(np.uint8), mask, tuple(map(float, box)))


def test_no_labels_and_few_labels():
    assert outlier_factors([], np.zeros(0, np.int64)).tolist() == []
    assert alike_pairs([], np.zeros(0, np.int64)) == []
    few = [label(n) for n in range(NEIGHBOURS)]
    assert np.isnan(outlier_factors(few, np.ones(NEIGHBOURS, np.int64))).all()


@pytest.mark.parametrize(
    "odd",
    [
        {"colour": (20, 200, 230)},
        {"box": (2, 2, 60, 8)},
        {"box": (10, 8, 5, 4)},
    ],
    ids=["colour", "form", "size"],
)
def test_an_odd_label_is_the_farthest(odd):
    looks = [label(n) for n in range(20)] + [label(99, **odd)]
    factors = outlier_factors(looks, np.ones(21, np.int64))
    assert factors.argmax() == 20
    assert factors[20] > 3
    assert np.median(factors) == pytest.approx(1)


def test_classes_are_compared_with_themselves():
    red = [label(n) for n in range(10)]
    blue = [label(n, colour=(40, 40, 220)) for n in range(10, 20)]
    categories = np.repeat([1, 2], 10)
    factors = outlier_factors([*red, *blue], categories)
    assert factors.max() < 3
    factors = outlier_factors([*red[:9], blue[0], *blue[1:], red[9]], categories)
    assert set(np.argsort(-factors)[:2].tolist()) == {9, 19}


def test_equal_labels_have_no_outlier():
    assert outlier_factors([label(1)] * 8, np.ones(8, np.int64)).max() <= 1


def test_pairs_are_of_different_images_and_each_label_in_one():
    looks = [label(1), label(2), label(2), label(3, colour=(20, 200, 30))]
    assert [pair[:2] for pair in alike_pairs(looks, np.array([1, 2, 3, 4]))] == [(1, 2)]
    assert [pair[:2] for pair in alike_pairs(looks, np.array([1, 2, 2, 4]))] == [(0, 1)]
    [pair] = alike_pairs([label(5), label(5)], np.array([1, 2]))
    assert pair[2] < ALIKE / 10


def test_many_equal_labels_are_all_in_pairs():
    looks, images = [label(1)] * 1200, np.arange(1200) // 2
    pairs = alike_pairs(looks, images)
    assert len({n for pair in pairs for n in pair[:2]}) == 2 * len(pairs) > 1100
    assert all(images[one] != images[other] for one, other, _ in pairs)


def test_a_box_at_the_border_has_a_pixel():
    mask = np.zeros(SIZE, bool)
    mask[-1, -1] = True
    look = look_of(np.zeros((*SIZE, 3), np.uint8), mask, (63.0, 47.0, 1.0, 1.0))
    assert all(np.isfinite(group).all() for group in look.object)
