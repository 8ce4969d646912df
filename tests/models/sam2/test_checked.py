"""Kernels that are compared with plain functions before they are used: fakes on the CPU."""

import logging
import re
from typing import NamedTuple

import pytest
import torch

from ntt_ray.models.sam2.decoder.checked import CheckedKernel, disagreement

TOLERANCE = 1e-3


class Calls:
    """A function and how many points it was asked for each time; it may raise instead."""

    def __init__(self, function, raises=()):
        self.function, self.raises, self.points = function, list(raises), []

    def __call__(self, x):
        self.points.append(len(x))
        error = self.raises.pop(0) if self.raises else None
        if error is not None:
            raise error
        return self.function(x)


def double(x):
    return 2 * x


def checked(kernel, plain):
    return CheckedKernel("doubling", kernel, plain, few=lambda x: (x[:2],), tolerance=TOLERANCE)


X = torch.arange(1.0, 7).view(6, 1)


def test_a_kernel_that_agrees_is_used_and_compared_once(caplog):
    kernel, plain = Calls(lambda x: x * 2.0001), Calls(double)
    both = checked(kernel, plain)
    for _ in range(3):
        assert torch.equal(both(X), X * 2.0001)
    assert (kernel.points, plain.points) == ([2, 6, 6, 6], [2])
    assert not caplog.records


FAULTS = {
    "disagrees": (lambda x: 2 * x + 1, [], "differs by up to 1 "),
    "one value is wrong": (lambda x: 2 * x + (x == 2) * 0.1, [], "differs by up to 0.1 "),
    "not a number": (lambda x: x / 0 - x / 0, [], "differs by up to nan"),
    "other shape": (lambda x: 2 * x[:, 0], [], r"shape \(2,\), not \(2, 1\)"),
    "other number of tensors": (lambda x: (2 * x, x), [], "ValueError: zip"),
    "does not compile": (double, [RuntimeError("no\n  registers")], "RuntimeError: no registers"),
    "is not there": (double, [ImportError("No module named 'triton'")], "No module named 'triton'"),
}


@pytest.mark.parametrize(("function", "raises", "reason"), FAULTS.values(), ids=FAULTS.keys())
def test_a_kernel_that_fails_is_given_up_with_one_warning(caplog, function, raises, reason):
    kernel, plain = Calls(function, raises), Calls(double)
    both = checked(kernel, plain)
    for _ in range(3):
        assert torch.equal(both(X), double(X))
    assert (kernel.points, plain.points) == ([2], [2, 6, 6, 6])
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    message = caplog.records[0].getMessage()
    assert "kernel for doubling is not used" in message
    assert re.search(reason, message)
    assert "\n" not in message


def test_a_kernel_that_raises_later_is_given_up_too(caplog):
    kernel, plain = Calls(double, [None, None, RuntimeError("lost")]), Calls(double)
    both = checked(kernel, plain)
    for _ in range(4):
        assert torch.equal(both(X), double(X))
    assert (kernel.points, plain.points) == ([2, 6, 6], [2, 6, 6, 6])
    assert len(caplog.records) == 1


@pytest.mark.parametrize("calls_before", [0, 1, 2])
def test_out_of_memory_is_raised_and_decides_nothing(caplog, calls_before):
    kernel = Calls(double, [None] * calls_before + [torch.OutOfMemoryError("full")])
    both = checked(kernel, Calls(double))
    if calls_before == 2:
        both(X)
    with pytest.raises(torch.OutOfMemoryError):
        both(X)
    kernel.points.clear()
    assert torch.equal(both(X), double(X))
    assert 6 in kernel.points
    assert not caplog.records


def test_a_failure_of_the_plain_function_is_raised():
    both = checked(Calls(double), Calls(double, [RuntimeError("no device")]))
    with pytest.raises(RuntimeError, match="no device"):
        both(X)


def test_no_point_decides_nothing():
    kernel, plain = Calls(lambda x: x + 1), Calls(double)
    both = checked(kernel, plain)
    assert both(X[:0]).shape == (0, 1)
    assert kernel.points == []
    assert torch.equal(both(X), double(X))
    assert kernel.points == [2]


class Pair(NamedTuple):
    left: torch.Tensor
    right: tuple[torch.Tensor, ...]


def test_nested_results_are_compared_tensor_by_tensor():
    values = Pair(torch.ones(3), (torch.full((4,), 1e-3), torch.zeros(2)))
    assert disagreement(values, values, TOLERANCE) is None
    near = values._replace(left=values.left + TOLERANCE / 8)
    assert disagreement(near, values, TOLERANCE) is None
    small = Pair(values.left, (values.right[0] + 1e-5, values.right[1]))
    assert disagreement(small, values, TOLERANCE) is not None


def test_many_small_differences_are_a_disagreement_and_a_single_one_is_not():
    expected = torch.ones(1000)
    error = torch.zeros(1000)
    error[3] = TOLERANCE / 2
    assert disagreement(expected + error, expected, TOLERANCE) is None
    assert disagreement(expected + TOLERANCE / 2, expected, TOLERANCE) is not None


def test_16_bits_are_compared_with_float32():
    expected = torch.linspace(-3, 3, 50)
    assert disagreement(expected, expected.bfloat16(), 2**-7) is None
