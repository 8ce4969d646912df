import numpy as np
import torch

from ntt_ray.proposals.fixed_point import ONE, from_fixed, to_fixed


def test_numbers_come_back_to_the_nearest():
    numbers = torch.linspace(-1, 1, 1001)
    assert (from_fixed(to_fixed(numbers)) - numbers.double()).abs().max() <= 1 / ONE
    inside = numbers[1:-1]
    assert (from_fixed(to_fixed(inside)) - inside.double()).abs().max() <= 0.5 / ONE
    assert to_fixed(torch.tensor([1.0, -1.0])).tolist() == [2**15 - 1, -(2**15)]


def test_products_are_the_integers_they_stand_for():
    """In whatever order they are added up, and whatever else is multiplied beside them."""
    features = torch.nn.functional.normalize(torch.randn(70, 1024), dim=1)
    classes = torch.nn.functional.normalize(torch.randn(90, 1024), dim=1)
    left, right = to_fixed(features), to_fixed(classes)
    exact = left.numpy().astype(np.int64) @ right.numpy().astype(np.int64).T
    products = from_fixed(left) @ from_fixed(right).T
    assert ((products * ONE**2).numpy() == exact).all()
    for rows, columns in ((1, 90), (37, 1), (3, 79)):
        part = from_fixed(left[:rows]) @ from_fixed(right[:columns]).T
        assert torch.equal(part, products[:rows, :columns])
