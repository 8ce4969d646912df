import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ntt_ray.models.positions import positional_basis, without_positions

# Of length 1 they are (±0.6, 0, 0.8) and (0, ±0.28, 0.96), their mean is (0, 0, 0.88). Less that
# they are (±0.6, 0, -0.08) and (0, ±0.28, 0.08): singular values 0.849 along the first channel,
# 0.396 along the second, 0.16 along the third.
EMPTY = torch.tensor([[[3.0, 0, 4], [-6, 0, 8]], [[0, 7, 24], [0, -7, 24]]])


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_worked_example_of_the_basis(count):
    basis = positional_basis(EMPTY, count)
    assert (basis.shape, basis.dtype) == ((3, count), torch.float32)
    torch.testing.assert_close(basis.abs(), torch.eye(3)[:, :count])


# f - U (U . f), with U = (0.6, 0.8, 0); then length 1
PROJECTED = {
    "unchanged": ((0.0, 0.0, 5.0), (0.0, 0.0, 1.0)),
    "halfway": ((2.0, 0.0, 0.0), (0.8, -0.6, 0.0)),  # (1, 0, 0) - 0.6 U = (0.64, -0.48, 0)
    "with a rest": ((0.6, 0.8, 1.0), (0.0, 0.0, 1.0)),
    "nothing at all": ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0)),
}


@pytest.mark.parametrize(("feature", "expected"), PROJECTED.values(), ids=PROJECTED.keys())
@pytest.mark.parametrize("sign", [1, -1])
def test_a_worked_example_of_the_projection(feature, expected, sign):
    basis = sign * torch.tensor([[0.6], [0.8], [0.0]])
    found = without_positions(torch.tensor([feature]), basis)
    torch.testing.assert_close(found, torch.tensor([expected]), atol=1e-6, rtol=0)


def _random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("count", [1, 6, 12])
def test_what_is_left_is_orthogonal_to_the_basis_and_of_length_1(count):
    basis = positional_basis(_random(5, 7, 16), count)
    torch.testing.assert_close(basis.T @ basis, torch.eye(count), atol=1e-6, rtol=0)
    found = without_positions(3 * _random(2, 4, 4, 16, seed=1), basis)
    assert found.shape == (2, 4, 4, 16)
    assert (found @ basis).abs().max() < 1e-6
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(2, 4, 4))
    torch.testing.assert_close(without_positions(found, basis), found, atol=1e-6, rtol=0)


def test_a_basis_is_as_good_as_any_other_of_the_same_space():
    basis, features = positional_basis(_random(5, 7, 16), 4), _random(9, 16, seed=1)
    turned = basis @ torch.linalg.qr(_random(4, 4, seed=2))[0]
    expected = without_positions(features, basis)
    torch.testing.assert_close(without_positions(features, turned), expected, atol=1e-6, rtol=0)


def test_against_the_covariance_of_the_patches():
    """The projector onto the leading eigenvectors, written plainly."""
    empty, features = _random(6, 5, 12), _random(4, 12, seed=1)
    patches = empty.double().reshape(30, 12).numpy()
    patches = patches / np.linalg.norm(patches, axis=1, keepdims=True)
    _, vectors = np.linalg.eigh(np.cov(patches.T, bias=True))
    leading = vectors[:, ::-1][:, :5]
    directions = F.normalize(features.double(), dim=1).numpy()
    left = directions @ (np.eye(12) - leading @ leading.T)
    expected = torch.from_numpy(left / np.linalg.norm(left, axis=1, keepdims=True)).float()
    found = without_positions(features, positional_basis(empty, 5))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


FEW = {
    "no more than channels": (EMPTY, 4, "4: .* differ in 3 directions"),
    "one less than patches": (_random(1, 3, 16), 3, "3: .* differ in 2 directions"),
    "all alike": (torch.ones(4, 4, 8), 1, "1: .* differ in 0 directions"),
    "all alike but for rounding": (1 + 1e-7 * _random(4, 4, 8), 1, "differ in 0 directions"),
    "of other lengths only": (_random(4, 4, 1) ** 2 * _random(8), 1, "differ in 0 directions"),
}


@pytest.mark.parametrize(("empty", "count", "said"), FEW.values(), ids=FEW.keys())
def test_more_than_there_are(empty, count, said):
    with pytest.raises(ValueError, match=said):
        positional_basis(empty, count)
