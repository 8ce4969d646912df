"""What leaves a CUDA graph is copied, because the graph writes there again."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from ntt_ray.models.compilation import CompileOptions, cloned


class _Pair(NamedTuple):
    one: Tensor
    other: tuple[Tensor, ...]


NESTED = {
    "tensor": lambda t: t,
    "list": lambda t: [t, None],
    "dict": lambda t: {"a": t, "b": [t]},
    "named tuple": lambda t: _Pair(t, (t,)),
}


def _tensors(value) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    items = value.values() if isinstance(value, dict) else value or ()
    return [tensor for item in items for tensor in _tensors(item)]


@pytest.mark.parametrize("make", NESTED.values(), ids=NESTED.keys())
def test_a_copy_keeps_its_form_and_shares_no_memory(make):
    original = torch.arange(3.0)
    copy = cloned(make(original))
    assert type(copy) is type(make(original))
    original += 1
    found = _tensors(copy)
    assert len(found) == len(_tensors(make(original)))
    assert all(torch.equal(tensor, torch.arange(3.0)) for tensor in found)


def test_an_unknown_form_is_refused():
    with pytest.raises(TypeError, match="cannot copy a set"):
        cloned({1})


@pytest.mark.slow  # the first to compile in a process imports the compiler
def test_outputs_survive_the_next_call():
    """A function that writes to one buffer, as a CUDA graph does."""
    buffer = torch.zeros(2)
    double = CompileOptions("eager", cuda_graphs=True).compile(
        lambda x: torch.mul(x, 2, out=buffer)
    )
    first = double(torch.ones(2))
    double(torch.full((2,), 5.0))
    assert first.tolist() == [2, 2]
