"""Which units may be in work in one process at the same time.

A unit is taken up while the one before is labelled. One over which workers died is in work alone,
so that whatever else happens in the process cannot be laid at its suspects' door, nor theirs at
another unit's.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """Lets units in, as many as come; one that must be alone waits until no other is in work."""

    def __init__(self) -> None:
        self._entrance = threading.Lock()  # one waits for its turn, those behind it wait for that
        self._changed = threading.Condition()
        self._in_work, self._is_alone = 0, False

    @contextmanager
    def in_work(self, *, alone: bool) -> Iterator[None]:
        """Wait for the turn of a unit, which is in work while the context is open."""
        with self._entrance, self._changed:
            self._changed.wait_for(lambda: not self._is_alone and not (alone and self._in_work))
            self._in_work, self._is_alone = self._in_work + 1, alone
        try:
            yield
        finally:
            with self._changed:
                self._in_work, self._is_alone = self._in_work - 1, False
                self._changed.notify_all()
