"""A run divided among drivers: which units are whose, and the locks that keep them apart.

Each driver of a part prepares the run under the lock of the whole output, one after the other, so
that manifest, bank and record are written once. Then it takes the lock of its part and gives that
of the whole back. A driver of the whole run is refused while any part is at work, and so is one
that divides the run otherwise.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

from ntt_ray import storage
from ntt_ray.errors import ConfigError, OutputLockedError
from ntt_ray.run.layout import LOCK_FILE, part_lock, part_of_lock
from ntt_ray.run.lock import Holder, RunLock, read_holder
from ntt_ray.stages import Stage
from ntt_ray.storage import Storage

TURN_S = 1.0  # between looks at whether another part has prepared
MOST_PARTS = 9_999


@dataclass(frozen=True)
class Part:
    """One of so many parts of a run; the first is 1."""

    number: int
    count: int

    @classmethod
    def of(cls, text: str) -> Part:
        """The part that a text like ``2/4`` names.

        Raises:
            ConfigError: it names none.
        """
        match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
        if match is not None and 1 <= int(match[1]) <= int(match[2]) <= MOST_PARTS:
            return cls(int(match[1]), int(match[2]))
        wanted = f"I/N with I from 1 to N, as in 1/4; N is {MOST_PARTS} at most (it is {text!r})"
        raise ConfigError("the command line has a problem:", [f"--part: {wanted}"])

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def units(self, order: Sequence[int]) -> list[int]:
        """Its share of the units in the run's order: every N-th, so that all are alike."""
        return list(order[self.number - 1 :: self.count])


def parts_at_work(output: str, store: Storage) -> dict[Part, Holder]:
    """Who works on each part of a run, or died over it."""
    named = [(name, part_of_lock(name)) for name in sorted(store.list_folder(output))]
    found = {Part(*part): read_holder(output, store, name) for name, part in named if part}
    return {part: holder for part, holder in found.items() if holder is not None}


class DriverLock:
    """Context manager: the lock of a run, and once that is prepared, of one part of it."""

    def __init__(self, output: str, store: Storage, part: Part | None) -> None:
        self._output, self._store, self._part = output, store, part
        self._held: RunLock | None = None

    def __enter__(self) -> DriverLock:
        self._refuse_others()
        if self._part is None:
            self._held = RunLock(self._output, self._store).__enter__()
        else:
            with Stage("waiting for the driver of another part, which prepares", at_once=False):
                self._held = self._in_turn(str(self._part))
        try:
            self._refuse_others()
        except OutputLockedError:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._held is not None:
            self._held.__exit__(kind, error, trace)
            self._held = None

    def at_work(self) -> RunLock:
        """The lock to label under, now that the run is prepared."""
        assert self._held is not None
        if self._part is not None:
            file = part_lock(self._part.number, self._part.count)
            own = RunLock(self._output, self._store, file).__enter__()
            whole, self._held = self._held, own
            whole.__exit__(None, None, None)
        return self._held

    def _in_turn(self, part: str) -> RunLock:
        """The lock of the output, after the drivers of other parts that prepare it."""
        while True:
            holder = read_holder(self._output, self._store)
            if holder is None or not holder.alive or holder.part is None:
                try:
                    return RunLock(self._output, self._store, LOCK_FILE, part).__enter__()
                except OutputLockedError:
                    holder = read_holder(self._output, self._store)
                    if holder is not None and holder.part is None:
                        raise
            time.sleep(TURN_S)

    def _refuse_others(self) -> None:
        """Refuse to work beside parts that this driver's own units overlap with."""
        for part, holder in parts_at_work(self._output, self._store).items():
            apart = self._part is not None and part.count == self._part.count
            if holder.alive and (part == self._part or not apart):
                raise OutputLockedError(
                    f"{storage.redact(self._output)}: another driver is working on part {part} of "
                    f"this output (process {holder.pid} on {holder.host}, heard of "
                    f"{holder.heard_s:.0f} s ago). Wait for it, or take another of its parts"
                )
            if not holder.alive and self._held is not None and not apart:
                file = part_lock(part.number, part.count)
                self._store.delete(storage.join(self._output, file))  # it died; all is one now
