import contextlib
import io
import json

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ntt_ray.merge.thresholds import Thresholds
from ntt_ray.records import ClassLabel, ImageEntry, ImageLabels
from ntt_ray.run.layout import shard_uri
from ntt_ray.run.shard import labels_to_table, table_to_bytes
from ntt_ray.storage import Storage
from tests.support.merging import merge_shards
from tests.support.run_files import make_labels

CLASSES = [ClassLabel(1, "nut"), ClassLabel(2, "bölt"), ClassLabel(9, "never found")]
SHARDS = [
    [make_labels(1, (0.75, 0.25)), make_labels(2, ())],
    [ImageLabels.failed(ImageEntry(3, "c.jpg", ""), "truncated"), make_labels(4, (0.5,), (9, 7))],
]


def _merge(tmp_path, shard_rows=SHARDS, min_score=0.4, **options):
    store, output = Storage(), str(tmp_path)
    for shard_id, rows in enumerate(shard_rows):
        store.publish_bytes(shard_uri(output, shard_id), table_to_bytes(labels_to_table(rows), {}))
    settings = {
        "classes": CLASSES,
        "info": {"description": "test"},
        "thresholds": Thresholds(min_score),
        "profiles": ("coco", "coco-results"),
        **options,
    }
    written, counts = merge_shards(output, range(len(shard_rows)), store, **settings)
    return [name for profile in written.values() for name in profile.files], counts


def test_the_rules_of_the_coco_writer(tmp_path):
    names, counts = _merge(tmp_path)
    assert names == ["annotations.json", "results.json"]
    coco = json.loads((tmp_path / "annotations.json").read_text())
    assert coco["info"] == {"description": "test"}
    assert coco["licenses"] == []
    assert [c["id"] for c in coco["categories"]] == [1, 2, 9]
    assert [i["id"] for i in coco["images"]] == [1, 2, 4]  # the failed one has no size
    assert coco["images"][2] == {"id": 4, "file_name": "img/4.jpg", "width": 7, "height": 9}
    assert [(a["id"], a["image_id"], a["score"]) for a in coco["annotations"]] == [
        (1, 1, 0.75),
        (2, 4, 0.5),
    ]
    for a in coco["annotations"]:
        assert a["iscrowd"] == 0
        assert a["area"] == 6
        assert a["bbox"] == [2.0, 1.0, 3.0, 2.0]
        assert isinstance(a["segmentation"]["counts"], str)
    results = json.loads((tmp_path / "results.json").read_text())
    assert [r["score"] for r in results] == [0.75, 0.25, 0.5]
    assert (counts.images, counts.ok, counts.empty, counts.failed) == (4, 2, 1, 1)
    assert (counts.detections, counts.annotations) == (3, 2)


def test_pycocotools_reads_both_and_gives_ap_one_against_itself(tmp_path):
    _merge(tmp_path, min_score=0.0)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(tmp_path / "annotations.json"))
        found = coco.loadRes(str(tmp_path / "results.json"))
        for kind in ("bbox", "segm"):
            evaluation = COCOeval(coco, found, kind)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            assert evaluation.stats[0] == pytest.approx(1.0)
    assert coco.annToMask(coco.anns[1]).sum() == 6


def test_merging_again_gives_the_same_bytes(tmp_path):
    _merge(tmp_path)
    first = [(tmp_path / n).read_bytes() for n in ("annotations.json", "results.json")]
    _merge(tmp_path)
    assert first == [(tmp_path / n).read_bytes() for n in ("annotations.json", "results.json")]


@pytest.mark.parametrize(
    "rows", [[], [make_labels(1, ())], [SHARDS[1][0]]], ids=["none", "empty", "failed"]
)
def test_nothing_found(tmp_path, rows):
    _merge(tmp_path, [rows] if rows else [])
    coco = json.loads((tmp_path / "annotations.json").read_text())
    assert coco["annotations"] == []
    assert json.loads((tmp_path / "results.json").read_text()) == []


def test_split_files_are_whole_and_ids_go_on(tmp_path):
    names, _ = _merge(tmp_path, min_score=0.0, images_per_file=3, profiles=("coco",))
    assert names == ["annotations-00001-of-00002.json", "annotations-00002-of-00002.json"]
    parts = [json.loads((tmp_path / name).read_text()) for name in names]
    assert [[i["id"] for i in part["images"]] for part in parts] == [[1, 2], [4]]
    assert [[a["id"] for a in part["annotations"]] for part in parts] == [[1, 2], [3]]
    assert all(part["categories"] == parts[0]["categories"] for part in parts)
    assert not (tmp_path / "results.json").exists()


def test_scores_keep_float32(tmp_path):
    score = float(np.float32(0.7832943))
    _merge(tmp_path, [[make_labels(1, (score,))]])
    (result,) = json.loads((tmp_path / "results.json").read_text())
    assert np.float32(result["score"]) == np.float32(score)
