"""What one operation costs a GPU: arithmetic, bytes, kernels; and how long a GPU takes for it.

Bytes are those of all inputs and outputs, each once: what does not stay in a cache between two
operations. The rates are what large kernels reach in practice, not what data sheets promise; they
are assumed, not measured by this project, and so are the costs of the host.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

LAUNCH_S = 5e-6  # the host's time to launch a kernel from Python
VIEW_S = 2e-6  # the host's time for an operation that launches nothing
SYNC_S = 17e-6  # until the host goes on after it has waited for the device
SHORTEST_S = 2e-6  # the device's time for the smallest kernel


@dataclass(frozen=True)
class Gpu:
    """What a GPU reaches: FLOP/s by type of the inputs, bytes/s of its memory and from the host."""

    bf16: float
    fp32: float
    int8: float
    memory: float
    host_link: float

    def flops(self, dtype: torch.dtype) -> float:
        """FLOP/s of products of a type."""
        wide = {torch.float32: self.fp32, torch.float64: self.fp32 / 2, torch.int8: self.int8}
        return wide.get(dtype, self.bf16)


GPUS = {
    "h100": Gpu(bf16=700e12, fp32=50e12, int8=1200e12, memory=3.0e12, host_link=40e9),
    "h200": Gpu(bf16=700e12, fp32=50e12, int8=1200e12, memory=4.2e12, host_link=40e9),
    "a100": Gpu(bf16=250e12, fp32=17e12, int8=450e12, memory=1.7e12, host_link=20e9),
    "l4": Gpu(bf16=90e12, fp32=22e12, int8=180e12, memory=0.27e12, host_link=20e9),
}

# How many kernels an operation of ATen launches where it is not one; read from its CUDA sources.
_KERNELS = {
    "eye": 2,
    "nonzero": 4,
    "nonzero_static": 3,
    "sort": 4,
    "argsort": 4,
    "topk": 3,
    "nms": 8,
    "bincount": 6,
    "masked_fill": 2,
    "baddbmm": 2,
}
_WRITE_ONLY = ("zeros", "ones", "full", "fill", "zero_", "arange", "eye", "empty", "linspace")
_INDEXED = ("index", "index_select", "gather")


@dataclass(frozen=True)
class Cost:
    """What an operation asks of a GPU.

    Attributes:
        flops: multiplications and additions.
        dtype: type of what is multiplied.
        bytes: read and written.
        kernels: launches.
        share: the part of the GPU's FLOP/s that this kind of kernel reaches, 0 to 1.
        vector: float32 operations between the products, which do not run beside them.
    """

    flops: float
    dtype: torch.dtype
    bytes: float
    kernels: int = 1
    share: float = 1.0
    vector: float = 0.0

    def seconds(self, gpu: Gpu) -> float:
        """The longer of arithmetic and memory, and never less than the smallest kernels take."""
        arithmetic = self.flops / (gpu.flops(self.dtype) * self.share)
        arithmetic += self.vector / gpu.fp32
        return max(arithmetic, self.bytes / gpu.memory, SHORTEST_S * self.kernels)


def cost_of(
    name: str, function: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any
) -> Cost:
    """The cost of one call of an ATen operation.

    Args:
        name: the operation's name, without its namespace and overload.
        function: the operation.
        args: its arguments.
        kwargs: its named arguments.
        out: what it gave.
    """
    inputs = [x for x in tree_leaves((args, dict(kwargs))) if isinstance(x, Tensor)]
    outputs = [x for x in tree_leaves(out) if isinstance(x, Tensor)]
    first = (inputs or outputs)[0]
    if name.startswith(_WRITE_ONLY):
        size = sum(map(_bytes, outputs))
    elif name in _INDEXED:  # reads what it gives, not all of what it could
        size = 2 * sum(map(_bytes, outputs))
    else:
        size = sum(map(_bytes, inputs)) + sum(map(_bytes, outputs))
    if name == "baddbmm_" and kwargs.get("beta") == 0:
        size -= _bytes(outputs[0])
    flops = _flops(name, function, args, kwargs, out)
    dtype = inputs[-1].dtype if flops and len(inputs) > 1 else first.dtype
    return Cost(flops, dtype, size, _KERNELS.get(name, 1))


def attention_cost(query: Tensor, key: Tensor, value: Tensor) -> Cost:
    """A fused attention: half of what a product reaches; with small heads less."""
    *batch, rows, width = query.shape
    flops = 4.0 * rows * key.shape[-2] * width
    for size in batch:
        flops *= size
    moved = sum(map(_bytes, (query, key, value, query)))
    return Cost(flops, query.dtype, moved, share=0.5 if width >= 64 else 0.2)


def _flops(
    name: str, function: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any
) -> float:
    if name == "_int_mm":
        return 2.0 * args[0].shape[0] * args[0].shape[1] * args[1].shape[1]
    if name in ("baddbmm_", "addmm_"):
        return 2.0 * args[1].numel() * args[2].shape[-1]
    counted = flop_registry.get(function._overloadpacket)
    return 0.0 if counted is None else float(counted(*args, **kwargs, out_val=out))


def _bytes(tensor: Tensor) -> int:
    """Bytes of a tensor; what is only expanded counts once."""
    size = tensor.element_size()
    for length, stride in zip(tensor.shape, tensor.stride(), strict=True):
        size *= length if stride else 1
    return size
