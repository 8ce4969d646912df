"""Proposals kept on a GPU, on tensors that only say they are on one: the labels of the CPU.

`tests/gpu` asks the same of a GPU.
"""

import pytest

from benchmarks.pretend_cuda import PretendCuda
from ntt_ray.settings import MethodSettings, TileSettings
from tests.support.device_labels import coarse_images, share_found, small_kept_labeler

SETTINGS = {
    "whole": MethodSettings(min_predicted_iou=0.3),
    "none survive": MethodSettings(min_predicted_iou=0.9999),
    "tiles": MethodSettings(min_predicted_iou=0.3, tiles=TileSettings(side=100)),
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_kept_proposals_of_a_device_are_those_of_the_cpu(settings):
    images = coarse_images(1 if settings.tiles else 2)
    expected = small_kept_labeler("cpu", settings=settings).label(images)
    with PretendCuda() as log:
        found = small_kept_labeler("cuda", settings=settings).label(images)
    assert log.launches["convolution"] > 0
    assert all(expected) == (settings.min_predicted_iou < 0.5)
    assert share_found(found, expected, score_error=1e-3, mask_iou=0.99) == 1.0
