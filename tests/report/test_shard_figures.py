"""The same report by one process or many, and no picture's masks between them."""

import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.made_shards import CLASSES, write_shards
from ntt_ray.merge.rendering import map_here
from ntt_ray.merge.thresholds import Thresholds
from ntt_ray.records import ImageEntry, ImageLabels
from ntt_ray.report import shard_figures
from ntt_ray.report.shard_figures import Limits, ShardFigures, Shards, figures_of
from ntt_ray.report.statistics import MAX_REASONS, RunCounts, counts_to_json
from ntt_ray.storage import Storage
from tests.support.report_run import CLASSES as RUN_CLASSES
from tests.support.report_run import example_run

LIMITS = Limits(threshold=0.5, max_images=12, random_images=10, max_classes=20)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    output = str(tmp_path_factory.mktemp("run"))
    ids = list(write_shards(output, 330, per_image=4, images_per_shard=30, masks=50))
    return Shards(output, Storage()), ids


def _sent(function, items, *, large=False):
    """A `Mapper` whose results travel; each is small."""
    for result in map_here(function, items):
        data = pickle.dumps(result)
        assert len(data) < 60_000
        yield pickle.loads(data)


def _plain(figures):
    by_class = figures.by_class.chosen([])
    counts = counts_to_json(figures.counts, CLASSES, None)
    return counts, figures.picker.chosen(), figures.draw.drawn(), by_class, figures.by_class.found


@pytest.mark.parametrize("at_once", [1, 3, 32])
def test_however_the_shards_are_divided(shards, monkeypatch, at_once):
    run, ids = shards
    whole = ShardFigures.none(CLASSES, Thresholds(0.4), LIMITS)
    for candidate in (candidate for unit in ids for candidate in run.images(unit)):
        whole.add(candidate)
    monkeypatch.setattr(shard_figures, "SHARDS_AT_ONCE", at_once)
    found = figures_of(run, ids, CLASSES, Thresholds(0.4), LIMITS, _sent)
    assert _plain(found) == _plain(whole)
    assert found.counts.images == {"total": 330, "ok": 327, "empty": 0, "failed": 3}
    assert found.counts.detections == 327 * 4
    places = found.picker.chosen()
    images = run.candidates(places)
    assert [c.image_id for c in images["best"]] == [place.image_id for place in places["best"]]
    assert all(len(c.labels.detections) == 4 for c in images["best"])


@pytest.mark.parametrize("truth", ["with a truth", "without"])
def test_the_files_of_a_report_are_the_same(tmp_path, monkeypatch, truth):
    run = example_run(tmp_path)
    options = {} if truth == "with a truth" else {"ground_truth": None, "metrics": None}
    names = ("report.json", "report.html")

    def files(**changes):
        run.report(**options, **changes)
        return [(Path(run.output) / name).read_bytes() for name in names]

    before = files()
    monkeypatch.setattr(shard_figures, "SHARDS_AT_ONCE", 1)
    assert files(mapper=_sent) == before


def _failed(number, reason):
    labels = ImageLabels.failed(ImageEntry(number, f"{number}.png", ""), reason)
    return replace(labels, notes=("turned",) * (number % 2))


def test_failures_are_added_up_in_order():
    words = [f"reason {chr(97 + n // 26)}{chr(97 + n % 26)}" for n in range(MAX_REASONS + 5)]
    images = [_failed(n, words[n % len(words)]) for n in range(3 * len(words))]
    whole, first = (RunCounts.of_classes(RUN_CLASSES, Thresholds(0.4)) for _ in range(2))
    second = RunCounts.of_classes(RUN_CLASSES, Thresholds(0.4), max_reasons=1000)
    for number, image in enumerate(images):
        whole.add(image, None)
        (first if number < 70 else second).add(image, None)
    first.take(second)
    found, wanted = ({r: f.images for r, f in own.failures.items()} for own in (first, whole))
    assert found == wanted
    assert sum(found.values()) == len(images)
    assert replace(first, failures={}) == replace(whole, failures={})
    assert [first.failures[word] for word in words[:40]] == [
        whole.failures[word] for word in words[:40]
    ]
