"""Says when labelling stands still, and why where that can be seen: a full disk under Ray's folder.

A worker that cannot write its log there dies as it starts, and Ray starts the next one, without end
and without a word; with room again the run goes on by itself. It does not stop a run.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from types import TracebackType

logger = logging.getLogger(__name__)

CHECK_S = 5.0
REPEAT_S = 600.0  # between warnings about the same thing, and before a run is said to stand still
LOW_BYTES = 64 << 20
FULL_BYTES = 1 << 20  # said again then, however lately it was said that little room is left


class StallWatch:
    """Context manager that watches Ray's folder on this machine in a thread, and warns."""

    def __init__(self, folder: str | None = None) -> None:
        self._folder = folder or os.environ.get("RAY_TMPDIR") or "/tmp"  # noqa: S108
        self._progress_at = time.monotonic()
        self._warned_at: dict[str, float] = {}
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="stall-watch", daemon=True)

    def __enter__(self) -> StallWatch:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()

    def unit_done(self) -> None:
        """Note that a unit was finished."""
        self._progress_at = time.monotonic()

    def _watch(self) -> None:
        while not self._done.wait(CHECK_S):
            for warning in self.warnings(time.monotonic()):
                logger.warning(warning)

    def warnings(self, now: float) -> list[str]:
        """What there is to say at a moment of the monotonic clock, and was not said lately."""
        found = {}
        quiet_s = now - self._progress_at
        if quiet_s > REPEAT_S:
            found["quiet"] = (
                f"no unit was finished for {quiet_s / 60:.0f} min; units may be large "
                "(job.images_per_unit), or workers may not find room: see the logs in Ray's folder"
            )
        free = shutil.disk_usage(self._folder).free
        if free < LOW_BYTES:
            found["disk full" if free < FULL_BYTES else "disk low"] = (
                f"the disk of {self._folder} has only {free >> 20} MB left; Ray's workers cannot "
                "start when it is full. Make room there: the run then goes on by itself"
            )
        new = [key for key in found if now - self._warned_at.get(key, -REPEAT_S) >= REPEAT_S]
        self._warned_at |= dict.fromkeys(new, now)
        return [found[key] for key in new]
