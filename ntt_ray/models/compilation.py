"""How the networks are compiled: ``torch.compile``, on a GPU with CUDA graphs where asked for.

Functions that are compiled here always get tensors of the same shapes. It knows no network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class CompileOptions:
    """What the compiler is asked for.

    Attributes:
        backend: the backend that ``torch.compile`` uses.
        cuda_graphs: record the kernels once and start them together; on a CPU without effect.
    """

    backend: str = "inductor"
    cuda_graphs: bool = False

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A compiled `function`; its first call takes minutes."""
        if not self.cuda_graphs:
            return torch.compile(function, backend=self.backend, dynamic=False)
        # a backend other than inductor has no modes
        mode = "reduce-overhead" if self.backend == "inductor" else None
        compiled = torch.compile(function, backend=self.backend, mode=mode, dynamic=False)

        def with_own_outputs(*arguments: Any, **named: Any) -> Any:
            # a graph writes to the same memory at each start: what it gave must be copied before
            return cloned(compiled(*arguments, **named))

        return with_own_outputs


def cloned(value: Any) -> Any:
    """Copies of all tensors in nested lists, tuples, named tuples and dicts."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {key: cloned(item) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(cloned, value))
    if isinstance(value, list | tuple):
        return type(value)(map(cloned, value))
    if value is None:
        return None
    raise TypeError(f"cannot copy a {type(value).__name__} out of a CUDA graph")
