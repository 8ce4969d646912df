import pytest
import torch
import torch.nn.functional as F

from ntt_ray.method.pooling import (
    mean_patch_feature,
    pooled_features,
    resize_matrix,
)
from tests import reference


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


@pytest.mark.parametrize(("grid", "size"), [(8, 64), (5, 20)])
def test_the_mean_of_all_patches_is_that_of_a_mask_of_everything(grid, size):
    features = torch.randn(grid, grid, 24, generator=torch.Generator().manual_seed(2))
    (expected,) = pooled_features(features, torch.ones(1, size, size, dtype=torch.bool))
    torch.testing.assert_close(mean_patch_feature(features), expected, rtol=0, atol=1e-6)
    half = torch.cat((torch.full((1, 2, 3), 3.0), torch.tensor([[[0.0, 4, 0], [0, 0, 0]]])))
    wanted = torch.tensor([6.0, 10.0, 6.0]) / 172**0.5
    torch.testing.assert_close(mean_patch_feature(half), wanted)


def test_pooling_without_masks():
    assert pooled_features(
        torch.randn(4, 4, 6), torch.zeros(0, 16, 16, dtype=torch.bool)
    ).shape == (
        0,
        6,
    )
