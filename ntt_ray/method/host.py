"""The host's part of the method, in a thread that waits for the device in place of its caller.

So whoever gives the device its work goes on with the next step, while this thread fetches what came
of the last one. It does not know the method.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

import torch

P = ParamSpec("P")
Result = TypeVar("Result")


class Host:
    """One thread; what it is given is done in that order."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="host")
        self._stream: Any = None

    def submit(
        self,
        device: torch.device,
        function: Callable[P, Result],
        *arguments: P.args,
        **options: P.kwargs,
    ) -> Future[Result]:
        """Call a function once the device has done all that it was given so far.

        On a GPU the function works on a stream of its own, beside what is asked of the device next.
        The last that it asks of the device must be a copy to the host that it waits for: memory of
        its arguments belongs to the caller's stream, and may be used anew when it returns.
        """
        cuda: Any = torch.cuda
        ready = None
        if device.type == "cuda":
            ready = cuda.Event()
            ready.record(cuda.current_stream(device))

        def call() -> Result:
            with torch.inference_mode(), self._after(ready, device):
                return function(*arguments, **options)

        return self._thread.submit(call)

    @contextmanager
    def _after(self, ready: Any, device: torch.device) -> Iterator[None]:
        if ready is None:
            yield
            return
        cuda: Any = torch.cuda
        if self._stream is None:
            self._stream = cuda.Stream(device)
        with cuda.stream(self._stream):
            self._stream.wait_event(ready)
            yield
