"""What a labeller would ask of a GPU, counted on tensors that have no content.

`DeviceQueue` stands above torch's fake tensors: the product's own code runs, on a machine without a
GPU, at the published sizes, and every operation is logged with its cost and the part of the
labeller it belongs to. Where the host asks for content (a synchronisation), an assumed answer is
given and the line that asked is noted; a question without an assumed answer is an error.
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import CodeType
from typing import Any, Protocol
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import ntt_ray
from benchmarks.device_costs import LAUNCH_S, SYNC_S, VIEW_S, Cost, Gpu, attention_cost, cost_of
from benchmarks.pretend_cuda import DoneEvent, DoneStream

PACKAGE = str(Path(ntt_ray.__file__).parent) + "/"


class Answers(Protocol):
    """What is assumed where content would decide; both may refuse by NotImplementedError."""

    def rows(self, part: str, name: str, given: Tensor) -> int:
        """How many rows an operation gives: the part of the labeller, the operation, its input."""

    def values(self, part: str, asked: Tensor) -> Any:
        """The values of a tensor that the host asks for, in nested lists."""


@dataclass(frozen=True)
class Event:
    """Something that the host did.

    Attributes:
        part: the part of the labeller that did it.
        name: the name of the operation.
        cost: what the kernel costs; None where nothing was launched.
        copied: bytes between host and device.
        waits: whether the host waited for the device.
        line: the line of the product that asked.
        elsewhere: whether another thread did it, while the host went on.
    """

    part: str
    name: str
    cost: Cost | None = None
    copied: int = 0
    waits: bool = False
    line: str = ""
    elsewhere: bool = False


@dataclass
class Part:
    """Sums over the events of a part.

    Attributes:
        launches: kernels.
        syncs: how often the host waited, by the line of the product that asked.
        elsewhere: how often another thread waited in its place, likewise.
        flops: multiplications and additions, by type.
        bytes: read and written by kernels.
        copied: bytes between host and device.
        by_name: the costs by operation.
    """

    launches: int = 0
    syncs: Counter[str] = field(default_factory=Counter)
    elsewhere: Counter[str] = field(default_factory=Counter)
    flops: Counter[str] = field(default_factory=Counter)
    bytes: float = 0.0
    copied: int = 0
    by_name: dict[str, list[Cost]] = field(default_factory=lambda: defaultdict(list))

    def seconds(self, gpu: Gpu) -> float:
        """The device's time for all kernels, one after the other."""
        return sum(cost.seconds(gpu) for costs in self.by_name.values() for cost in costs)


class DeviceQueue(TorchDispatchMode):
    """Logs what is done to fake tensors on ``cuda``.

    Attributes:
        events: what was done, in order.
    """

    def __init__(self, parts: Mapping[str, Sequence[Callable[..., Any]]], answers: Answers) -> None:
        """Prepare to log.

        Args:
            parts: the functions of each part of the labeller; the innermost that runs counts.
            answers: what is assumed where content decides.
        """
        super().__init__()
        self.events: list[Event] = []
        self.answers = answers
        self._parts: dict[CodeType, str] = {}
        for part, functions in parts.items():
            for function in functions:
                plain = getattr(function, "__wrapped__", function)
                self._parts[plain.__code__] = part

    def kernel(self, name: str, part: str, cost: Cost) -> None:
        """Log a kernel that is not one of torch's."""
        self.events.append(Event(part, name, cost))

    def copy(self, name: str, size: int, waits: bool) -> None:
        """Log a copy between host and device."""
        part, line = self._place()
        self.events.append(Event(part, name, copied=size, waits=waits, line=line))

    @contextmanager
    def in_another_thread(self) -> Iterator[None]:
        """What is done in a block, another thread does."""
        start = len(self.events)
        yield
        self.events[start:] = [replace(event, elsewhere=True) for event in self.events[start:]]

    def values(self, tensor: Tensor) -> Any:
        """The values of a tensor, as they are assumed; the device is waited for."""
        if _is_on_device(tensor):
            self.copy("tolist", tensor.numel() * tensor.element_size(), waits=True)
        return self.answers.values(self._place()[0], tensor)

    def parts(self) -> dict[str, Part]:
        """Sums by part, in the order in which the parts began."""
        found: dict[str, Part] = {}
        for event in self.events:
            part = found.setdefault(event.part, Part())
            part.copied += event.copied
            if event.waits:
                waiting = part.elsewhere if event.elsewhere else part.syncs
                waiting[f"{event.line} {event.name}"] += 1
            if event.cost is not None:
                part.launches += event.cost.kernels
                part.flops[str(event.cost.dtype)[6:]] += event.cost.flops  # type: ignore[assignment]
                part.bytes += event.cost.bytes
                part.by_name[event.name].append(event.cost)
        return found

    def seconds(self, gpu: Gpu) -> float:
        """Until both are done: the host launches ahead, the device works one by one, waits count.

        Both start at 0 with nothing to do. What another thread does takes the device's time alone.
        """
        host = device = 0.0
        for event in self.events:
            took = VIEW_S if event.cost is None else LAUNCH_S * event.cost.kernels
            host += 0.0 if event.elsewhere else took
            if event.cost is not None:
                device = max(device, host) + event.cost.seconds(gpu)
            if event.copied:
                device = max(device, host) + event.copied / gpu.host_link
            if event.waits and not event.elsewhere:
                host = max(host, device) + SYNC_S
        return max(host, device)

    def __torch_dispatch__(
        self,
        function: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = function._schema.name.split("::")[-1]
        on_device = any(_is_on_device(x) for x in tree_leaves((args, kwargs)))
        if function.namespace == "prim":
            return function(*args, **kwargs)
        if not on_device and torch.device(kwargs.get("device") or "cpu").type != "cuda":
            return function(*args, **kwargs)
        if name == "scaled_dot_product_attention":
            self.events.append(Event(self._place()[0], name, attention_cost(*args[:3])))
            return torch.empty_like(args[0])
        if _is_composite(function):
            with self:
                return function._op_dk(
                    torch._C.DispatchKey.CompositeImplicitAutograd, *args, **kwargs
                )
        if (assumed := self._assumed(name, args, kwargs)) is not None:
            return assumed
        out = function(*args, **kwargs)
        self._log(name, function, args, kwargs, out)
        return out

    def _assumed(self, name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """What an operation gives whose shape the content decides; None for all others."""
        part, line = self._place()
        if name in ("nonzero", "nms"):
            given = args[0]
            rows = self.answers.rows(part, name, given)
            shape = (rows, given.ndim) if name == "nonzero" else (rows,)
        elif name == "index" and (masks := [x for x in args[1] if _is_mask(x)]):
            if len(args[1]) > 1 or masks[0].ndim > 1:
                raise NotImplementedError(f"{line}: an index by several masks")
            given, rows = args[0], self.answers.rows(part, name, masks[0])
            shape = (rows, *given.shape[1:])
        elif name == "bincount":
            given, shape = args[0], (kwargs.get("minlength") or args[-1],)
        elif name == "_local_scalar_dense":
            raise NotImplementedError(f"{line}: a number is asked of the device")
        else:
            return None
        out = given.new_empty(shape, dtype=given.dtype if name == "index" else torch.int64)
        cost = cost_of(name, _NoFlops, [given], {}, out)
        self.events.append(Event(part, name, cost, waits=True, line=line))
        return out

    def _log(
        self, name: str, function: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any
    ) -> None:
        part, line = self._place()
        if name in ("_to_copy", "copy_"):
            source, target = (args[1], args[0]) if name == "copy_" else (args[0], out)
            if _is_on_device(source) != _is_on_device(target):
                waits = not kwargs.get("non_blocking", len(args) > 2 and bool(args[2]))
                size = source.numel() * source.element_size()
                self.events.append(Event(part, name, copied=size, waits=waits, line=line))
                return
        if _is_view(function, name):
            self.events.append(Event(part, name))
        elif any(_is_on_device(x) and x.numel() for x in tree_leaves(out)):
            cost = cost_of(name, function, args, kwargs, out)
            self.events.append(Event(part, name, cost))

    def _place(self) -> tuple[str, str]:
        """The part that runs, and the product's innermost line."""
        part, line = "", ""
        frame = sys._getframe(1)
        while frame is not None:
            code = frame.f_code
            part = part or self._parts.get(code, "")
            if not line and code.co_filename.startswith(PACKAGE):
                line = f"{code.co_filename.removeprefix(PACKAGE)}:{frame.f_lineno}"
            frame = frame.f_back  # type: ignore[assignment]
        return part or "other", line


class _Asked(TorchFunctionMode):
    """Answers what needs content on the host, where it does not matter what is there."""

    def __torch_function__(
        self,
        function: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if function is Tensor.pin_memory:
            return args[0]
        if function is torch.split:  # by numbers of rows that were only assumed
            return args[:1]
        if function is Tensor.numpy:
            return np.zeros(tuple(args[0].shape), dtype=np.int64)
        return function(*args, **(kwargs or {}))


class _NoFlops:
    _overloadpacket = None


@contextmanager
def on_fake_device(log: DeviceQueue, fake: FakeTensorMode) -> Iterator[None]:
    """Log what is done in a block, which sees fake tensors and a device."""
    torch._C._ensureCUDADeviceGuardSet()
    asked = mock.patch.object(FakeTensor, "tolist", lambda tensor: log.values(tensor))
    streams = mock.patch.multiple(torch.cuda, Event=DoneEvent, current_stream=DoneStream)
    with asked, streams, fake, torch.inference_mode(), _Asked(), log:
        yield


def as_fake(model: torch.nn.Module, fake: FakeTensorMode) -> torch.nn.Module:
    """Take the content out of a model's tensors; its `to` moves them by name only."""

    def replace(change: Callable[[Tensor], Tensor]) -> None:
        for module in model.modules():
            for key, parameter in list(module._parameters.items()):
                if parameter is not None:
                    changed = change(parameter.detach())
                    module._parameters[key] = torch.nn.Parameter(changed, requires_grad=False)
            for key, buffer in list(module._buffers.items()):
                if buffer is not None:
                    module._buffers[key] = change(buffer)

    def to(*args: Any, **kwargs: Any) -> torch.nn.Module:
        dtype = next((x for x in (*args, *kwargs.values()) if isinstance(x, torch.dtype)), None)

        def moved(tensor: Tensor) -> Tensor:
            kept = tensor.dtype if dtype is None or not tensor.is_floating_point() else dtype
            return torch.empty(tensor.shape, dtype=kept, device="cuda")

        replace(moved)
        return model

    replace(fake.from_tensor)
    model.to = to  # type: ignore[method-assign,assignment]
    return model


def _is_on_device(value: Any) -> bool:
    return isinstance(value, Tensor) and value.device.type == "cuda"


def _is_mask(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype in (torch.bool, torch.uint8)


def _is_composite(function: Any) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(
        function.name(), "CompositeImplicitAutograd"
    )


def _is_view(function: Any, name: str) -> bool:
    aliases = [item.alias_info for item in function._schema.returns]
    if any(alias is not None and not alias.is_write for alias in aliases):
        return True
    return name in (
        "_unsafe_view",
        "empty",
        "empty_like",
        "new_empty",
        "empty_strided",
        "lift_fresh",
    )
