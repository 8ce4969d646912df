"""Progress of labelling and merging: a bar on a terminal, and lines in any log."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Self

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from ntt_ray.cli.app import console
from ntt_ray.stages import Stage

if TYPE_CHECKING:
    from ntt_ray.run.job import Pace, UnitDone

logger = logging.getLogger("ntt_ray")


@contextmanager
def counter(what: str, things: str) -> Iterator[Callable[[int, int], None]]:
    """Gives what takes a count and its end: a bar as in ``verifying ━━━ 12/40 shards``, or lines.

    Without a terminal there is a line every ten seconds.
    """
    so_far = ""
    progress = _bar(what, TextColumn(things))
    task = progress.add_task(what, total=None)

    def count(done: int, total: int) -> None:
        nonlocal so_far
        so_far = f"{done} of {total} {things}"
        progress.update(task, completed=done, total=total)

    with progress, Stage(what, lambda: so_far, at_once=False):
        yield count


def _bar(what: str, *columns: ProgressColumn, left: bool = True) -> Progress:
    bar = (TextColumn(what), BarColumn(20), MofNCompleteColumn(), *columns)
    rest = (TimeRemainingColumn(),) if left else ()
    shown = console.is_terminal
    return Progress(*bar, *rest, console=console, disable=not shown, transient=True)


class Reporter:
    """Progress of labelling: a bar on a terminal, and lines in any log.

    On a terminal the lines of units that went well are for ``--verbose``. Elsewhere each unit has
    its line, and there is one every ten seconds while none ends.
    """

    def __init__(self) -> None:
        self._pace: Pace | None = None
        self.images_per_s: float | None = None
        self._so_far = ""
        self._silence = Stage("labelling", lambda: self._so_far, at_once=False)
        self._progress = _bar("labelling", TextColumn("images  {task.fields[rate]}"), left=False)
        self._task = self._progress.add_task("label", total=None, rate="")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
        self._silence.end()

    def unit(self, unit: UnitDone, done: int, total: int) -> None:
        """Report a finished unit; the first one brings the bar, for there is a pace from now on."""
        if self._pace is None:
            from ntt_ray.run.job import Pace

            self._pace = Pace()
            self._progress.start()
            if not console.is_terminal:
                self._silence.__enter__()
        self.images_per_s = rate = self._pace.unit(unit)
        pace = f"{rate:.2f} images/s, {_time_left((total - done) / max(1e-6, rate))} left"
        self._so_far = f"{done} of {total} images, {pace}"
        self._progress.update(self._task, completed=done, total=total, rate=pace)
        self._silence.heard()
        went_well = not unit.failed and unit.given_back is None
        logger.log(
            logging.DEBUG if console.is_terminal and went_well else logging.INFO,
            "unit %d: %d images, %d failed, %d detections; fetch %.1f s, label %.1f s, "
            "write %.1f s%s; %s",
            unit.shard_id,
            unit.images,
            unit.failed,
            unit.detections,
            unit.fetch_s,
            unit.label_s,
            unit.write_s,
            _saved(unit),
            self._so_far,
        )


def _time_left(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _saved(unit: UnitDone) -> str:
    """What choosing points has saved; nothing where all are asked."""
    if not unit.points:
        return ""
    seen, share = unit.views - unit.views_skipped, unit.points_asked / unit.points
    return f"; SAM2 saw {seen} of {unit.views} images or tiles, {share:.0%} of the points"


class MergeReporter:
    """Progress of a merge: a bar for each profile, and a line now and then in any log."""

    def __init__(self) -> None:
        self._so_far = ""
        self._silence = Stage("merging", lambda: self._so_far, at_once=False)
        self._progress = _bar("merging {task.description}", TimeElapsedColumn())
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        self._silence.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
        self._silence.end()

    def items(self, profile: str, done: int, total: int) -> None:
        """Report items written: images and annotations, or results."""
        if profile not in self._tasks:
            self._tasks[profile] = self._progress.add_task(profile, total=total)
        self._progress.update(self._tasks[profile], completed=done)
        self._so_far = f"{profile}: {done} of {total} images and instances"
