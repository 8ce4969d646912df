"""Metrics: their names, what is counted, and a dashboard that asks for exactly these."""

import json
import re

import pytest

from ntt_ray.records import Detection, ImageEntry, ImageLabels, PromptWork
from ntt_ray.run.cluster import metrics
from tests.support.paths import ROOT

DASHBOARD = ROOT / "configs" / "cluster" / "grafana.json"
COUNTERS = {
    metrics.IMAGES,
    metrics.FAILURES,
    metrics.DETECTIONS,
    metrics.UNITS,
    metrics.POINTS,
    metrics.DRIFT_ALARMS,
}
GAUGES = {metrics.GPU_MEMORY, metrics.IMAGES_DONE, metrics.IMAGES_PLANNED}
EXPORTED = {
    *(f"ray_{name}_total" for name in COUNTERS),
    *(f"ray_{name}" for name in GAUGES),
    *(f"ray_{metrics.UNIT_SECONDS}_{part}" for part in ("sum", "count", "bucket")),
}


class Recorder:
    """Takes the place of Ray's metrics: they are counted in another process, out of our sight."""

    def __init__(self) -> None:
        self.told: dict[tuple, float] = {}

    def kind(self, add: bool):
        recorder = self

        class Metric:
            def __init__(self, name, description, keys=(), *, boundaries=(), tag_keys=()):
                self._name, self._keys, self._tags = name, {*keys, *tag_keys}, {}

            def set_default_tags(self, tags):
                self._tags = tags
                return self

            def inc(self, value=1, tags=None):
                assert value > 0  # Ray refuses 0
                everything = {**self._tags, **(tags or {})}
                assert set(everything) == self._keys
                assert all(tag.isascii() for tag in everything.values())  # Ray refuses others
                key = (self._name, *sorted(v for k, v in everything.items() if k != "run"))
                recorder.told[key] = value + (recorder.told.get(key, 0) if add else 0)

            set = observe = inc

        return Metric


@pytest.fixture
def told(monkeypatch):
    recorder = Recorder()
    for name, add in (("Counter", True), ("Gauge", False), ("Histogram", True)):
        monkeypatch.setattr(metrics.metrics, name, recorder.kind(add))
    return recorder.told


def _labels(error: str | None = None, detections: int = 0) -> ImageLabels:
    entry = ImageEntry(1, "a.jpg", "/a.jpg")
    if error is not None:
        return ImageLabels.failed(entry, error)
    one = Detection(1, 0.5, 0.5, (0.0, 0.0, 1.0, 1.0), 1, {"size": [1, 1], "counts": "01"})
    return ImageLabels.labelled(entry, (1, 1), (one,) * detections)


def test_a_unit_is_counted_by_status_and_reason(told):
    actor = metrics.ActorMetrics("s3://bucket/ünï")
    timeouts = [_labels(f"timeout: not read within {seconds} s") for seconds in (5, 60)]
    timeouts.append(_labels("reading s3://bucket/é.jpg: denied"))
    labels = [_labels(detections=2), _labels(), *timeouts, _labels("there is no such file")]
    actor.unit(labels, 1.5, 2.5)
    actor.unit([_labels(detections=1)], 0.5, 1.0)
    actor.gpu_memory(10, 20)
    assert told == {
        (metrics.IMAGES, "ok"): 2,
        (metrics.IMAGES, "empty"): 1,
        (metrics.IMAGES, "failed"): 4,
        (metrics.FAILURES, "reading ... denied"): 1,
        (metrics.FAILURES, "timeout: not read within N s"): 2,
        (metrics.FAILURES, "there is no such file"): 1,
        (metrics.DETECTIONS,): 3,
        (metrics.UNIT_SECONDS, "fetch"): 2.0,
        (metrics.UNIT_SECONDS, "label"): 3.5,
        (metrics.GPU_MEMORY, "reserved"): 10,
        (metrics.GPU_MEMORY, "peak"): 20,
    }


def test_points_are_counted_where_they_are_chosen(told):
    actor = metrics.ActorMetrics("run")
    actor.prompts(PromptWork())
    assert told == {}
    actor.prompts(PromptWork(views=2, views_skipped=1, points=20, points_asked=4))
    actor.prompts(PromptWork(views=1, views_skipped=1, points=10, points_asked=0))
    assert told == {(metrics.POINTS, "asked"): 4, (metrics.POINTS, "saved"): 26}


def test_reasons_are_bounded(told):
    actor = metrics.ActorMetrics("run")
    letters = ["".join(chr(97 + int(digit)) for digit in str(n)) for n in range(100)]
    actor.unit([_labels(f"bad {word} " + "x" * 200) for word in letters], 1.0, 1.0)
    reasons = {key[1]: count for key, count in told.items() if key[0] == metrics.FAILURES}
    assert len(reasons) == metrics.REASONS + 1
    assert reasons["other reasons"] == 100 - metrics.REASONS
    assert max(map(len, reasons)) <= metrics.REASON_CHARACTERS


def test_the_driver_tells_how_far_the_run_is(told):
    driver = metrics.DriverMetrics("run")
    driver.progress(0.5, 9)
    driver.progress(5, 9)
    driver.unit(0.25)
    assert told == {
        (metrics.IMAGES_DONE,): 5,
        (metrics.IMAGES_PLANNED,): 9,
        (metrics.UNITS,): 1,
        (metrics.UNIT_SECONDS, "write"): 0.25,
    }


def test_the_dashboard_shows_every_metric_and_no_other():
    dashboard = json.loads(DASHBOARD.read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    named = {name for query in queries for name in re.findall(r"ray_ntt_ray_\w+", query)}
    assert named == EXPORTED
    assert "ray_ntt_ray_images_planned" in dashboard["templating"]["list"][1]["query"]["query"]
    for query in queries:
        assert query.count("(") == query.count(")")
        assert re.search(r"(?:ray_\w+)(?!\w|\{run=~\"\$run\"\})", query) is None, query
