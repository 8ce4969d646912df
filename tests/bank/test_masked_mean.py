import pytest
import torch

from ntt_ray.bank.masked_mean import mask_at_patches, weighted_mean


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
