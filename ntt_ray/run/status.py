"""How a run is, from what lies in its output: done, to do, pace, failures, is a driver alive.

Reads the run record, the names of the shards, the footers of not too many, and the lock; it changes
nothing, and needs neither the config, nor Ray, nor the models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ntt_ray import storage
from ntt_ray.errors import InputError, RunIncompleteError, reason_of
from ntt_ray.run import record as run_record
from ntt_ray.run.drift_watch import read_alarms
from ntt_ray.run.failures import Allowed
from ntt_ray.run.layout import RECORD_FILE, shard_name
from ntt_ray.run.lock import Holder, read_holder
from ntt_ray.run.part import parts_at_work
from ntt_ray.run.proposal_shard import existing_proposals, keeps_proposals
from ntt_ray.run.shard import existing_shards, iter_batches, open_shard
from ntt_ray.storage import Storage

READERS = 32  # footers read at once; two small requests each
FEW = 20_000  # shards that are looked into unasked: some minutes at the worst
EXAMPLES = 3  # images named for each reason


@dataclass
class Failures:
    """How many images failed for one reason, and a few of them by shard and name.

    Attributes:
        kind: the kind of failure, see `records.Failure`; of older versions ``content``.
        images: how many images failed for this reason.
        examples: shard and file name of a few of them.
    """

    kind: str
    images: int = 0
    examples: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Status:
    """How a run is.

    Attributes:
        output: the prefix of the run, without secrets.
        images: how many images the run has.
        units: how many units the run has.
        units_done: how many of the units have their shard.
        images_done: how many rows the shards have; None where nobody looked into them.
        failures: failed images by reason, the most frequent first; None where nobody looked.
        allowed: how many of the images may fail before the run counts as failed.
        driver: who works on the run, or died over it.
        parts: who works on each part of the run or died over it, by the part's name as in ``2/4``;
            empty where one driver labels all of it.
        drift: alarms in words: units that found something else than all before.
        units_kept: how many units have their proposals; None where the run has none of its own.
    """

    output: str
    images: int
    units: int
    units_done: int
    images_done: int | None
    failures: dict[str, Failures] | None
    allowed: Allowed
    driver: Holder | None
    drift: tuple[str, ...] = ()
    parts: Mapping[str, Holder] = field(default_factory=dict)
    units_kept: int | None = None

    @property
    def failed(self) -> int:
        """Images that failed, as far as they were looked for."""
        return sum(found.images for found in (self.failures or {}).values())

    @property
    def images_per_s(self) -> float | None:
        """As the living drivers say, since they began to label."""
        drivers = [self.driver, *self.parts.values()]
        told = [d.progress.get("images_per_s") for d in drivers if d is not None and d.alive]
        return sum(pace for pace in told if pace is not None) if any(told) else None

    @property
    def left_s(self) -> float | None:
        """Seconds until everything is labelled at this pace."""
        pace = self.images_per_s
        if pace is None or pace <= 0:
            return None
        share = (self.units - self.units_done) / max(1, self.units)
        rest = share * self.images if self.images_done is None else self.images - self.images_done
        return rest / pace

    @property
    def problem(self) -> str | None:
        """Why the exit status may not be 0."""
        if self.units_done < self.units:
            return f"{self.units - self.units_done} of {self.units} units are not done"
        if self.images_done not in (None, self.images):
            return _rows_missing(self.images_done, self.images)
        return self.allowed.problem(self.images, self._reasons())

    @property
    def trouble(self) -> str | None:
        """Why somebody should look now; None where all is done, or a driver may well get there.

        Images that could not be read are tried again at the end, so while a driver is at work only
        those count that failed for good.
        """
        drivers = [self.driver, *self.parts.values()]
        if not any(driver is not None and driver.alive for driver in drivers):
            return self.problem
        if dead := [part for part, driver in self.parts.items() if not driver.alive]:
            return f"the driver of part {', '.join(dead)} died; start it again"
        final = {key: count for key, count in self._reasons().items() if key[0] == "content"}
        return self.allowed.problem(self.images, final)

    def _reasons(self) -> dict[tuple[str, str], int]:
        return _reasons(self.failures or {})


def _rows_missing(rows: int | None, images: int) -> str:
    return f"the shards have {rows} rows for {images} images; label again"


def _reasons(failures: Mapping[str, Failures]) -> dict[tuple[str, str], int]:
    return {(found.kind, why): found.images for why, found in failures.items()}


def preparing_driver(output: str, store: Storage) -> Holder | None:
    """The living driver of an output whose run has not begun: it checks, or builds the bank."""
    driver = read_holder(output, store)
    begun = store.exists(storage.join(output, RECORD_FILE))
    return driver if driver is not None and driver.alive and not begun else None


def read_status(output: str, store: Storage, *, footers: bool | None = None) -> Status:
    """Look at a run, finished or not.

    Args:
        output: the prefix of the run.
        store: access to files.
        footers: whether to look into the shards too, for failures and the exact number of images;
            None: where they are not more than `FEW`.

    Raises:
        InputError: there is no run, or a shard is damaged.
    """
    recorded = run_record.read_record(output, store)
    driver = read_holder(output, store)
    if recorded is None:
        alive = driver is not None and driver.alive
        what = "a driver is preparing one" if alive else "label first"
        raise InputError(f"{storage.redact(output)}: there is no run here yet; {what}")
    plan, job = recorded.plan, recorded.config.get("job", {})
    shards = sorted(existing_shards(output, store) & set(range(plan.units)))
    looked = len(shards) <= FEW if footers is None else footers
    rows, failures = _look_into(output, shards, store) if looked else (None, None)
    return Status(
        output=storage.redact(output),
        images=plan.images,
        units=plan.units,
        units_done=len(shards),
        images_done=rows,
        failures=failures,
        allowed=Allowed(
            float(job.get("max_failed_fraction", 0.0)),
            float(job.get("max_unreachable_fraction", 0)),
        ),
        driver=driver,
        parts={str(part): holder for part, holder in parts_at_work(output, store).items()},
        drift=tuple(alarm["text"] for alarm in read_alarms(output, store)),
        units_kept=_units_kept(output, recorded, store),
    )


def _units_kept(output: str, recorded: run_record.RunRecord, store: Storage) -> int | None:
    if not keeps_proposals(recorded):
        return None
    return len(existing_proposals(output, store) & set(range(recorded.plan.units)))


def check_labelled(output: str, units: Mapping[int, int], allowed: Allowed, store: Storage) -> None:
    """Whether labelling some units may end with exit status 0.

    Args:
        output: the prefix of the run.
        units: how many images each unit has that was to be labelled.
        allowed: how many of the images may fail.
        store: access to files.

    Raises:
        RunIncompleteError: units or rows are missing, or too many images failed.
    """
    shards = sorted(existing_shards(output, store) & set(units))
    if missing := len(units) - len(shards):
        raise RunIncompleteError(f"{missing} of {len(units)} units are not done")
    rows, failures = _look_into(output, shards, store)
    if rows != (images := sum(units.values())):
        raise RunIncompleteError(_rows_missing(rows, images))
    problem = allowed.problem(images, _reasons(failures))
    if problem is not None:
        raise RunIncompleteError(problem)


def _look_into(
    output: str, shards: Sequence[int], store: Storage
) -> tuple[int, dict[str, Failures]]:
    """Rows of the shards together, and their failed images by reason, the most frequent first."""
    rows, failures = 0, dict[str, Failures]()
    with ThreadPoolExecutor(READERS, thread_name_prefix="status") as pool:
        for count, failed in pool.map(partial(_shard, output, store), shards):
            rows += count
            for name, error, kind in failed:
                found = failures.setdefault(reason_of(error), Failures(kind))
                found.images += 1
                if len(found.examples) < EXAMPLES:
                    found.examples.append(name)
    return rows, dict(sorted(failures.items(), key=lambda item: -item[1].images))


def _shard(output: str, store: Storage, unit: int) -> tuple[int, list[tuple[str, str, str]]]:
    """Rows of a shard, and names, errors and kinds of failure of its failed images."""
    with open_shard(output, unit, store) as file:
        count = file.metadata.num_rows
        if not _may_hold_failures(file.metadata):
            return count, []
        batches = iter_batches(file, ("file_name", "error", "failure"))
        rows = [row for batch in batches for row in batch.to_pylist() if row["error"] is not None]
        return count, [
            (
                f"{shard_name(unit)}: {row['file_name']}",
                row["error"],
                row.get("failure") or "content",
            )
            for row in rows
        ]


def _may_hold_failures(footer: Any) -> bool:
    """Whether the footer leaves room for a row with an error."""
    for group in map(footer.row_group, range(footer.num_row_groups)):
        columns = [group.column(index) for index in range(group.num_columns)]
        found = next(column for column in columns if column.path_in_schema == "error").statistics
        if found is None or not found.has_null_count or found.null_count < group.num_rows:
            return True
    return False
