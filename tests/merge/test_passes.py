"""Merging: the same bytes as the plain writer, whatever divides the work; nothing is left over."""

import json

import numpy as np
import pytest

from benchmarks import merge_scale
from benchmarks.made_shards import CLASSES, write_shards
from ntt_ray.errors import InputError
from ntt_ray.merge import fragments, text_files
from ntt_ray.merge.instances import flat_instances, index_shard
from ntt_ray.merge.thresholds import Thresholds
from ntt_ray.run import shard as shards
from ntt_ray.storage import Storage
from tests.support.merging import merge_shards
from tests.support.plain_coco import kept_detections, plain_coco

STORE = Storage()
PROFILES = ("coco", "coco-results")
INFO = {"description": "täst"}
SOME = Thresholds(0.5, {3: 0.125, 80: 0.875})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """330 images in four shards, three with the usual size and one small."""
    output = str(tmp_path_factory.mktemp("run"))
    ids = list(write_shards(output, 330, per_image=4, images_per_shard=100, masks=50))
    return output, ids


def _merged(output, ids, thresholds=SOME, profiles=PROFILES, **options):
    settings = {"classes": CLASSES, "info": INFO, "thresholds": thresholds, **options}
    written, counts = merge_shards(output, ids, STORE, profiles=profiles, **settings)
    return [name for profile in written.values() for name in profile.files], counts


def _contents(output, names):
    return {name: STORE.read_bytes(f"{output}/{name}") for name in names}


@pytest.mark.parametrize("images_per_file", [None, 1000, 330, 150, 7])
@pytest.mark.parametrize(
    "thresholds",
    [Thresholds(0.0), Thresholds(1.0), SOME],
    ids=["all", "none", "by class"],
)
def test_the_bytes_of_the_plain_writer(run, thresholds, images_per_file):
    output, ids = run
    names, _ = _merged(output, ids, thresholds, images_per_file=images_per_file)
    settings = {"classes": CLASSES, "info": INFO, "thresholds": thresholds}
    expected = plain_coco(output, ids, STORE, images_per_file=images_per_file, **settings)
    assert names == list(expected)
    assert _contents(output, names) == expected


@pytest.mark.slow
@pytest.mark.parametrize(("fragment_bytes", "batch_rows"), [(1, 512), (5000, 3), (10**9, 1)])
def test_the_size_of_fragments_does_not_show(run, monkeypatch, fragment_bytes, batch_rows):
    output, ids = run
    before = _contents(output, _merged(output, ids)[0])
    monkeypatch.setattr(fragments, "FRAGMENT_BYTES", fragment_bytes)
    monkeypatch.setattr(shards, "BATCH_ROWS", batch_rows)
    assert _contents(output, _merged(output, ids)[0]) == before


def test_counts_and_ids(run):
    output, ids = run
    told = []
    _, counts = _merged(output, ids, progress=lambda *item: told.append(item))
    coco = json.loads(STORE.read_bytes(f"{output}/annotations.json"))
    assert [a["id"] for a in coco["annotations"]] == list(range(1, counts.annotations + 1))
    assert (counts.images, counts.ok, counts.empty, counts.failed) == (330, 327, 0, 3)
    assert counts.detections == 327 * 4
    assert 0 < counts.annotations < counts.detections
    assert told[-1] == ("coco-results", counts.detections, counts.detections)
    assert told[-2][0] == "coco"
    assert told[-2][1] == told[-2][2]


def test_some_of_the_shards(run):
    output, _ = run
    _, counts = _merged(output, [0, 3])
    assert counts.images == 130
    coco = json.loads(STORE.read_bytes(f"{output}/annotations.json"))
    assert [a["id"] for a in coco["annotations"]] == list(range(1, counts.annotations + 1))


def test_what_an_earlier_merge_left_goes(run, tmp_path):
    output, ids = str(tmp_path), list(write_shards(str(tmp_path), 10, masks=5))
    litter = (".annotations-00001-of-00009.json.0123456789ab.tmp", ".results.json.0123456789ab.tmp")
    others = ("annotations-old.json", ".report.html.0123456789ab.tmp", "my-annotations.json")
    for name in (*litter, *others):
        (tmp_path / name).write_bytes(b"{")
    _merged(output, ids, images_per_file=4)
    names, _ = _merged(output, ids, images_per_file=6)
    left = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert left == {*names, *others}


def test_a_missing_or_damaged_shard_is_named(run, tmp_path):
    output = str(tmp_path)
    list(write_shards(output, 10, images_per_shard=5, masks=5))
    with pytest.raises(InputError, match=r"shard-000002\.parquet: the shard is missing"):
        _merged(output, [0, 1, 2])
    path = tmp_path / "labels" / "shard-000001.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"shard-000001\.parquet: damaged shard"):
        _merged(output, [0, 1])
    assert not (tmp_path / "annotations.json").exists()


def test_kept_one_by_one_are_those_of_the_columns(run):
    output, _ = run
    table = shards.read_shard(output, 1, STORE)
    (batch,) = table.combine_chunks().to_batches()
    flat = flat_instances(batch, SOME)
    rows = [(r.entry.image_id, kept_detections(r, SOME)) for r in shards.iter_labels(table)]
    plain = [(image, d) for image, kept in rows for d in kept]
    assert flat.column("image_id").to_pylist() == [image for image, _ in plain]
    assert flat.column("counts").to_pylist() == [d.rle["counts"] for _, d in plain]
    index = index_shard(output, 1, STORE, SOME)
    assert index.rows == 100
    np.testing.assert_array_equal(index.kept, [len(kept) for _, kept in rows])
    assert index.found.sum() == len(flat_instances(batch))


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_ray_tasks_give_the_same_bytes_and_errors(run, monkeypatch):
    from ntt_ray.run.cluster.tasks import map_on_ray

    output, ids = run
    before = _contents(output, _merged(output, ids)[0])
    monkeypatch.setattr(fragments, "FRAGMENT_BYTES", 5000)
    monkeypatch.setattr(text_files, "PART_BYTES", 20_000)
    names, counts = _merged(output, ids, mapper=map_on_ray)
    assert _contents(output, names) == before
    assert counts == _merged(output, ids)[1]
    with pytest.raises(InputError, match=r"shard-000009\.parquet: the shard is missing"):
        _merged(output, [*ids, 9], mapper=map_on_ray)
    assert _contents(output, names) == before


@pytest.mark.slow
def test_a_streaming_reader_and_pycocotools_find_the_shards(run, monkeypatch):
    output, ids = run
    _, counts = _merged(output, ids, Thresholds(0.0), ("coco",))
    monkeypatch.setattr(merge_scale, "EVERY", 2)
    found = merge_scale.checked(output, counts.annotations)
    assert (found["ids_contiguous"], found["annotations_compared"]) == (327 * 4, 198 * 4)
    with pytest.raises(SystemExit, match="1308 annotations in the file, 1309 counted"):
        merge_scale.checked(output, counts.annotations + 1)
    _merged(output, ids, SOME, ("coco",))
    with pytest.raises(SystemExit, match="its annotations differ from its shard"):
        merge_scale.checked(output, counts.annotations)


def test_a_choice_of_classes(run):
    """As if the shards had those classes only."""
    output, ids = run
    chosen = {3: 3, 7: 3, 80: 80}
    some = Thresholds(0.5, {3: 0.125, 80: 0.875}, chosen)
    names, counts = _merged(output, ids, some, images_per_file=150)
    settings = {"classes": CLASSES, "info": INFO, "thresholds": some}
    assert _contents(output, names) == plain_coco(
        output, ids, STORE, images_per_file=150, **settings
    )
    parts = [json.loads(STORE.read_bytes(f"{output}/{n}")) for n in names if "results" in n]
    results = [result for part in parts for result in part]
    assert {result["category_id"] for result in results} == {3, 80}
    assert 0 < counts.annotations < counts.detections == len(results)
