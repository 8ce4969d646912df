import numpy as np
import pytest

from ntt_ray.masks import encode_mask
from ntt_ray.records import ImageEntry, Reference
from ntt_ray.references.crops import crop_window, cut_reference

WINDOWS = {
    # box, (height, width), ratio -> x1, y1, x2, y2 worked out by hand from METHOD 5 and 6
    "square inside": ((40, 40, 20, 20), (100, 100), 0.2, (38, 38, 62, 62)),
    "wide becomes square": ((30, 45, 40, 10), (100, 100), 0.2, (26, 26, 74, 74)),
    "no context": ((40, 40, 20, 20), (100, 100), 0.0, (40, 40, 60, 60)),
    "cut at the left": ((0, 40, 20, 20), (100, 100), 0.2, (0, 38, 22, 62)),
    "cut at the corner": ((90, 90, 10, 10), (100, 100), 0.2, (89, 89, 100, 100)),
    "fractions are truncated by corner": (
        (10.7, 10.2, 9.6, 9.9),
        (100, 100),
        0.0,
        (10, 10, 20, 20),
    ),
    "larger than the image": ((0, 0, 50, 30), (30, 50), 0.2, (0, 0, 50, 30)),
}


@pytest.mark.parametrize(("box", "size", "ratio", "window"), WINDOWS.values(), ids=WINDOWS.keys())
def test_crop_window(box, size, ratio, window):
    assert crop_window(box, size, ratio) == window


def _reference(mask: np.ndarray, box) -> Reference:
    entry = ImageEntry(1, "a.png", "/a.png")
    return Reference(1, 1, entry, mask.shape, box, encode_mask(mask))


def test_cut_takes_the_same_window_of_image_and_mask():
    mask = np.zeros((30, 40), dtype=bool)
    mask[10:20, 12:22] = True
    image = np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)
    crop = cut_reference(_reference(mask, (12, 10, 10, 10)), image, 0.2)
    np.testing.assert_array_equal(crop.image_rgb, image[9:21, 11:23])
    np.testing.assert_array_equal(crop.mask, mask[9:21, 11:23])


def test_a_mask_outside_its_box_is_refused():
    mask = np.zeros((30, 40), dtype=bool)
    mask[0:3, 0:3] = True
    with pytest.raises(ValueError, match="no pixel inside its box"):
        cut_reference(_reference(mask, (20, 20, 5, 5)), np.zeros((30, 40, 3), np.uint8), 0.2)
