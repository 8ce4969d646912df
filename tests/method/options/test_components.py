"""Small parts of masks are left out as a flood fill, pixel by pixel, leaves them out."""

import numpy as np
import pytest
import torch

from ntt_ray.masks import decode_rle, encode_mask, part_changes
from ntt_ray.method.detections import BestMasks
from ntt_ray.method.labeler import Labeler
from ntt_ray.method.masks_at_size import RleMasks, masks_at_size
from ntt_ray.method.options.components import large_parts, without_small_parts
from ntt_ray.method.tiling import make_labeler
from ntt_ray.settings import ComponentSettings, MethodSettings, TileSettings
from tests.support.fakes import BANK, FakeEncoder
from tests.support.noise import Noise

LARGEST = ComponentSettings()


def _plain(mask, min_share) -> np.ndarray:
    left, parts = {(y, x) for y, x in zip(*np.nonzero(mask), strict=True)}, []
    while left:
        part, edge = set(), [left.pop()]
        while edge:
            y, x = edge.pop()
            part.add((y, x))
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            edge += near
        parts.append(part)
    kept = np.zeros_like(mask)
    most = max(map(len, parts), default=0)
    for part in parts:
        if len(part) >= min_share * most:
            kept[tuple(zip(*part, strict=True))] = True
    return kept


def _drawn(*rows) -> np.ndarray:
    return np.array([[letter == "#" for letter in row] for row in rows])


def _random_masks(seed):
    draw = np.random.default_rng(seed)
    height, width = draw.integers(1, 14, 2)
    return draw.random((draw.integers(1, 6), height, width)) < draw.choice([0.1, 0.4, 0.6, 0.95])


@pytest.mark.parametrize("min_share", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("seed", range(60))
def test_equals_a_flood_fill(seed, min_share):
    masks = _random_masks(seed)
    settings = ComponentSettings(min_share=min_share)
    found = without_small_parts([encode_mask(m) for m in masks], masks.shape[1:], settings)
    for rle, area, box, mask in zip(found.rles, found.areas, found.boxes_xywh, masks, strict=True):
        expected = _plain(mask, min_share)
        assert rle == encode_mask(expected)
        assert area == expected.sum()
        y, x = np.nonzero(expected)
        tight = (x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1) if len(x) else (0, 0, 0, 0)
        assert tuple(box) == tight


def test_a_corner_connects_and_equal_parts_stay():
    mask = _drawn("##...#", "..#..#", "......", "#.....", "#.....", "#.....")
    kept = decode_rle(without_small_parts([encode_mask(mask)], mask.shape, LARGEST).rles[0])
    np.testing.assert_array_equal(
        kept, _drawn("##....", "..#...", "......", "#.....", "#.....", "#.....")
    )


def test_long_windings_are_one_part():
    spiral = np.zeros((61, 61), dtype=bool)
    spiral[::2] = True
    spiral[1::4, -1] = spiral[3::4, 0] = True
    comb = np.zeros((40, 61), dtype=bool)
    comb[:, ::2] = comb[-1] = True
    for mask in (spiral, comb, comb[::-1], comb.T):
        changes = part_changes(mask, 0, 0, mask.shape[0])
        (kept,) = large_parts([changes], *mask.shape, 1.0)
        np.testing.assert_array_equal(kept, changes)


def test_neighbouring_masks_are_apart():
    """What touches the right edge of one mask and the left edge of the next is not connected."""
    right, left = _drawn("#..##", "...##"), _drawn("#...#", "#....")
    found = without_small_parts([encode_mask(right), encode_mask(left)], (2, 5), LARGEST)
    np.testing.assert_array_equal(decode_rle(found.rles[0]), _drawn("...##", "...##"))
    np.testing.assert_array_equal(decode_rle(found.rles[1]), _drawn("#....", "#...."))


def test_no_mask():
    found = without_small_parts([], (3, 4), LARGEST)
    assert (found.rles, found.areas.shape, found.boxes_xywh.shape) == ((), (0,), (0, 4))


def test_detections_have_the_box_and_area_of_what_stays():
    mask = _drawn("##....", "##...#", "......")
    logits = torch.where(torch.from_numpy(mask[None]), 5.0, -5.0)
    for in_strips in (False, True):
        masks = masks_at_size(logits, (3, 6), in_strips)
        one = torch.ones(1)
        best = BestMasks((3, 6), masks, torch.zeros(1, dtype=torch.int64), one, one, LARGEST)
        (found,) = best.detections([3])
        assert (found.bbox_xywh, found.area) == ((0, 0, 2, 2), 4)


def test_masks_without_the_option_are_as_they_were():
    mask = _drawn("##....", "##...#", "......")
    one, label = torch.ones(1), torch.zeros(1, dtype=torch.int64)
    best = BestMasks((3, 6), RleMasks((encode_mask(mask),)), label, one, one)
    assert best.detections([3])[0].area == 5


def _labelled(tiles, **settings):
    tiled = {"tiles": TileSettings()} if tiles else {}
    method = MethodSettings(max_detections=500, nms_iou=0.95, **tiled, **settings)
    return make_labeler(FakeEncoder(), Noise(), BANK, method)


@pytest.mark.parametrize("strips", [False, True])
@pytest.mark.parametrize("tiles", [False, True])
def test_what_both_options_make_of_the_papers_detections(tiles, strips):
    """Masks lose their small parts, scores are weighted; then come the ranking and the cut."""
    image = np.random.default_rng(5).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    (everything,) = _own(_labelled(tiles), strips).label([image])
    expected = [
        (d.score * d.predicted_iou**0.25, _plain(decode_rle(d.rle), 1.0)) for d in everything
    ]
    expected.sort(key=lambda item: -item[0])
    labeler = _labelled(tiles, largest_component=LARGEST, iou_power=0.25)
    own = labeler if isinstance(labeler, Labeler) else labeler.labeler
    limit = len(expected) - 2
    own.settings = own.settings.model_copy(update={"max_detections": limit})
    (found,) = _own(labeler, strips).label([image])
    assert len(found) == limit > 1
    assert any(mask.sum() < d.area for d, (_, mask) in zip(everything, expected, strict=True))
    for detection, (score, mask) in zip(found, expected, strict=False):
        assert detection.score == pytest.approx(score, abs=1e-5)
        np.testing.assert_array_equal(decode_rle(detection.rle), mask)


def _own(labeler, strips):
    own = labeler if isinstance(labeler, Labeler) else labeler.labeler
    own.strips = strips
    return labeler
