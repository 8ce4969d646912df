"""Many masks at once, against pycocotools one by one."""

import numpy as np
import pytest

from ntt_ray.mask_encoding import encode_changes
from ntt_ray.masks import part_changes, rle_area, rle_bbox_xywh, runs_to_rle


def _check(changes, height, width) -> None:
    found = encode_changes([np.asarray(own, dtype=np.int64) for own in changes], height, width)
    expected = [runs_to_rle(np.asarray(own, dtype=np.int64), height, width) for own in changes]
    assert list(found.rles) == expected
    assert found.areas.tolist() == [rle_area(rle) for rle in expected]
    assert found.boxes_xywh.tolist() == [rle_bbox_xywh(rle) for rle in expected]


def _changes(masks: np.ndarray) -> list[np.ndarray]:
    return [part_changes(mask, 0, 0, masks.shape[1]) for mask in masks]


CASES = {
    "no mask": [],
    "empty": [[]],
    "full": [[0]],
    "full, its end told": [[0, 35]],
    "first pixel": [[0, 1]],
    "last pixel": [[34]],
    "last pixel, its end told": [[34, 35]],
    "over two columns": [[4, 6]],
    "empty ones around others": [[], [3, 9], [], [], [0], [7, 8, 12, 13, 20, 35], []],
}


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES.keys())
def test_degenerate_masks(changes):
    _check(changes, 5, 7)


@pytest.mark.parametrize("density", [0.02, 0.5, 0.98])
def test_random_masks(density):
    rng = np.random.default_rng(0)
    _check(_changes(rng.random((40, 13, 29)) < density), 13, 29)


def test_numbers_of_every_length_and_sign():
    """Runs, and differences of runs, of one to six characters, up to the largest image."""
    height, width = 2**14, 2**15
    lengths = np.array(
        [d * 2**bits + e for bits in range(2, 25) for d in (1, 3) for e in (-1, 0, 1)]
    )
    rng = np.random.default_rng(0)
    masks = [np.cumsum(rng.permutation(lengths)) for _ in range(20)]
    assert max(own[-1] for own in masks) < height * width
    _check([*masks, [2**29 - 1], [1, 2**29 - 1]], height, width)
