import json
import tarfile
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from ntt_ray.errors import InputError
from ntt_ray.merge.classes import choose_classes
from ntt_ray.merge.passes import WRITERS
from ntt_ray.records import ClassLabel
from tests.support.profile_run import CLASSES as RUN_CLASSES
from tests.support.profile_run import kept_masks, merged, write_run

CLASSES = [ClassLabel(9, "truck"), ClassLabel(3, "car"), ClassLabel(17, "cat")]
CHOICES = {
    "all": (None, {}, None, {3: "car", 9: "truck", 17: "cat"}),
    "some": (("cat", "car"), {}, {3: 3, 17: 17}, {3: "car", 17: "cat"}),
    "none": ((), {}, {}, {}),
    "renamed": (None, {"cat": "Katze"}, {3: 3, 9: 9, 17: 17}, {3: "car", 9: "truck", 17: "Katze"}),
    "two become one": (
        None,
        {"truck": "vehicle", "car": "vehicle"},
        {3: 3, 9: 3, 17: 17},
        {3: "vehicle", 17: "cat"},
    ),
    "one joins another": (("car", "truck"), {"truck": "car"}, {3: 3, 9: 3}, {3: "car"}),
    "swapped": (
        ("car", "cat"),
        {"cat": "car", "car": "cat"},
        {3: 3, 17: 17},
        {3: "cat", 17: "car"},
    ),
}
WRONG = {
    "unknown": (("cta",), {}, "merge.classes: cta: the run has no such class; did you mean 'cat'"),
    "unknown to rename": (None, {"dog": "cat"}, "merge.rename: dog: the run has no such class"),
    "renamed but left out": (("cat",), {"car": "x"}, "car: is not one of merge.classes"),
}


@pytest.mark.parametrize(("names", "new", "categories", "labels"), CHOICES.values(), ids=CHOICES)
def test_choices(names, new, categories, labels):
    choice = choose_classes(CLASSES, names, new)
    assert choice.categories == categories
    assert choice.labels == tuple(ClassLabel(number, name) for number, name in labels.items())


@pytest.mark.parametrize(("names", "new", "message"), WRONG.values(), ids=WRONG)
def test_wrong_names(names, new, message):
    with pytest.raises(InputError, match=message):
        choose_classes(CLASSES, names, new)


MERGED = {  # how classes of the run are called in the files, their order there
    "left out": (("bölt",), {}, {2: "bölt"}),
    "renamed": (None, {"nut": "Mutter"}, {1: "Mutter", 2: "bölt", 3: "never found"}),
    "joined": (("nut", "bölt"), {"nut": "part", "bölt": "part"}, {1: "part"}),
}


@pytest.mark.parametrize(("names", "new", "labels"), MERGED.values(), ids=MERGED)
def test_every_profile_has_the_classes_that_were_chosen(tmp_path, names, new, labels):
    write_run(str(tmp_path))
    choice = choose_classes(RUN_CLASSES, names, new)
    assert {label.category_id: label.name for label in choice.labels} == labels
    merged(tmp_path, *WRITERS, categories=choice.categories, classes=choice.labels)
    own = {label.category_id: label.name for label in RUN_CLASSES}
    kept = [new.get(own[c], own[c]) for masks in kept_masks().values() for _, c, _ in masks]
    expected = Counter(name for name in kept if name in labels.values())
    found = _classes_in_files(tmp_path)
    results = found.pop("results.json")  # with those below the threshold
    assert set(results) <= set(labels.values())
    assert results > expected
    assert found.pop("semantic") == set(expected)
    assert found == dict.fromkeys(found, expected)
    assert len(found) == len(WRITERS) - 2


def _classes_in_files(output):
    """Names of the classes of all instances, by file; of the class maps, those that appear."""
    found = {}
    for name in ("annotations.json", "polygons.json"):
        coco = json.loads((output / name).read_text())
        names = {c["id"]: c["name"] for c in coco["categories"]}
        found[name] = Counter(names[a["category_id"]] for a in coco["annotations"])
    results = json.loads((output / "results.json").read_text())
    found["results.json"] = Counter(names[result["category_id"]] for result in results)
    yolo = output / "yolo"
    lines = [
        line for path in (yolo / "labels").rglob("*.txt") for line in path.read_text().splitlines()
    ]
    yolo_names = yaml.safe_load((yolo / "data.yaml").read_text())["names"]
    found["yolo"] = Counter(yolo_names[int(line.split(" ")[0])] for line in lines)
    regions = [
        region
        for task in json.loads((output / "labelstudio.json").read_text())
        for region in task["predictions"][0]["result"]
    ]
    found["labelstudio"] = Counter(r["value"]["brushlabels"][0] for r in regions)
    rows = pq.read_table(output / "instances").to_pylist()
    assert all(names[row["category_id"]] == row["category"] for row in rows)
    found["parquet"] = Counter(row["category"] for row in rows)
    dataset = pq.read_table(output / "hf" / "data")
    features = json.loads(dataset.schema.metadata[b"huggingface"])["info"]["features"]
    hf_names = features["objects"]["category"]["feature"]["names"]
    found["hf"] = Counter(
        hf_names[index] for row in dataset["objects"].to_pylist() for index in row["category"]
    )
    with tarfile.open(output / "webdataset" / "loose.tar") as tar:
        members = [json.loads(tar.extractfile(member).read()) for member in tar]
    for member in members:
        assert {c["id"]: c["name"] for c in member["categories"]}.items() <= names.items()
    found["webdataset"] = Counter(
        names[a["category_id"]] for member in members for a in member["annotations"]
    )
    table = json.loads((output / "semantic" / "classes.json").read_text())
    map_names = {row["index"]: row["name"] for row in table}
    values = set()
    for path in (output / "semantic").rglob("*.png"):
        with Image.open(path) as picture:
            values |= set(np.unique(np.asarray(picture)).tolist())
    found["semantic"] = {map_names[value] for value in values - {0}}
    return found
