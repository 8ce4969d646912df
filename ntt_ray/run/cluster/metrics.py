"""What a run tells Prometheus, through the metrics of Ray: every name, tag and unit is here.

Ray exports ``ray_<name>`` on the metrics port of each node, counters with ``_total`` behind it, and
adds the node and the worker as tags. Counts of actors hold what was done: units that were done
again after a death count twice; what a run holds is in its shards. configs/cluster/grafana.json
shows them all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

from ray.util import metrics

from ntt_ray.errors import reason_of
from ntt_ray.records import PromptWork, Status

M = TypeVar("M", bound=metrics.Metric)

IMAGES = "ntt_ray_images"
FAILURES = "ntt_ray_failures"
DETECTIONS = "ntt_ray_detections"
POINTS = "ntt_ray_points"
UNIT_SECONDS = "ntt_ray_unit_seconds"
GPU_MEMORY = "ntt_ray_gpu_memory_bytes"
UNITS = "ntt_ray_units"
DRIFT_ALARMS = "ntt_ray_drift_alarms"
IMAGES_DONE = "ntt_ray_images_done"
IMAGES_PLANNED = "ntt_ray_images_planned"

SECONDS = [0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0]  # borders of the histogram
REASON_CHARACTERS = 80
REASONS = 30  # more, and the rest is counted as one: each is a series of its own in Prometheus


class Counted(Protocol):
    """What is counted of the row of an image."""

    @property
    def status(self) -> Status:
        """One of ok, empty, failed."""

    @property
    def error(self) -> str | None:
        """Why it failed."""

    @property
    def detections(self) -> Sequence[object]:
        """The objects found in it."""


class ActorMetrics:
    """What a labelling actor tells of its units; tagged with the run's output without secrets."""

    def __init__(self, run: str) -> None:
        self._images = _tagged(
            metrics.Counter, run, IMAGES, "Images labelled, by status (ok, empty, failed)", "status"
        )
        self._failures = _tagged(
            metrics.Counter, run, FAILURES, "Images that failed, by reason", "reason"
        )
        self._detections = _tagged(metrics.Counter, run, DETECTIONS, "Objects found")
        text = "Points of SAM2's grids, asked or saved (method.prompts)"
        self._points = _tagged(metrics.Counter, run, POINTS, text, "outcome")
        self._seconds = _unit_seconds(run)
        self._memory = _tagged(
            metrics.Gauge, run, GPU_MEMORY, "GPU memory of an actor, now and at most", "kind"
        )
        self._reasons: set[str] = set()

    def unit(self, labels: Sequence[Counted], fetch_s: float, label_s: float) -> None:
        """Count a labelled unit."""
        for status, count in Counter(item.status for item in labels).items():
            self._images.inc(count, {"status": status})
        errors = [item.error for item in labels if item.error is not None]
        for reason, count in Counter(map(self._reason, errors)).items():
            self._failures.inc(count, {"reason": reason})
        if detections := sum(len(item.detections) for item in labels):
            self._detections.inc(detections)
        self._seconds.observe(fetch_s, {"part": "fetch"})
        self._seconds.observe(label_s, {"part": "label"})

    def prompts(self, work: PromptWork) -> None:
        """Count the points that were asked, and those that were not worth it."""
        asked = work.points_asked
        for outcome, points in (("asked", asked), ("saved", work.points - asked)):
            if points:
                self._points.inc(points, {"outcome": outcome})

    def gpu_memory(self, reserved_bytes: int, peak_bytes: int) -> None:
        """Tell how much memory the models and their steps take."""
        self._memory.set(reserved_bytes, {"kind": "reserved"})
        self._memory.set(peak_bytes, {"kind": "peak"})

    def _reason(self, error: str) -> str:
        reason = _ascii(reason_of(error))[:REASON_CHARACTERS]
        if reason not in self._reasons and len(self._reasons) >= REASONS:
            return "other reasons"
        self._reasons.add(reason)
        return reason


class DriverMetrics:
    """What the driver tells of the whole run; tagged with its output without secrets."""

    def __init__(self, run: str) -> None:
        self._units = _tagged(metrics.Counter, run, UNITS, "Units written")
        self._seconds = _unit_seconds(run)
        self._done = _tagged(metrics.Gauge, run, IMAGES_DONE, "Images that have their row")
        self._planned = _tagged(metrics.Gauge, run, IMAGES_PLANNED, "Images of the run")
        text = "Times that units found something else than all before"
        self._drift = _tagged(metrics.Counter, run, DRIFT_ALARMS, text)

    def progress(self, done: int, planned: int) -> None:
        """Tell how far the run is."""
        self._done.set(done)
        self._planned.set(planned)

    def unit(self, write_s: float) -> None:
        """Count a unit that was written."""
        self._units.inc()
        self._seconds.observe(write_s, {"part": "write"})

    def drift(self) -> None:
        """Count an alarm."""
        self._drift.inc()


def _ascii(text: str) -> str:
    """A tag as Ray takes it: any other character would be an error."""
    return text.replace("…", "...").encode("ascii", "backslashreplace").decode()


def _tagged(kind: type[M], run: str, name: str, text: str, *keys: str, **options: Any) -> M:
    metric = kind(name, text, tag_keys=("run", *keys), **options)
    metric.set_default_tags({"run": _ascii(run)})
    return metric


def _unit_seconds(run: str) -> metrics.Histogram:
    text = "Seconds of a unit, by part (fetch, label, write)"
    return _tagged(metrics.Histogram, run, UNIT_SECONDS, text, "part", boundaries=SECONDS)
