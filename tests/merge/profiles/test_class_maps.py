"""The profile semantic-png: maps of classes, the instance with the highest score on top."""

import json

import numpy as np
import pytest
from PIL import Image

from ntt_ray.records import ClassLabel, ImageEntry, ImageLabels
from ntt_ray.run.layout import shard_uri
from ntt_ray.run.shard import labels_to_table, table_to_bytes
from tests.support.odd_masks import SIZE_HW
from tests.support.profile_run import CLASSES, STORE, detection, kept_masks, merged, write_run


def _map(output, name):
    with Image.open(output / "semantic" / f"{name}.png") as picture:
        return picture.mode, np.asarray(picture)


def test_every_image_has_a_map(tmp_path):
    write_run(str(tmp_path))
    written = merged(tmp_path, "semantic-png")["semantic-png"]
    assert {name: folder.files for name, folder in written.folders.items()} == {"semantic/": 5}
    for name, masks in kept_masks().items():
        expected = np.zeros(SIZE_HW, dtype=np.uint8)
        for mask, category_id, _ in sorted(masks, key=lambda item: item[2]):
            expected[mask] = category_id
        mode, values = _map(tmp_path, name)
        assert mode == "P"
        np.testing.assert_array_equal(values, expected)
    assert not (tmp_path / "semantic" / "failed.jpg.png").exists()
    table = json.loads((tmp_path / "semantic" / "classes.json").read_text())
    names = {row["index"]: (row["category_id"], row["name"]) for row in table}
    assert names == {0: (None, "background"), 1: (1, "nut"), 2: (2, "bölt"), 3: (3, "never found")}
    with Image.open(tmp_path / "semantic" / "empty.png.png") as picture:
        colours = picture.getpalette()
    assert [colours[3 * row["index"] :][:3] for row in table] == [row["color"] for row in table]


def test_the_highest_score_lies_on_top(tmp_path):
    masks = np.zeros((3, 6, 9), dtype=bool)
    masks[0, 2:4, 2:5], masks[1, 1:5, 1:7], masks[2] = True, True, True
    found = tuple(
        detection(mask, number, score)
        for mask, number, score in zip(masks, (7, 2, 5), (0.75, 0.625, 0.5), strict=True)
    )
    image = ImageLabels.labelled(ImageEntry(1, "a.jpg", ""), (6, 9), found)
    data = table_to_bytes(labels_to_table([image]), {})
    STORE.publish_bytes(shard_uri(str(tmp_path), 0), data)
    classes = [ClassLabel(number, str(number)) for number in (2, 5, 7)]
    merged(tmp_path, "semantic-png", shard_ids=[0], classes=classes)
    rows = ["222222222", "211111122", "213331122", "213331122", "211111122", "222222222"]
    expected = np.array([[int(value) for value in row] for row in rows])
    np.testing.assert_array_equal(_map(tmp_path, "a.jpg")[1], expected)


@pytest.mark.parametrize(("count", "mode"), [(254, "P"), (255, "I;16")])
def test_many_classes(tmp_path, count, mode):
    write_run(str(tmp_path))
    classes = [*CLASSES, *(ClassLabel(1000 + n, f"class {n}") for n in range(count - 3))]
    merged(tmp_path, "semantic-png", classes=classes)
    found, values = _map(tmp_path, "deep/er/img 1.jpg")
    assert found == mode
    assert set(np.unique(values)) == {0, 1, 2}
