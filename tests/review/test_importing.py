"""Corrected files of other tools become verdicts; those of the real tools: tests/readers."""

import copy
import json

import pytest

from ntt_ray.errors import InputError
from ntt_ray.json_input import read_json
from ntt_ray.review.importing import ReviewFileError, import_run
from ntt_ray.review.job import draw_run, open_review
from ntt_ray.review.publish import publish_review
from ntt_ray.run.layout import REVIEW_COCO, REVIEW_TASKS
from tests.support.review_run import CLASSES, STORE, box_rle, review_run


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    config = review_run(tmp_path_factory.mktemp("importing"))
    draw_run(config, labels=1000, images=4, seed=1, publish=publish_review)
    return config


@pytest.fixture
def coco(config):
    return read_json(f"{config.output}/{REVIEW_COCO}", STORE)


@pytest.fixture
def tasks(config):
    """As Label Studio gives them after somebody submitted every prediction as it was."""
    found = read_json(f"{config.output}/{REVIEW_TASKS}", STORE)
    for number, task in enumerate(found):
        task["annotations"] = [{"id": number, "result": task["predictions"][0]["result"]}]
    return found


def imported(config, tmp_path, content):
    path = tmp_path / "corrected.json"
    path.write_text(json.dumps(content))
    return import_run(config, str(path), "anna", replace=True)[1]


def test_what_was_left_as_it_was_is_right(config, tmp_path, coco, tasks):
    for content in (coco, tasks):
        found = imported(config, tmp_path, content)
        assert set(found.labels.values()) == {"right"}
        assert len(found.labels) == len(open_review(config).draw.labels)
        assert len(found.images) == 4
        assert all(not image.missed for image in found.images.values())


def test_changes_of_a_coco_file(config, tmp_path, coco):
    gone, other, half, moved = (a["id"] for a in coco["annotations"][:4])
    by_id = {a["id"]: a for a in coco["annotations"]}
    coco["annotations"].remove(by_id[gone])
    x, y, width, height = (int(v) for v in by_id[half]["bbox"])
    ids = [c.category_id for c in CLASSES]
    by_id[other]["category_id"] = ids[1 - ids.index(by_id[other]["category_id"])]
    by_id[half]["segmentation"] = box_rle(x, y, width, height * 6 // 10)
    by_id[moved]["segmentation"] = box_rle(0, 0, 12, 12)
    found = imported(config, tmp_path, coco)
    assert found.labels[str(gone)] == "nothing"
    assert found.labels[str(other)] == "class"
    assert found.labels[str(half)] == "mask"
    assert found.corrections[str(half)].counts == by_id[half]["segmentation"]["counts"]
    assert found.corrections[str(other)].category_id == by_id[other]["category_id"]
    assert sorted(set(found.labels.values()) - {"right"})  # the rest is untouched
    assert list(found.labels.values()).count("right") == len(found.labels) - 4 + (
        found.labels[str(moved)] == "right"
    )


def test_new_objects_of_whole_images_are_missed_ones(config, tmp_path, coco):
    whole = open_review(config).draw.whole_images[0].image_id
    other = next(
        a["image_id"]
        for a in coco["annotations"]
        if a["image_id"] not in {image.image_id for image in open_review(config).draw.whole_images}
    )
    for number, image_id in enumerate((whole, other)):
        box = {"bbox": [0, 50, 9, 9], "segmentation": box_rle(0, 50, 9, 9)}
        coco["annotations"].append(
            {"id": 900 + number, "image_id": image_id, "category_id": 2, "iscrowd": 0} | box
        )
    found = imported(config, tmp_path, coco)
    missed = found.images[str(whole)].missed
    assert [(m.x, m.y, m.width, m.height) for m in missed] == [(0, 50, 9, 9)]
    assert set(found.labels.values()) == {"right"}


def test_images_that_are_not_in_the_file_were_not_reviewed(config, tmp_path, coco, tasks):
    image_id = coco["images"][0]["id"]
    coco["images"] = coco["images"][:1]
    found = imported(config, tmp_path, coco)
    own = [label for label in open_review(config).draw.labels if label.image_id == image_id]
    assert set(found.labels) == {str(label.id) for label in own}
    for task in tasks[1:]:
        task["annotations"] = [{"was_cancelled": True, "result": []}]
    assert len(imported(config, tmp_path, tasks).labels) == len(own)


def test_other_tools_number_annew_and_strip_folders(config, tmp_path, coco):
    for number, annotation in enumerate(reversed(coco["annotations"]), 1):
        annotation["id"] = number
    for image in coco["images"]:
        image["file_name"] = image["file_name"].split("/")[-1]
    assert set(imported(config, tmp_path, coco).labels.values()) == {"right"}


def test_what_cannot_be_read_is_named(config, tmp_path, coco, tasks):
    with pytest.raises(InputError, match="neither verdicts of the page, nor COCO"):
        imported(config, tmp_path, {"hello": 1})
    with pytest.raises(InputError, match="speaks of another draw"):
        imported(config, tmp_path, {"draw": "ab", "design": "cd"})
    with pytest.raises(InputError, match=r"labels\.7"):
        imported(config, tmp_path, {"draw": "ab", "design": "cd", "labels": {"7": "fine"}})
    boxes = copy.deepcopy(coco)
    del boxes["annotations"][0]["segmentation"]
    boxes["images"][1]["width"] = 79
    with pytest.raises(ReviewFileError, match="has a box and no mask") as raised:
        imported(config, tmp_path, boxes)
    assert "is 79 x 60 pixels" in str(raised.value)
    tasks[0]["annotations"][0]["result"][0]["value"]["brushlabels"] = ["unknown"]
    with pytest.raises(ReviewFileError, match="'unknown', which was not drawn"):
        imported(config, tmp_path, tasks)
    for annotations, problem in ((5, "are no list"), ([{"result": 3}], "no list 'result'")):
        tasks[0]["annotations"] = annotations
        with pytest.raises(ReviewFileError, match=problem):
            imported(config, tmp_path, tasks)
