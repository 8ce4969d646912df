"""Tensors that say they are on ``cuda:0`` and compute on the CPU, and a log of what a GPU is asked.

    with PretendCuda() as log:
        labels = labeler_on("cuda").label(images)
    log.launches, log.syncs, log.host_to_device, log.device_to_host

Code for a GPU can so be run where there is none: it takes the ways it takes there, and
`MixedDevicesError` is raised where CUDA would refuse to. What it costs there is counted, not timed.

The thread that enters the context makes such tensors, and whatever thread works on a stream; any
thread may compute with them. Their kernels are the CPU's: what the GPU's compute otherwise, this
does not show.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from benchmarks.device_log import DeviceLog, forget_device, product_line

CUDA = torch.device("cuda", 0)
PINNED_KEPT = 64  # page-locked tensors that are remembered as such

# How often the host waits in an operation, beyond what it copies: for the number of elements that
# come of it, or for numbers that are checked.
_WAITS = Counter(
    {
        "nonzero": 1,
        "nms": 1,
        "masked_select": 1,
        "_unique2": 1,
        "unique_dim": 1,
        "unique_consecutive": 1,
        "repeat_interleave": 1,
        "equal": 1,
        "bincount": 2,
    }
)
_INDEXING = frozenset({"index", "index_put", "index_put_", "_unsafe_index", "_index_put_impl_"})
# Not taken apart into simpler operations, as others are that torch composes: attention is one
# kernel on a GPU, and parts of the rest would be made on the device without asking here.
_WHOLE = ("scaled_dot_product_attention", "where", "upsample", "_upsample")
_COPIED_FROM_HOST = frozenset({torch.tensor, torch.as_tensor, torch.asarray})


class MixedDevicesError(RuntimeError):
    """What CUDA refuses: tensors of two devices, or a tensor of the device read by the host."""


class PretendTensor(Tensor):
    """A tensor that says it is on `CUDA`; its content, `inner`, is on the CPU."""

    inner: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: Tensor) -> PretendTensor:
        return Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=CUDA,
        )

    def __init__(self, inner: Tensor) -> None:
        self.inner = inner

    def __repr__(self, **_: Any) -> str:
        return f"PretendTensor({self.inner!r})"

    @classmethod
    def __torch_dispatch__(
        cls,
        function: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        return _run(function, args, dict(kwargs or {}))

    # torch refuses these for tensors of other classes
    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise MixedDevicesError(f"numpy() of a tensor of the device, at {product_line()}")

    __array__ = numpy


class PretendCuda:
    """Makes ``cuda`` mean `PretendTensor`, in this thread and in those that use its streams.

    Entering gives the log. All of it is in torch's inference mode, where such tensors are views
    without a history. Streams and events are there, and order nothing: all is done at once.
    """

    def __init__(self) -> None:
        self.log = DeviceLog()
        self._open = ExitStack()

    def __enter__(self) -> DeviceLog:
        global _log
        torch._C._ensureCUDADeviceGuardSet()
        before = _log
        overwrite = torch.__future__.get_overwrite_module_params_on_conversion()
        self._open.callback(_set_log, before)
        self._open.callback(torch.__future__.set_overwrite_module_params_on_conversion, overwrite)
        # a module's parameters cannot become those of a device in place here
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        _log = self.log
        forget_device()
        self._open.callback(forget_device)
        named = {
            "Event": DoneEvent,
            "Stream": DoneStream,
            "stream": _on,
            "current_stream": DoneStream,
        }
        self._open.enter_context(mock.patch.multiple(torch.cuda, **named))
        self._open.enter_context(torch.inference_mode())
        self._open.enter_context(_Pretending())
        return self.log

    def __exit__(self, *_: object) -> None:
        self._open.close()


def _set_log(log: DeviceLog) -> None:
    global _log
    _log = log


class DoneEvent:
    """An event of a device that has done everything already."""

    def record(self, stream: object = None) -> None:
        """Mark what was asked so far."""

    def synchronize(self) -> None:
        """Wait for nothing."""


class DoneStream:
    """A stream of a device that does everything at once."""

    def __init__(self, device: object = None) -> None:
        del device

    def wait_event(self, event: object) -> None:
        """Wait for nothing."""


@contextmanager
def _on(stream: object) -> Iterator[None]:
    """Work on a stream, in whatever thread this is."""
    del stream
    with _Pretending():
        yield


class _Pretending(TorchFunctionMode):
    """What functions of torch do while a thread pretends."""

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = dict(kwargs or {})
        if function is Tensor.to:
            return _moved(*args, **named)
        if function is torch._C._nn._parse_to:  # reads the arguments of a module's `to`
            return function(*args, **named)
        if function is Tensor.cuda:
            return _moved(args[0], CUDA, **named)
        if function is Tensor.pin_memory:
            return _pinned_copy(args[0])
        if function is Tensor.is_pinned:
            return _is_pinned(args[0])
        if function is torch.nn.functional.scaled_dot_product_attention:
            return _attention(function, args, named)
        pinned = bool(named.pop("pin_memory", False))
        if _is_cuda(named.get("device")):
            made = function(*args, **{**named, "device": "cpu"})
            if function in _COPIED_FROM_HOST:
                _log.to_device(made)
            elif "empty" not in function.__name__:
                _log.launched(function.__name__, [made])
            return PretendTensor(made)
        made = function(*args, **named)
        return _pinned_copy(made) if pinned else made


_log = DeviceLog()
_pinned: deque[torch.UntypedStorage] = deque(maxlen=PINNED_KEPT)


def _run(function: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """One operation of torch that sees a `PretendTensor`."""
    name = function._schema.name.split("::")[-1]
    composite = torch._C.DispatchKey.CompositeImplicitAutograd
    if not name.startswith(_WHOLE) and function.has_kernel_for_dispatch_key(composite):
        return function._op_dk(composite, *args, **kwargs)
    if name == "_to_copy" and not _is_cuda(kwargs.get("device", CUDA)):
        waits = not kwargs.get("non_blocking", False)
        _log.to_host(args[0].inner, waits)
        return function(args[0].inner, **kwargs)
    if name == "copy_":
        return _copied_into(args[0], args[1], *args[2:], **kwargs)
    if name == "_local_scalar_dense":
        _log.to_host(args[0].inner)
        return function(args[0].inner)
    _check_devices(name, args, kwargs)
    if name == "_int_mm":
        _check_int_mm(*args)
    for index in args[1] if name in _INDEXING else ():
        if index is not None and index.dtype in (torch.bool, torch.uint8):
            _log.waited("boolean index")
    _log.waited(name, _WAITS[name])
    inner = tree_map(_inner, kwargs)
    if inner.get("device") is not None:
        inner["device"] = torch.device("cpu")
    found = function(*tree_map(_inner, args), **inner)
    made = list(_tensors(found))
    has_content = any(tensor.numel() for tensor in made) or not made
    if not _is_view(function) and (has_content or _WAITS[name]):
        _log.launched(name, made)
    written = _written(function, args, kwargs)
    return tree_map(_wrapped, found) if written is None else written


def _moved(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """``tensor.to(...)``, where the device may be the pretended one."""
    kwargs.pop("copy", None)
    device, dtype, non_blocking, _ = torch._C._nn._parse_to(*args, **kwargs)
    if not _is_cuda(device) or isinstance(tensor, PretendTensor):
        if _is_cuda(device):
            return tensor if dtype is None else Tensor.to(tensor, dtype)
        return Tensor.to(tensor, *args, **kwargs)
    _log.to_device(tensor, waits=not (non_blocking and _is_pinned(tensor)))
    moved = PretendTensor(tensor.detach().clone().as_subclass(Tensor))
    return moved if dtype is None else Tensor.to(moved, dtype)


def _copied_into(target: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
    on_device = isinstance(target, PretendTensor), isinstance(source, PretendTensor)
    if on_device == (True, False):
        _log.to_device(source, waits=not (non_blocking and _is_pinned(source)))
    elif on_device == (False, True):
        _log.to_host(_inner(source), waits=not (non_blocking and _is_pinned(target)))
    elif target.numel() and _inner(target).data_ptr() != _inner(source).data_ptr():
        _log.launched("copy_", [])
    _inner(target).copy_(_inner(source))
    return target


def _attention(function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Attention as the one operation that it is on a GPU."""
    if not any(isinstance(tensor, PretendTensor) for tensor in args):
        return function(*args, **kwargs)
    _check_devices("scaled_dot_product_attention", args, kwargs)
    found = function(*map(_inner, args), **tree_map(_inner, kwargs))
    _log.launched("scaled_dot_product_attention", [found])
    return PretendTensor(found)


def _check_devices(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Refuse what CUDA refuses; a single number may be the host's, and so may an index."""
    others = [t for t in _tensors((args, kwargs)) if not isinstance(t, PretendTensor)]
    others = [tensor for tensor in others if tensor.dim()]
    if name in _INDEXING and isinstance(args[0], PretendTensor):
        indices = [tensor for tensor in args[1] if any(tensor is other for other in others)]
        for index in indices:
            _log.to_device(index)
        others = [tensor for tensor in others if not any(tensor is index for index in indices)]
    if others:
        shapes = [tuple(tensor.shape) for tensor in others]
        raise MixedDevicesError(
            f"{name}: tensors of the CPU {shapes} among the device's, at {product_line()}"
        )


def _check_int_mm(a: Tensor, b: Tensor) -> None:
    """What CUDA wants of an integer product and the CPU does not."""
    if a.shape[0] <= 16 or a.shape[1] % 8 or b.shape[1] % 8:
        shapes = tuple(a.shape), tuple(b.shape)
        raise MixedDevicesError(
            f"_int_mm: more than 16 rows and multiples of 8 are wanted, not {shapes}"
        )


def _is_view(function: Any) -> bool:
    """Whether an operation launches nothing: it gives a view, or memory without content."""
    returned = [item.alias_info for item in function._schema.returns]
    views = any(alias is not None and not alias.is_write for alias in returned)
    return views or any(word in function._schema.name for word in ("empty", "view"))


def _written(function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor | None:
    """The argument that an operation writes to and gives back, if it is such a one."""
    returned = function._schema.returns
    if not returned or returned[0].alias_info is None or not returned[0].alias_info.is_write:
        return None
    for position, argument in enumerate(function._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            written = kwargs.get(argument.name, args[position] if position < len(args) else None)
            return written if isinstance(written, Tensor) else None
    return None


def _pinned_copy(tensor: Tensor) -> Tensor:
    if isinstance(tensor, PretendTensor):
        raise MixedDevicesError(f"pin_memory() of a tensor of the device, at {product_line()}")
    copy = tensor.clone()
    _pinned.append(copy.untyped_storage())
    return copy


def _is_pinned(tensor: Tensor) -> bool:
    if isinstance(tensor, PretendTensor):
        return False
    address = tensor.untyped_storage().data_ptr()
    return any(storage.data_ptr() == address for storage in _pinned)


def _is_cuda(device: Any) -> bool:
    return device is not None and torch.device(device).type == "cuda"


def _tensors(tree: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))


def _inner(value: Any) -> Any:
    return value.inner if isinstance(value, PretendTensor) else value


def _wrapped(value: Any) -> Any:
    is_plain = isinstance(value, Tensor) and not isinstance(value, PretendTensor)
    return PretendTensor(value) if is_plain else value
