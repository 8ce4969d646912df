"""The profile yolo-seg: label files whose polygons give the masks back."""

import numpy as np
import pytest
import yaml

from ntt_ray.errors import InputError
from ntt_ray.masks import decode_rle, encode_mask, rasterise
from ntt_ray.merge.mask_parts import MaskPart
from ntt_ray.merge.outlines import mask_polygons
from ntt_ray.merge.profiles.yolo import label_name, painted_iou
from ntt_ray.merge.rendering import Loss
from ntt_ray.records import ClassLabel, ImageEntry, ImageLabels
from ntt_ray.run.layout import shard_uri
from ntt_ray.run.shard import labels_to_table, table_to_bytes
from tests.support.odd_masks import MASKS, SIZE_HW
from tests.support.profile_run import STORE, detection, kept_masks, merged, write_run

HEIGHT, WIDTH = SIZE_HW


@pytest.fixture
def output(tmp_path):
    write_run(str(tmp_path))
    return tmp_path


def _read(output):
    """Class index and mask of every line, by the stem of the image's name."""
    found = {}
    for path in (output / "yolo" / "labels").rglob("*.txt"):
        name = str(path.relative_to(output / "yolo" / "labels").with_suffix(""))
        found[name] = []
        for line in path.read_text().splitlines():
            index, *shares = line.split(" ")
            polygon = (np.array(shares, float).reshape(-1, 2) * (WIDTH, HEIGHT)).ravel().tolist()
            found[name].append((int(index), decode_rle(rasterise([polygon], HEIGHT, WIDTH))))
    return found


def test_labels_give_masks_and_classes_back(output):
    written = merged(output, "yolo-seg")["yolo-seg"]
    assert list(written.files) == ["yolo/train.txt", "yolo/val.txt", "yolo/data.yaml"]
    assert {name: folder.files for name, folder in written.folders.items()} == {"yolo/labels/": 5}
    found = _read(output)
    expected = kept_masks()
    assert sorted(found) == sorted(name.rsplit(".", 1)[0] for name in expected)
    for name, masks in expected.items():
        lines = found[name.rsplit(".", 1)[0]]
        for (index, mask), (wanted, category_id, _) in zip(lines, masks, strict=True):
            assert index == category_id - 1
            np.testing.assert_array_equal(mask, wanted)
    data = yaml.safe_load((output / "yolo" / "data.yaml").read_text())
    assert data["names"] == {0: "nut", 1: "bölt", 2: "never found"}
    assert data["category_ids"] == {0: 1, 1: 2, 2: 3}


def test_the_lines_between_parts_are_a_loss(output):
    """As OpenCV paints the same labels: 0.9943 and 0.9630."""
    loss = merged(output, "yolo-seg")["yolo-seg"].loss
    assert (loss.instances, loss.changed) == (len(MASKS), 2)
    assert loss.min_iou == pytest.approx(0.963, abs=1e-4)
    assert loss.lost_iou == pytest.approx(2 - 0.963 - 0.9943, abs=2e-4)


def test_a_polygon_of_another_mask_is_a_loss():
    mask, other = (np.zeros((6, 9), bool) for _ in range(2))
    mask[1:5, 2:8], other[2:5, 2:6] = True, True
    part = MaskPart(mask[1:5, 2:8], 2, 1, encode_mask(mask))
    (polygon,) = mask_polygons(other)
    assert painted_iou(part, polygon) == pytest.approx(12 / 24)


def test_an_image_without_objects_has_an_empty_file_and_a_failed_one_none(output):
    merged(output, "yolo-seg")
    assert (output / "yolo" / "labels" / "empty.txt").read_bytes() == b""
    assert not (output / "yolo" / "labels" / "failed.txt").exists()


def test_classes_that_are_left_out_or_joined(output):
    merged(output, "yolo-seg", categories={2: 2}, classes=[ClassLabel(2, "bolt")])
    assert {index for lines in _read(output).values() for index, _ in lines} == {0}
    merged(output, "yolo-seg", categories={1: 1, 2: 1}, classes=[ClassLabel(1, "thing")])
    assert sum(len(lines) for lines in _read(output).values()) == len(MASKS)


def test_a_large_image(tmp_path):
    """Shares have enough digits, and a line is a line."""
    mask = np.zeros((40, 30_000), dtype=bool)
    mask[3:20, 29_990:29_999] = True
    image = ImageLabels.labelled(ImageEntry(1, "a.jpg", ""), mask.shape, (detection(mask, 1, 1),))
    data = table_to_bytes(labels_to_table([image]), {})
    STORE.publish_bytes(shard_uri(str(tmp_path), 0), data)
    written = merged(tmp_path, "yolo-seg", shard_ids=[0])["yolo-seg"]
    assert written.loss == Loss(instances=1)
    line = (tmp_path / "yolo" / "labels" / "a.txt").read_text()
    corners = np.array(line.split(" ")[1:], np.float32).reshape(-1, 2) * (30_000, 40)
    assert (corners.astype(int).min(axis=0) == (29_990, 3)).all()  # as Ultralytics cuts them
    assert (corners.astype(int).max(axis=0) == (29_998, 19)).all()


def _images(tmp_path, names):
    images = [ImageLabels.labelled(ImageEntry(i, n, ""), SIZE_HW, ()) for i, n in enumerate(names)]
    data = table_to_bytes(labels_to_table(images), {})
    STORE.publish_bytes(shard_uri(str(tmp_path), 0), data)


def test_names_that_differ_in_their_suffix_only_are_refused(tmp_path):
    _images(tmp_path, ["d/a.jpg", "a.jpg", "d/a.png", "b.jpg"])
    with pytest.raises(InputError, match=r"1 label files .*: d/a\.jpg, d/a\.png\. Rename"):
        merged(tmp_path, "yolo-seg", shard_ids=[0])
    assert not (tmp_path / "yolo").exists()
    _images(tmp_path, ["d//a.jpg", "d/a.jpg"])
    with pytest.raises(InputError, match=r"1 class maps .*: d//a\.jpg, d/a\.jpg\. Rename"):
        merged(tmp_path, "semantic-png", shard_ids=[0])


@pytest.mark.parametrize("profile", ["yolo-seg", "semantic-png"])
@pytest.mark.parametrize("name", ["../a.jpg", "/etc/a.jpg", "d/../../a.jpg", "s3://b/a.jpg"])
def test_names_that_lead_out_are_refused(tmp_path, name, profile):
    output = tmp_path / "deep"
    _images(output, [name])
    with pytest.raises(InputError, match="leads out of"):
        merged(output, profile, shard_ids=[0])
    assert {path.name for path in tmp_path.rglob("*")} == {"deep", "labels", "shard-000000.parquet"}


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("a.jpg", "a"),
        ("d/a.b.jpg", "d/a.b"),
        ("d.e/a", "d.e/a"),
        ("a\nb.jpg", "a\nb"),
        ("d//./a.jpg", "d/a"),
    ],
)
def test_label_names(name, label):
    assert label_name(name) == f"yolo/labels/{label}.txt"


def test_the_same_bytes_again(output):
    def contents():
        files = (path for path in (output / "yolo").rglob("*") if path.is_file())
        return {str(path): path.read_bytes() for path in files}

    merged(output, "yolo-seg")
    before = contents()
    merged(output, "yolo-seg")
    assert contents() == before
