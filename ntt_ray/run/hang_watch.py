"""A process that hangs ends itself, so that its unit is tried again elsewhere."""

from __future__ import annotations

import faulthandler
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median

SLOWER = 20  # than the median image is no hang yet
_REMEMBERED = 101  # steps whose time is known


class HangWatch:
    """Ends the process, with a traceback of every thread, where no image is finished for too long.

    It works where all threads wait, and where native code never gives the interpreter back: the
    clock runs in a thread of `faulthandler` that needs no interpreter.
    """

    def __init__(self, hang_s: float) -> None:
        self._hang_s = hang_s
        self._image_s: deque[float] = deque(maxlen=_REMEMBERED)
        self._since = 0.0

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch while the context is open."""
        self._since = time.monotonic()
        self._arm()
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()

    def finished(self, images: int) -> None:
        """Some images are finished: the clock starts anew."""
        now = time.monotonic()
        self._image_s.append((now - self._since) / images)
        self._since = now
        self._arm()

    @property
    def limit_s(self) -> float:
        """Seconds without a finished image after which the process ends."""
        return max(self._hang_s, SLOWER * median(self._image_s)) if self._image_s else self._hang_s

    def _arm(self) -> None:
        faulthandler.dump_traceback_later(self.limit_s, exit=True, file=sys.stderr)
