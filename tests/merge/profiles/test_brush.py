"""Label Studio's brush encoding against a plain decoder."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra.numpy import array_shapes, arrays

from ntt_ray.masks import encode_mask, rle_bbox_xywh
from ntt_ray.merge.mask_parts import MaskPart
from ntt_ray.merge.profiles.brush import brush_rle
from tests.support.odd_masks import MASKS
from tests.support.plain_brush import plain_decode


def part_of(mask):
    rle = encode_mask(mask)
    x, y, width, height = (int(value) for value in rle_bbox_xywh(rle))
    return MaskPart(mask[y : y + height, x : x + width], x, y, rle)


def check(mask):
    pixels = plain_decode(brush_rle(part_of(mask))).reshape(*mask.shape, 4)
    np.testing.assert_array_equal(pixels, np.repeat(mask[..., None] * 255, 4, axis=2))


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_the_mask_comes_back(mask):
    check(mask)


@settings(deadline=None, max_examples=100)
@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=12)))
def test_any_mask_comes_back(mask):
    if mask.any():
        check(mask)


@pytest.mark.parametrize("length", [1, 16, 127, 128, 129, 1024, 16383, 16384, 16385, 40000])
def test_runs_of_every_size(length):
    mask = np.zeros((1, length + 20_000), dtype=bool)
    mask[0, 3 : 3 + length] = True
    check(mask)
