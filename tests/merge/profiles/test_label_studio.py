"""The profile labelstudio: a task for each image, masks with score and model version."""

import json
from xml.etree import ElementTree

import numpy as np
import pytest

from ntt_ray.config import build_config
from ntt_ray.errors import ConfigError
from ntt_ray.merge import fragments
from ntt_ray.merge.profiles.label_studio import image_address, interface
from ntt_ray.records import ClassLabel
from tests.support.odd_masks import SIZE_HW
from tests.support.plain_brush import plain_decode
from tests.support.profile_run import CLASSES, kept_masks, merged, uris, write_run


@pytest.fixture
def output(tmp_path):
    write_run(str(tmp_path))
    return tmp_path


def test_tasks(output):
    written = merged(output, "labelstudio")["labelstudio"]
    assert list(written.files) == ["labelstudio.json", "labelstudio.xml"]
    tasks = json.loads((output / "labelstudio.json").read_text())
    names = {label.category_id: label.name for label in CLASSES}
    addresses = [uri for shard in (0, 1) for uri in uris(shard)][:-1]  # the last one failed
    for task, address, (name, masks) in zip(tasks, addresses, kept_masks().items(), strict=True):
        assert task["data"]["image"] == address
        assert task["data"]["file_name"] == name
        (prediction,) = task["predictions"]
        assert prediction["model_version"] == "ntt-ray 0.1 0123456789ab"
        scores = [score for _, _, score in masks]
        assert prediction["score"] == (pytest.approx(np.mean(scores), abs=1e-6) if masks else 0)
        for region, (mask, category_id, score) in zip(prediction["result"], masks, strict=True):
            assert region["value"]["brushlabels"] == [names[category_id]]
            assert region["score"] == score
            assert (region["original_height"], region["original_width"]) == SIZE_HW
            pixels = plain_decode(region["value"]["rle"]).reshape(*SIZE_HW, 4)[..., 3]
            np.testing.assert_array_equal(pixels > 0, mask)
    ids = [region["id"] for task in tasks for region in task["predictions"][0]["result"]]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize(
    ("template", "address"),
    [
        (
            "/data/local-files/?d=photos/{file_name}",
            "/data/local-files/?d=photos/a/b%20%7Buri%7D.jpg",
        ),
        ("{uri}", "s3://b/a/b {uri}.jpg"),
        ("https://host/{file_name}?v=1", "https://host/a/b%20%7Buri%7D.jpg?v=1"),
    ],
)
def test_addresses(template, address):
    assert image_address(template, "a/b {uri}.jpg", "s3://b/a/b {uri}.jpg") == address


def test_tasks_have_the_address_that_is_asked_for(output):
    merged(output, "labelstudio", image_url="/data/local-files/?d={file_name}")
    tasks = json.loads((output / "labelstudio.json").read_text())
    assert tasks[0]["data"]["image"] == "/data/local-files/?d=deep/er/img%201.jpg"
    assert tasks[0]["data"]["file_name"] == "deep/er/img 1.jpg"


@pytest.mark.parametrize("url", ["/data", "{name}", "{file_name}{uri}", "{{file_name}}"])
def test_templates_that_are_refused(url):
    data = {"images": "/i", "output": "/o", "bank": "/b", "merge": {"image_url": url}}
    with pytest.raises(ConfigError, match="image_url"):
        build_config(data)


def test_split_and_divided_in_any_way(output, monkeypatch):
    merged(output, "labelstudio")
    tasks = json.loads((output / "labelstudio.json").read_text())
    monkeypatch.setattr(fragments, "FRAGMENT_BYTES", 1)
    names = list(merged(output, "labelstudio", images_per_file=2)["labelstudio"].files)
    assert names[0] == "labelstudio-00001-of-00003.json"
    assert not (output / "labelstudio.json").exists()
    parts = [json.loads((output / name).read_text()) for name in names[:-1]]
    assert [task for part in parts for task in part] == tasks
    assert [len(part) for part in parts] == [2, 2, 1]


def test_the_interface_names_every_class():
    odd = "\"<&> 'x"
    tree = ElementTree.fromstring(interface([ClassLabel(2, odd), ClassLabel(1, "nut")]))
    assert [label.get("value") for label in tree.iter("Label")] == ["nut", odd]
