"""What a check found: all problems counted by kind, a few kept. It checks nothing itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

KEPT = 20  # problems of each kind; all are counted, and all are handed to the listener


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        kind: a few words, the same for problems of one sort.
        where: the file or the row.
        text: what is wrong with it, for a person.
    """

    kind: str
    where: str
    text: str


class Findings:
    """Collects problems and notes in memory that does not grow with their number.

    Attributes:
        counts: how many problems of each kind were found.
        kept: the first problems of each kind.
        notes: what a person should know, but is no problem.
    """

    def __init__(self, listener: Callable[[Problem], None] | None = None) -> None:
        self.counts: Counter[str] = Counter()
        self.kept: list[Problem] = []
        self.notes: list[str] = []
        self._listener = listener

    def problem(self, kind: str, where: str, text: str) -> None:
        """Take in a problem."""
        found = Problem(kind, where, text)
        self.counts[kind] += 1
        if self.counts[kind] <= KEPT:
            self.kept.append(found)
        if self._listener is not None:
            self._listener(found)
