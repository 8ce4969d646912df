"""What is being done, said in the log: as a stage begins, and every ten seconds until it ends."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

logger = logging.getLogger(__name__)
SILENT_S = 10.0  # nobody shall wait longer than that without a line


class Stage:
    """Context manager around something that may take long: it says so, and that it goes on.

    Args:
        what: what is being done, as in ``starting Ray``.
        now: how far it is, said with each further line; empty where there is nothing to say yet.
        at_once: whether it is said as it begins; else only if it takes longer than `every_s`.
        every_s: seconds without a line after which it is said that this goes on.
    """

    def __init__(
        self,
        what: str,
        now: Callable[[], str] | None = None,
        *,
        at_once: bool = True,
        every_s: float = SILENT_S,
    ) -> None:
        self._what, self._now, self._at_once, self._every_s = what, now, at_once, every_s
        self._begun_at = self._heard_at = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="stage", daemon=True)

    def __enter__(self) -> Self:
        self._begun_at = self._heard_at = time.monotonic()
        if self._at_once:
            logger.info("%s", self._what)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()

    def end(self) -> None:
        """Say nothing more; may be called twice."""
        self._ended.set()

    def heard(self) -> None:
        """Note that somebody else said something of it just now."""
        self._heard_at = time.monotonic()

    def _watch(self) -> None:
        while not self._ended.wait(max(0.0, self._heard_at + self._every_s - time.monotonic())):
            now = time.monotonic()
            if now - self._heard_at >= self._every_s:
                self._heard_at = now
                logger.info("%s", self._line(now))

    def _line(self, now: float) -> str:
        """What is said at a moment of the monotonic clock."""
        so_far = self._now() if self._now else ""
        seconds = f"{now - self._begun_at:.0f} s"
        return f"still {self._what}, {seconds}{f': {so_far}' if so_far else ''}"
