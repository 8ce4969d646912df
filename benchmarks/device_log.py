"""What a GPU was asked: launches, copies, and where in ntt_ray the host waited for it."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from torch import Tensor

import ntt_ray
from ntt_ray.method.pooling import resize_matrix_on
from ntt_ray.models import inputs

PACKAGE = str(Path(ntt_ray.__file__).parent)


class DeviceLog:
    """What a GPU was asked.

    Attributes:
        launches: operations that launch at least one kernel, by name; views are none.
        syncs: how often the host waited for the device, by what for and by the innermost line of
            ntt_ray, as ``method/pooling.py:38``.
        copies: how often something was copied, by ``to device`` or ``to host`` and by that line.
        host_to_device: bytes copied to the device.
        device_to_host: bytes copied from it.
        largest: elements of the largest tensor that was made, and what made it where.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Start again, as after loading."""
        self.launches: Counter[str] = Counter()
        self.syncs: Counter[tuple[str, str]] = Counter()
        self.copies: Counter[tuple[str, str]] = Counter()
        self.host_to_device = self.device_to_host = 0
        self.largest: tuple[int, str] = (0, "")

    def launched(self, name: str, made: Sequence[Tensor]) -> None:
        """Note an operation and what came of it."""
        self.launches[name] += 1
        for tensor in made:
            if tensor.numel() > self.largest[0]:
                self.largest = tensor.numel(), f"{name} {tuple(tensor.shape)} {product_line()}"

    def waited(self, kind: str, times: int = 1) -> None:
        """Note that the host waited for the device."""
        if times:
            self.syncs[kind, product_line()] += times

    def to_device(self, tensor: Tensor, waits: bool = True) -> None:
        """Note a copy to the device."""
        self.copies["to device", product_line()] += 1
        self.host_to_device += tensor.numel() * tensor.element_size()
        self.waited("to device", int(waits))

    def to_host(self, tensor: Tensor, waits: bool = True) -> None:
        """Note a copy from the device."""
        self.copies["to host", product_line()] += 1
        self.device_to_host += tensor.numel() * tensor.element_size()
        self.waited("to host", int(waits))


def forget_device() -> None:
    """Drop what the product keeps on a device, before and after that is not a real one."""
    resize_matrix_on.cache_clear()
    inputs._imagenet.cache_clear()


def product_line() -> str:
    """The innermost line of ntt_ray that is being run, by its path in the package."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        path = frame.f_code.co_filename
        if path.startswith(PACKAGE):
            return f"{path[len(PACKAGE) + 1 :]}:{frame.f_lineno}"
        frame = frame.f_back
    return "outside"
