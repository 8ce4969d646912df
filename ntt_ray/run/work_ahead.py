"""The images of a unit in groups: noted in the journal and taken up ahead of their turn.

While a group is labelled, a thread publishes the note of the next one and takes it up. So labelling
waits for the store only where labelling a group takes less time than publishing a note. It does not
know what taking up is.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from typing import Generic, TypeVar

from ntt_ray.run.journal import UnitJournal

Taken = TypeVar("Taken")


class WorkAhead(Generic[Taken]):
    """Gives the groups of a unit one after the other.

    Whatever is in work stands in the published note at any time: it names the group that is
    labelled, the next one where that is taken up, and what is unfinished of the group before. A
    suspect is taken up when all else is finished, and nothing is taken up beside it.
    """

    def __init__(
        self,
        journal: UnitJournal,
        groups: Sequence[Sequence[int]],
        take_up: Callable[[Sequence[int]], Taken],
        threads: Executor,
    ) -> None:
        """Do nothing yet.

        Args:
            journal: where groups are noted.
            groups: positions of images, see `UnitJournal.groups`.
            take_up: begins with the images of a group; called in one of `threads`.
            threads: publish the notes.
        """
        self._journal, self._take_up, self._threads = journal, take_up, threads
        self._left = deque(groups)
        self._current: Sequence[int] = ()
        self._next: tuple[Sequence[int], Future[Taken]] | None = None

    @property
    def is_ahead(self) -> bool:
        """Whether the next group is taken up, or will be as soon as its note is published."""
        return self._next is not None

    def look_ahead(self, unfinished: Sequence[int] = ()) -> None:
        """Note the next group and take it up, unless it is a suspect or waits for one.

        Args:
            unfinished: positions of images before the current group that are still in work.
        """
        if self._next is not None or not self._left:
            return
        if not (self._is_suspect(self._current) or self._is_suspect(self._left[0])):
            self._begin_next([*unfinished, *self._current])

    def groups(self) -> Iterator[Taken]:
        """Give what came of taking up each group, once it is noted and taken up.

        Where it is not `is_ahead`, all images must be finished before the next group is asked for.

        Raises:
            StorageError: a note cannot be published.
        """
        while self._next is not None or self._left:
            if self._next is None:
                self._begin_next([])
            assert self._next is not None
            group, taken = self._next
            result = taken.result()
            self._current, self._next = group, None
            yield result

    def close(self) -> None:
        """Wait until no note is being published any more."""
        if self._next is not None:
            with contextlib.suppress(Exception):
                self._next[1].result()

    def _is_suspect(self, group: Sequence[int]) -> bool:
        return bool(group) and group[0] in self._journal.deaths

    def _begin_next(self, in_work: list[int]) -> None:
        group = self._left.popleft()

        def begin() -> Taken:
            self._journal.note([*in_work, *group])
            return self._take_up(group)

        self._next = group, self._threads.submit(begin)
