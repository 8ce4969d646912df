import numpy as np
import torch

from ntt_ray.bank.colours import PatchColours


def _features(value: float, seed: int, side=(6, 5), dim=16) -> torch.Tensor:
    """Background of zeros with an object of one direction, and a little noise."""
    features = 0.01 * torch.randn(*side, dim, generator=torch.Generator().manual_seed(seed))
    features[1:4, 1:4, 2] += value
    return features


def test_equal_features_have_equal_colours_in_all_pictures():
    colours = PatchColours()
    for seed in (1, 2, 3):
        colours.add(seed * 10, _features(5.0, seed))
    pictures = colours.pictures()
    assert list(pictures) == [10, 20, 30]
    for picture in pictures.values():
        assert picture.shape == (6, 5, 3)
        assert picture.dtype == np.uint8
        # the strongest component separates object and background; its sign makes the object bright
        assert picture[1:4, 1:4, 0].min() > 200
        assert np.delete(picture[..., 0].ravel(), [6, 7, 8, 11, 12, 13, 16, 17, 18]).max() < 60


def test_components_are_those_of_all_references_and_pictures_of_the_first():
    few, many = PatchColours(max_kept=1), PatchColours()
    for colours in (few, many):
        colours.add(1, _features(5.0, 1))
        colours.add(2, torch.randn(6, 5, 16, generator=torch.Generator().manual_seed(9)) * 30)
    assert list(few.pictures()) == [1]
    mean_few, components_few = few._components()
    mean_many, components_many = many._components()
    assert torch.equal(mean_few, mean_many)
    assert torch.equal(components_few, components_many)


def test_large_grids_are_averaged_and_few_channels_suffice():
    colours = PatchColours()
    colours.add(1, _features(5.0, 1, side=(37, 30)))
    assert colours.pictures()[1].shape == (20, 20, 3)
    thin = PatchColours()
    thin.add(1, torch.rand(4, 4, 2, generator=torch.Generator().manual_seed(0)))
    assert thin.pictures()[1].shape == (4, 4, 3)
    assert PatchColours().pictures() == {}
