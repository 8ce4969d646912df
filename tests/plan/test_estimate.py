"""A sample before the run: which images, what is kept, and the arithmetic of the estimate."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

import ntt_ray
from ntt_ray.cli import app
from ntt_ray.cli.app import console
from ntt_ray.config import ProposalsConfig, build_config
from ntt_ray.errors import InputError
from ntt_ray.plan import estimate as sample_module
from ntt_ray.plan.again import match_sample_again
from ntt_ray.plan.estimate import Measured, _made_of, _sample_config, estimate_run, settled
from ntt_ray.records import ImageEntry
from ntt_ray.run.cluster.placement import Resources
from ntt_ray.run.job import UnitDone
from ntt_ray.sources.image_list import list_images
from ntt_ray.sources.schema import entries_of
from ntt_ray.storage import Storage

MEASURED = Measured(
    images=50,
    failed=1,
    detections=120,
    timed=40,
    actor_s=20.0,
    read_bytes=9_000,
    sized=45,
    written_bytes=5_000,
)
# device, actors, GPUs of each -> images/s, hours, device-hours for 1,000,000 images
RESOURCES = {
    "one GPU each": (Resources("cuda", 8, 4.0, 1.0), 16.0, 1e6 / 16 / 3600, 5e5 / 3600),
    "half a GPU each": (Resources("cuda", 8, 4.0, 0.5), 16.0, 1e6 / 16 / 3600, 2.5e5 / 3600),
    "cores": (Resources("cpu", 2, 1.0, 0.0), 4.0, 1e6 / 4 / 3600, 5e5 / 3600),
    "more actors than units": (Resources("cuda", 9999, 1.0, 1.0), 2e3, 500 / 3600, 5e5 / 3600),
}


@pytest.mark.parametrize(
    ("resources", "images_per_s", "hours", "device_hours"),
    RESOURCES.values(),
    ids=RESOURCES.keys(),
)
def test_the_estimate(golden_config, monkeypatch, resources, images_per_s, hours, device_hours):
    connected = []
    monkeypatch.setattr(sample_module, "connect", lambda: connected.append(True))

    def decide(job, device):
        assert connected, "the second plan of a config labels nothing, so nobody else connects"
        return resources

    monkeypatch.setattr(sample_module, "decide", decide)
    config = build_config({**golden_config, "job": {"images_per_unit": 1000}})
    found = sample_module._estimate(config, 1_000_000, 1000, MEASURED)
    assert found.units == 1000
    assert found.images_per_s == pytest.approx(images_per_s)
    assert found.hours == pytest.approx(hours)
    assert found.device_hours == pytest.approx(device_hours)
    assert found.read_bytes == 200_000_000
    assert found.written_bytes == 100_000_000


def _unit(number: int, begun_at: float, label_s: float) -> UnitDone:
    return UnitDone(number, 4, 0, 9, 0.1, begun_at, label_s, 0.1)


# units as they came in, actors -> the shards whose time counts
SETTLED = {
    "one actor": ([_unit(0, 1.0, 9.0), _unit(1, 10.0, 1.0), _unit(2, 11.0, 1.0)], 1, [1, 2]),
    "one unit": ([_unit(0, 1.0, 9.0)], 1, [0]),
    "in the order begun": ([_unit(2, 3.0, 1.0), _unit(0, 2.0, 1.0), _unit(1, 1.0, 9.0)], 1, [0, 2]),
    "too few for the actors": (
        [_unit(0, 1.0, 9.0), _unit(1, 1.0, 9.0), _unit(2, 2.0, 1.0)],
        2,
        [0, 1, 2],
    ),
    "just enough": ([_unit(n, float(n), 1.0) for n in range(4)], 2, [2, 3]),
}


@pytest.mark.parametrize(("done", "actors", "shards"), SETTLED.values(), ids=SETTLED.keys())
def test_warming_up_is_not_speed(done, actors, shards):
    assert [unit.shard_id for unit in settled(done, actors)] == shards


SIZES = {3: 8, 50: 8, 128: 8, 129: 16, 1000: 64, 100_000: 256}


@pytest.mark.slow
@pytest.mark.parametrize("wanted", [256, "auto"])
@pytest.mark.parametrize(("images", "size"), SIZES.items())
def test_a_sample_is_divided_into_whole_steps(golden_config, images, size, wanted):
    config = build_config({**golden_config, "job": {"images_per_unit": wanted}})
    entries = [ImageEntry(n, f"{n}.png", f"/x/{n}.png") for n in range(1, images + 1)]
    assert _sample_config(config, entries, []).job.images_per_unit == size


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_sample_is_a_run_of_its_own_and_labelled_once(golden_config, tmp_path):
    # as many actors as the sample has units: none of them is left out of the time as warming up
    golden_config["job"]["actors"] = 2
    config = build_config(golden_config)
    path, heard = tmp_path / "config.yaml", []
    path.write_text(yaml.safe_dump(golden_config))
    with console.capture() as capture:
        options = ["--sample", "3", "--seed", "1", "--price", "36000"]
        app(["plan", str(path), *options], standalone_mode=False)
    said = " ".join(capture.get().split())
    for words in ("4 in 2 units", "images/s", "core-hours", "to read", "2 shards", "at 36000 per"):
        assert words in said
    (page,) = Path(config.output).glob("plan/*/report.html")
    assert "at 36000 per core-hour" in page.read_text()
    first, own = estimate_run(config, 3, 1, lambda *unit: heard.append(unit))
    assert f"look at: {own.output}/report.html" in said
    assert page.parent == Path(own.output)
    assert heard == []  # the command labelled it
    assert first.images == 4
    assert first.sample.images == first.sample.timed == 3
    assert own.output.startswith(f"{config.output}/plan/")
    store = Storage()
    names = set(store.list_files(own.output, (".json", ".html", ".parquet")))
    assert {"report.html", "annotations.json", "plan.json", "labels/shard-000000.parquet"} <= names
    assert not store.exists(f"{config.output}/run.json")  # nothing of the run itself was started
    shown = json.loads(store.read_bytes(f"{own.output}/annotations.json"))["images"]
    assert len(shown) == 3

    second, _ = estimate_run(config, 3, 1, lambda *unit: heard.append(unit))
    assert second == first
    assert heard == []

    # the sample with other thresholds, of what was kept; as if it were labelled anew
    assert first.sample.kept_bytes > 0
    assert "with proposals.keep" in said
    changed = build_config(golden_config, ["method.max_detections=5", "method.nms_iou=0.7"])
    again = match_sample_again(changed, 3, 1, lambda *unit: heard.append(unit))
    assert sorted(unit.images for unit, _, _ in heard) == [1, 2]
    assert Path(again.output).parent == Path(own.output).parent
    rows, before = (list(ntt_ray.read_labels(item.output)) for item in (again, own))
    assert [row.file_name for row in rows] == [row.file_name for row in before]
    assert max(len(row.detections) for row in rows) == 5
    assert store.exists(f"{again.output}/report.html")
    elsewhere = build_config(golden_config, ["method.points_per_side=8"])
    with pytest.raises(InputError, match=r"(?s)label one first.*points_per_side: 16 there, 8"):
        match_sample_again(elsewhere, 3, 1, lambda *unit: None)
    with pytest.raises(InputError, match="no sample of 2 images of seed 1"):
        match_sample_again(config, 2, 1, lambda *unit: None)


@pytest.mark.parametrize("count", [3, 99])
def test_the_seed_chooses(golden_config, monkeypatch, count):
    chosen = []
    monkeypatch.setattr(sample_module, "_recorded", lambda sample, store: MEASURED)
    monkeypatch.setattr(sample_module, "_estimate", lambda *arguments: None)
    monkeypatch.setattr(sample_module, "report_run", lambda sample, plan: None)
    for seed in [*range(12), 0]:
        _, own = estimate_run(build_config(golden_config), count, seed, lambda *unit: None)
        chosen.append(own.output)
    assert chosen[0] == chosen[-1]
    # three of four images: all four choices come up; of 99 asked for there are just these four
    assert len(set(chosen)) == (4 if count == 3 else 1)


def test_changed_references_are_another_sample(golden_config, golden_references, tmp_path):
    coco, own = json.loads(golden_references.read_text()), tmp_path / "refs.json"
    own.write_text(json.dumps(coco))
    config, store = build_config(golden_config, [f"references.annotations={own}"]), Storage()
    entries = entries_of(list_images(config.images, config.image_root, store))[:3]

    def output() -> str:
        return _sample_config(config, entries, _made_of(config, store)).output

    before = output()
    assert before == output()
    coco["annotations"][0]["bbox"][2] -= 1
    own.write_text(json.dumps(coco))
    assert output() != before  # its gallery would show labels of references that are gone
    boxes = tmp_path / "boxes.json"
    config = config.model_copy(update={"proposals": ProposalsConfig(boxes=str(boxes))})
    boxes.write_text("[1]")
    before = output()
    boxes.write_text("[2]")
    assert output() != before
    assert not _sample_config(config, entries, []).proposals.keep  # nothing is kept of boxes
    elsewhere = [replace(entries[0], uri="/elsewhere.png"), *entries[1:]]
    assert _sample_config(config, elsewhere, []) != _sample_config(config, entries, [])
    fewer = _sample_config(config, entries[:2], [])
    assert fewer.output != _sample_config(config, entries, []).output
