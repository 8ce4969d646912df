"""A kernel in the place of the function that it computes, for as long as they agree.

What is compiled for a GPU depends on its model, driver and compiler: a kernel that was right on one
may not compile on another, or compute something else. So it is compared with the plain function
where it is about to be used, and given up, with one warning, where it fails. It knows no kernel.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any, Generic, ParamSpec, TypeVar

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

LONGEST_REASON = 300  # characters of an error that are logged
RMS_SHARE = 0.25  # tolerance for the root mean square, as a share of that for the largest value

P = ParamSpec("P")
R = TypeVar("R")


class CheckedKernel(Generic[P, R]):
    """Calls a kernel once it has agreed with the plain function, else the plain function.

    The first call that has something to compare computes a few points in both ways, which waits for
    the device; later ones do not. A device that is out of memory says nothing about the kernel:
    `torch.OutOfMemoryError` is raised, and decides nothing.
    """

    def __init__(
        self,
        name: str,
        kernel: Callable[P, R],
        plain: Callable[P, R],
        *,
        few: Callable[P, tuple[Any, ...]],
        tolerance: float,
    ) -> None:
        """Compute nothing yet.

        Args:
            name: what is computed, for the log.
            kernel: may raise whatever it likes; it does not change its arguments.
            plain: the function it stands for, of the same arguments and results: a tensor, or
                tuples of them.
            few: the arguments for a few of the points.
            tolerance: see `disagreement`.
        """
        self._name, self._kernel, self._plain = name, kernel, plain
        self._few, self._tolerance = few, tolerance
        self._agreed: bool | None = None  # None: not compared yet

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """What the plain function returns, from the kernel where that is trusted."""
        if self._agreed is None:
            self._compare(*self._few(*args, **kwargs))
        if self._agreed:
            try:
                return self._kernel(*args, **kwargs)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # where the device is at fault, the plain function raises
                self._give_up(_one_line(error))
        return self._plain(*args, **kwargs)

    def _compare(self, *args: Any) -> None:
        expected = self._plain(*args)  # type: ignore[call-arg]
        if not all(tensor.numel() for tensor in _tensors(expected)):
            return  # no point to compare
        try:
            found = self._kernel(*args)  # type: ignore[call-arg]
            reason = disagreement(found, expected, self._tolerance)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            reason = _one_line(error)
        if reason is None:
            self._agreed = True
        else:
            self._give_up(reason)

    def _give_up(self, reason: str) -> None:
        self._agreed = False
        logger.warning(
            "The GPU kernel for %s is not used, plain torch computes it more slowly: %s",
            self._name,
            reason,
        )


def disagreement(found: Any, expected: Any, tolerance: float) -> str | None:
    """How nested tuples of tensors differ more than they may; None where they agree.

    Args:
        found: what the kernel computed.
        expected: what the plain function computed, with as many tensors.
        tolerance: largest difference in a tensor, as a share of its largest value; the root mean
            square of the differences may be a quarter of that, as a share of the values' own.
    """
    for mine, theirs in zip(_tensors(found), _tensors(expected), strict=True):
        if mine.shape != theirs.shape:
            return f"shape {tuple(mine.shape)}, not {tuple(theirs.shape)}"
        theirs = theirs.double()
        error = mine.double() - theirs
        largest, scale = float(error.abs().max()), float(theirs.abs().max())
        rms, rms_scale = (float(x.square().mean().sqrt()) for x in (error, theirs))
        # NaN is no agreement
        if not (largest <= tolerance * scale and rms <= RMS_SHARE * tolerance * rms_scale):
            return (
                f"it differs by up to {largest:.3g} (root mean square {rms:.3g}) "
                f"from values up to {scale:.3g} ({rms_scale:.3g})"
            )
    return None


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors of nested tuples, from left to right."""
    if isinstance(value, Tensor):
        yield value
    else:
        for item in value:
            yield from _tensors(item)


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:LONGEST_REASON]
