"""Progress of labelling and merging: a bar on a terminal, and lines in any log."""

from __future__ import annotations

import logging
import time
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

if TYPE_CHECKING:
    from ntt_ray.run.job import Pace, UnitDone

logger = logging.getLogger("ntt_ray")
LINE_EVERY_S = 10.0


def counter(what: str, things: str) -> Progress:
    """A bar that counts, as in ``verifying ━━━ 12/40 shards``; nothing without a terminal."""
    return _bar(what, TextColumn(things))


def _bar(what: str, *columns: ProgressColumn) -> Progress:
    bar = (TextColumn(what), BarColumn(), MofNCompleteColumn(), *columns, TimeRemainingColumn())
    return Progress(*bar, console=console, disable=not console.is_terminal)


class _Shown:
    """Shows a bar as long as it is entered."""

    _progress: Progress

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


class Reporter(_Shown):
    """Progress for people: a bar on a terminal, and one line per unit in any log."""

    def __init__(self) -> None:
        self._pace: Pace | None = None
        self.images_per_s: float | None = None
        rate = TextColumn("images  {task.fields[rate]}")
        self._progress = _bar("labelling", rate, TimeElapsedColumn())
        self._task = self._progress.add_task("label", total=None, rate="")

    def unit(self, unit: UnitDone, done: int, total: int) -> None:
        """Report a finished unit."""
        if self._pace is None:
            from ntt_ray.run.job import Pace

            self._pace = Pace()
        self.images_per_s = rate = self._pace.unit(unit)
        self._progress.update(self._task, completed=done, total=total, rate=f"{rate:.2f} images/s")
        logger.info(
            "unit %d: %d images, %d failed, %d detections; fetch %.1f s, label %.1f s, "
            "write %.1f s%s; %d of %d images, %.2f images/s",
            unit.shard_id,
            unit.images,
            unit.failed,
            unit.detections,
            unit.fetch_s,
            unit.label_s,
            unit.write_s,
            _saved(unit),
            done,
            total,
            rate,
        )


def _saved(unit: UnitDone) -> str:
    """What choosing points has saved; nothing where all are asked."""
    if not unit.points:
        return ""
    seen, share = unit.views - unit.views_skipped, unit.points_asked / unit.points
    return f"; SAM2 saw {seen} of {unit.views} images or tiles, {share:.0%} of the points"


class MergeReporter(_Shown):
    """Progress of a merge: a bar for each profile, and a line now and then in any log."""

    def __init__(self) -> None:
        self._progress = _bar("merging {task.description}", TimeElapsedColumn())
        self._tasks: dict[str, TaskID] = {}
        self._next_line_at = time.monotonic() + LINE_EVERY_S

    def items(self, profile: str, done: int, total: int) -> None:
        """Report items written: images and annotations, or results."""
        if profile not in self._tasks:
            self._tasks[profile] = self._progress.add_task(profile, total=total)
        self._progress.update(self._tasks[profile], completed=done)
        if time.monotonic() >= self._next_line_at:
            self._next_line_at = time.monotonic() + LINE_EVERY_S
            logger.info("merging %s: %d of %d images and instances", profile, done, total)
