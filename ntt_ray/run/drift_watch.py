"""What is done about drift: said in the log, kept beside the run, counted, and the end of it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from ntt_ray import storage
from ntt_ray.errors import InputError, RunIncompleteError
from ntt_ray.run.drift import Alarm, Drift, UnitFigures
from ntt_ray.run.job import UnitDone
from ntt_ray.run.layout import DRIFT_FILE, drift_file, is_drift_file
from ntt_ray.run.part import Part
from ntt_ray.storage import Storage

logger = logging.getLogger(__name__)


class DriftWatch:
    """Hears of every unit that ends, and raises the alarms of one start of a run."""

    def __init__(
        self,
        output: str,
        store: Storage,
        part: Part | None,
        units: int,
        *,
        stop: bool,
        on_alarm: Callable[[], None],
    ) -> None:
        """Watch from the first unit on; what earlier starts found stays in the file.

        Args:
            output: the prefix of the run.
            store: access to files.
            part: which part of the run its driver labels, in a file of its own; None: all.
            units: how many units are to be labelled.
            stop: whether a run ends by an alarm.
            on_alarm: called for each alarm.
        """
        self._store, self._stop, self._on_alarm = store, stop, on_alarm
        file = drift_file(None if part is None else (part.number, part.count))
        self._uri = storage.join(output, file)
        self._drift = Drift(units)

    def unit(self, unit: UnitDone) -> None:
        """Take in a unit; those that were given back, or are tried again in part, say nothing.

        Raises:
            RunIncompleteError: something drifts, and the run is to end by that.
            StorageError: an alarm cannot be written.
        """
        if unit.given_back is not None or unit.again:
            return
        figures = UnitFigures(
            unit.shard_id, unit.images - unit.failed, unit.empty, unit.detections, unit.score_sum
        )
        for alarm in self._drift.unit(figures):
            self._raise(alarm)

    def _raise(self, alarm: Alarm) -> None:
        logger.warning("drift: %s; look at the images of these units", alarm)
        self._on_alarm()
        alarms = [*_read(self._uri, self._store), {**asdict(alarm), "text": str(alarm)}]
        text = json.dumps({"format": 1, "alarms": alarms}, indent=1)
        self._store.publish_bytes(self._uri, f"{text}\n".encode())
        if self._stop:
            raise RunIncompleteError(
                f"stopped, because of drift (job.stop_on_drift): {alarm}. Look at the images of "
                "these units; the same command goes on from there"
            )


def read_alarms(output: str, store: Storage) -> list[dict[str, Any]]:
    """The alarms that a run has raised so far, driver by driver; each has its words as `text`.

    Those of one driver stand in the order in which they were raised.

    Raises:
        InputError: a file is damaged.
    """
    parts = sorted(name for name in store.list_folder(output) if is_drift_file(name))
    files = [DRIFT_FILE, *(name for name in parts if name != DRIFT_FILE)]
    return [alarm for name in files for alarm in _read(storage.join(output, name), store)]


def _read(uri: str, store: Storage) -> list[dict[str, Any]]:
    try:
        alarms = json.loads(store.read_bytes(uri))["alarms"]
        if all(isinstance(alarm["text"], str) for alarm in alarms):
            return list(alarms)
    except FileNotFoundError:
        return []
    except (ValueError, TypeError, KeyError):
        pass
    raise InputError(f"{storage.redact(uri)}: damaged; delete it, nothing else needs it")
