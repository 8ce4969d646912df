import pytest
import torch
import torch.nn.functional as F

import reference
from ntt_ray.matching.pooling import (
    mask_at_patches,
    pooled_features,
    resize_matrix,
    weighted_mean,
)


@pytest.mark.parametrize(("grid", "size"), [(8, 64), (37, 256), (3, 7), (16, 16), (20, 8), (1, 4)])
def test_resize_matrix_is_torchs_resize(grid, size):
    values = torch.randn(1, 1, grid, max(grid, 2), generator=torch.Generator().manual_seed(0))
    resized = F.interpolate(
        values, size=(size, max(grid, 2)), mode="bilinear", align_corners=False, antialias=True
    )
    torch.testing.assert_close(resize_matrix(grid, size) @ values[0, 0], resized[0, 0])


@pytest.mark.parametrize(("grid", "size"), [(8, 64), (37, 256), (5, 20)])
def test_pooling_equals_resizing_and_averaging(grid, size):
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(grid, grid, 24, generator=generator)
    masks = (
        torch.rand(12, size, size, generator=generator)
        < torch.linspace(0.001, 1, 12)[:, None, None]
    )
    masks[:, 0, 0] = True
    expected = torch.stack([reference.pooled_feature(features, mask) for mask in masks])
    error = (pooled_features(features, masks) - expected).abs().max()
    assert error < 1e-6


def test_pooling_without_masks():
    assert pooled_features(
        torch.randn(4, 4, 6), torch.zeros(0, 16, 16, dtype=torch.bool)
    ).shape == (
        0,
        6,
    )


def test_mask_is_sampled_at_the_top_left_pixel():
    soft = torch.zeros(28, 28)
    soft[14, 0] = 0.25
    soft[15, 15] = 1.0
    assert mask_at_patches(soft, (2, 2)).tolist() == [[0.0, 0.0], [0.25, 0.0]]


def test_mask_that_no_sample_hits_is_averaged():
    soft = torch.zeros(28, 28)
    soft[15:17, 15:17] = 1.0
    weights = mask_at_patches(soft, (2, 2))
    assert weights[1, 1] == pytest.approx(4 / 196)
    assert weights.sum() == weights[1, 1]


def test_weighted_mean():
    features = torch.tensor([[[1.0, 0.0], [3.0, 2.0]]])
    weights = torch.tensor([[0.25, 0.75]])
    assert weighted_mean(features, weights).tolist() == [2.5, 1.5]
