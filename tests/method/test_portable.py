import math

import pytest
import torch

from ntt_ray.method import portable

POINTS = torch.cat((torch.linspace(-750, 0, 3001, dtype=torch.float64), torch.tensor([-1e-9])))
SHARES = torch.cat(
    (torch.linspace(0, 1, 2001, dtype=torch.float64), torch.tensor([5e-324, 1e-300, 1e-9, 0.7]))
)


def _apart(found, wanted) -> float:
    """The largest error as a share of the wanted values, where these are numbers of full length."""
    full = wanted > 1e-300
    assert (found[~full] <= 1e-299).all()
    return float(((found - wanted).abs() / wanted)[full].max())


def test_the_exponential_is_right_to_the_last_bits():
    wanted = torch.tensor([math.exp(x) for x in POINTS.tolist()], dtype=torch.float64)
    assert _apart(portable.exponential(POINTS), wanted) < 1e-15


@pytest.mark.parametrize("exponent", [0.25, 0.5, 1.0, 3.7])
def test_powers_are_right_to_the_last_bits(exponent):
    wanted = torch.tensor([x**exponent for x in SHARES.tolist()], dtype=torch.float64)
    assert _apart(portable.power(SHARES, exponent), wanted) < 1e-13
    assert portable.power(SHARES, exponent)[0] == 0
    assert portable.power(torch.ones(1, dtype=torch.float64), exponent) == 1


def test_square_roots_are_those_of_ieee():
    roots = portable.square_root(SHARES).tolist()
    assert roots == [math.sqrt(x) for x in SHARES.tolist()]


def test_soft_max_takes_what_is_left_out():
    x = torch.tensor([[0.3, -math.inf, 0.1], [0.0, 0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(portable.soft_max(x, 1), x.softmax(dim=1))


def test_sums_are_in_the_order_of_the_elements():
    x = torch.tensor([[1e16, 1.0, -1e16, 1.0]], dtype=torch.float64)
    assert portable.row_sum(x, 1).tolist() == [1.0]
    vector = torch.tensor([1.0, 1.0, 1.0, 1.0], dtype=torch.float64)
    assert portable.product(x, vector).tolist() == [1.0]
    assert portable.length(torch.tensor([3.0, 4.0], dtype=torch.float64)) == 5


@pytest.mark.parametrize(
    ("ours", "torchs"),
    [
        (portable.exponential, torch.exp),
        (lambda x: portable.power(x.abs(), 0.3), lambda x: x.abs() ** 0.3),
        (lambda x: portable.soft_max(x, 0), lambda x: x.softmax(dim=0)),
        (lambda x: portable.row_sum(x, 0), lambda x: x.sum(dim=0)),
        (portable.length, torch.linalg.vector_norm),
        (lambda x: portable.product(x[None], x), lambda x: x[None] @ x),
        (lambda x: portable.square_root(x.abs()), lambda x: x.abs().sqrt()),
    ],
)
def test_float32_is_left_to_torch(ours, torchs):
    x = torch.randn(997)
    assert torch.equal(ours(x), torchs(x))
