"""The profile coco-polygon: annotations.json with polygons, from which the same masks come."""

import json

import pytest

from ntt_ray.errors import InputError
from ntt_ray.masks import segmentation_to_rle
from ntt_ray.merge import fragments
from ntt_ray.merge.rendering import Loss
from ntt_ray.run.layout import shard_uri
from ntt_ray.run.shard import labels_to_table, table_to_bytes
from tests.support.odd_masks import MASKS
from tests.support.profile_run import STORE, labelled_images, merged, write_run


@pytest.fixture
def output(tmp_path):
    write_run(str(tmp_path))
    return tmp_path


def test_it_is_the_coco_file_with_other_masks(output):
    written = merged(output, "coco", "coco-polygon")
    assert list(written["coco-polygon"].files) == ["polygons.json"]
    assert written["coco-polygon"].loss == Loss(instances=len(MASKS))
    plain = json.loads((output / "annotations.json").read_text())
    polygons = json.loads((output / "polygons.json").read_text())
    for one, other in zip(plain["annotations"], polygons["annotations"], strict=True):
        mask, found = one.pop("segmentation"), other.pop("segmentation")
        assert segmentation_to_rle(found, 40, 60) == mask
    assert plain == polygons


def test_split_and_divided_in_any_way(output, monkeypatch):
    merged(output, "coco-polygon", images_per_file=2)
    names = sorted(path.name for path in output.glob("polygons*"))
    assert names == [f"polygons-{part:05d}-of-00003.json" for part in (1, 2, 3)]
    merged(output, "coco-polygon")
    before = (output / "polygons.json").read_bytes()
    assert [path.name for path in output.glob("polygons*")] == ["polygons.json"]
    monkeypatch.setattr(fragments, "FRAGMENT_BYTES", 1)
    merged(output, "coco-polygon")
    assert (output / "polygons.json").read_bytes() == before


@pytest.mark.parametrize(
    ("counts", "problem"), [("1", "of 1 pixels"), ("P[2", "without a pixel"), ("~", "character")]
)
def test_a_damaged_mask_is_an_error_with_its_shard(output, counts, problem):
    rows = labels_to_table(labelled_images()).to_pylist()
    rows[0]["annotations"][0]["counts"] = counts
    table = labels_to_table(labelled_images())
    table = type(table).from_pylist(rows, schema=table.schema)
    STORE.publish_bytes(shard_uri(str(output), 0), table_to_bytes(table, {}))
    with pytest.raises(InputError, match=rf"shard-000000\.parquet: a mask is an RLE.*{problem}"):
        merged(output, "coco-polygon", shard_ids=[0])


def test_loss():
    total = Loss.of([1.0, 0.5]) + Loss.of([]) + Loss.of([0.75])
    assert total == Loss(instances=3, changed=2, lost_iou=0.75, min_iou=0.5)
