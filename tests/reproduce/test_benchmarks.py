"""Benchmarks without models: original layouts to references and images, and what is refused."""

import json
from collections import Counter
from pathlib import Path

import pytest

from ntt_ray.errors import ConfigError, DataSetError, InputError, ReferencesError
from ntt_ray.references.dataset import check_images, load_references
from ntt_ray.references.validate import choose_annotations
from ntt_ray.reproduce.catalogue import PROTOCOLS, find_parts, find_protocol
from ntt_ray.reproduce.cd_fsod import DATA_SETS
from ntt_ray.reproduce.coco import NOVEL_IDS
from ntt_ray.reproduce.coco_files import tidied
from ntt_ray.reproduce.runner import Steps, Wanted, measure, prepare
from ntt_ray.reproduce.voc import NOVEL, voc_coco
from ntt_ray.storage import Storage
from tests.support.miniatures import (
    COCO_IDS,
    write_cd_fsod,
    write_coco,
    write_isaid,
    write_lvis,
    write_voc,
)


class Recorder:
    """Stands for the pipeline: keeps the configs, checks what a run would read."""

    def __init__(self):
        self.configs, self.masked = [], 0

    def run(self, config, class_maps):
        block, store = config.references, Storage()
        found = load_references(block.annotations, block.image_root, store)
        check_images(found, store, 0.2)
        test = json.loads(Path(config.images).read_text())
        for image in test["images"]:
            assert (Path(config.image_root) / image["file_name"]).is_file()
        assert {c.name for c in found.classes} <= {c["name"] for c in test["categories"]}
        self.configs.append((config, found))
        maps = {"class_maps": {"mIoU": 0.5, "FBIoU": 0.6}} if class_maps else {}
        groups = {"by_frequency": {"segm": {"rare": 0.1, "common": None, "frequent": 0.3}}}
        return {"bbox": {"AP": 0.4, "AP50": 0.6}, "segm": {"AP": 0.3}, **maps, **groups}

    def masks(self, config):
        """The boxes as masks."""
        self.masked += 1
        coco = json.loads(Path(config.references.annotations).read_text())
        choose_annotations(coco)
        for annotation in coco["annotations"]:
            assert "segmentation" not in annotation
            x, y, w, h = annotation["bbox"]
            annotation["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        return {**coco, "info": {"proposer": config.models.proposer.name}}, "<p>page</p>"


def run(name, data, output, *, parts=(), shots=(1,), seeds=(33,), overrides=()):
    protocol, recorder = find_protocol(name), Recorder()
    chosen = find_parts(protocol, list(parts))
    wanted = Wanted(str(data), str(output), chosen, shots, seeds, tuple(overrides))
    steps = Steps(recorder.run, recorder.masks)
    return list(measure(protocol, prepare(protocol, wanted), steps)), recorder


def shots_of(references):
    return Counter(r.category_id for r in references.references)


@pytest.mark.slow
def test_coco_novel(tmp_path):
    write_coco(tmp_path / "coco")
    measured, recorder = run("coco-novel", tmp_path / "coco", tmp_path / "out", seeds=(33, 34))
    assert [(m.part, m.shots, m.seed) for m in measured] == [("novel", 1, 33), ("novel", 1, 34)]
    assert measured[0].figures == {"nAP box": 0.4, "nAP mask": 0.3}
    for config, references in recorder.configs:
        assert shots_of(references) == dict.fromkeys(NOVEL_IDS, 1)
        assert config.models.encoder.name == "dinov2_vitl14"
        assert config.method.points_per_side == 32
    outputs = [Path(config.output).parent.name for config, _ in recorder.configs]
    assert outputs == ["1-shot-seed-33", "1-shot-seed-34"]


@pytest.mark.slow
def test_coco_20i(tmp_path):
    fold = COCO_IDS[2::4]
    write_coco(tmp_path / "coco", fold)
    measured, recorder = run("coco-20i", tmp_path / "coco", tmp_path / "out", parts=["fold 2"])
    assert measured[0].figures["mIoU"] == 0.5
    assert shots_of(recorder.configs[0][1]) == dict.fromkeys(fold, 1)
    with pytest.raises(ReferencesError, match="0 valid references for 1 shots"):
        run("coco-20i", tmp_path / "coco", tmp_path / "out", parts=["fold 1"])


@pytest.mark.slow
def test_folds_are_every_fourth_class_and_share_none(tmp_path):
    write_coco(tmp_path)
    parts = find_protocol("coco-20i").parts
    data = parts[0].read(str(tmp_path), Storage(), 1)
    folds = [part.classes(data) for part in parts]
    assert [len(fold) for fold in folds] == [20] * 4
    assert [fold[0] for fold in folds] == [f"coco class {i}" for i in (1, 2, 3, 4)]
    assert len({name for fold in folds for name in fold}) == 80


def test_class_maps_are_painted_from_the_score_of_the_authors_evaluation(tmp_path):
    write_coco(tmp_path / "coco", COCO_IDS[0::4])
    for overrides, score in (((), 0.5), (("merge.min_score=0.3",), 0.3)):
        output = tmp_path / f"out-{score}"
        _, recorder = run(
            "coco-20i", tmp_path / "coco", output, parts=["fold 0"], overrides=overrides
        )
        assert recorder.configs[0][0].merge.min_score == score


@pytest.mark.parametrize("split", NOVEL)
def test_voc(tmp_path, split):
    write_voc(tmp_path / "voc", split)
    _, recorder = run("voc", tmp_path / "voc", tmp_path / "out", parts=[split])
    config, references = recorder.configs[0]
    assert {c.name for c in references.classes} == set(NOVEL[split])
    assert set(shots_of(references).values()) == {1}
    assert {r.image.file_name.split("/")[0] for r in references.references} == {
        "VOC2007", "VOC2012",
    }  # fmt: skip
    truth = json.loads(Path(config.ground_truth).read_text())
    assert any(a["iscrowd"] for a in truth["annotations"])  # difficult
    assert min(a["bbox"][2] for a in truth["annotations"]) > 10  # no part of an object
    assert not any("segmentation" in a for a in truth["annotations"])


def test_difficult_objects_are_no_references(tmp_path):
    write_voc(tmp_path / "voc")
    found = list((tmp_path / "voc").glob("VOCdevkit/*/Annotations/*.xml"))
    for path in found:
        if "<name>cow</name>" in path.read_text():
            text = path.read_text().replace("<difficult>0", "<difficult>1")
            path.write_text(text)
    with pytest.raises(ReferencesError, match=r"class 'cow' .* has 0 valid references"):
        run("voc", tmp_path / "voc", tmp_path / "out", parts=["split 1"])
    assert not (tmp_path / "out").exists()


def test_a_devkit_may_be_the_data_folder_itself(tmp_path):
    write_voc(tmp_path / "voc")
    _, recorder = run("voc", tmp_path / "voc" / "VOCdevkit", tmp_path / "out", parts=["split 1"])
    assert recorder.configs[0][0].image_root == str(tmp_path / "voc" / "VOCdevkit")


def test_voc_is_converted_as_for_the_published_figures(tmp_path):
    """Boxes count from 1 and lack their last pixel; difficult objects are crowds and come last."""
    write_voc(tmp_path)
    xml = next((tmp_path / "VOCdevkit/VOC2007/Annotations").glob("0001*.xml"))
    (tmp_path / "VOCdevkit/VOC2007/ImageSets/Main/test.txt").write_text(xml.stem)
    xml.write_text(
        "<annotation><size><width>50</width><height>40</height></size><object><name>cow</name>"
        "<difficult>1</difficult>"
        "<bndbox><xmin>3</xmin><ymin>3</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object>"
        "<object><name>cow</name>"
        "<bndbox><xmin>1</xmin><ymin>2.0</ymin><xmax>50</xmax><ymax>40</ymax></bndbox></object>"
        "</annotation>"
    )
    found = voc_coco(str(tmp_path / "VOCdevkit"), (("2007", "test"),), Storage())
    assert [a["bbox"] for a in found["annotations"]] == [[0, 1, 49, 38], [2, 2, 6, 6]]
    assert [a["iscrowd"] for a in found["annotations"]] == [0, 1]
    assert found["images"][0]["width"] == 50


WRONG_XML = {
    "not XML": ("<annotation>", "not XML"),
    "a document type": ("<!DOCTYPE a><annotation/>", "refused"),
    "no size": ("<annotation/>", "its size/width is '', not a number"),
    "another class": (
        "<annotation><size><width>9</width><height>9</height></size>"
        "<object><name>zebra</name></object></annotation>",
        "'zebra' is no class of Pascal VOC",
    ),
}


@pytest.mark.parametrize(("text", "message"), WRONG_XML.values(), ids=WRONG_XML.keys())
def test_wrong_voc_is_named(tmp_path, text, message):
    write_voc(tmp_path)
    next((tmp_path / "VOCdevkit/VOC2007/Annotations").glob("0001*.xml")).write_text(text)
    with pytest.raises(InputError, match=message):
        voc_coco(str(tmp_path / "VOCdevkit"), (("2007", "test"),), Storage())


@pytest.mark.slow
def test_lvis(tmp_path):
    write_lvis(tmp_path / "lvis")
    measured, recorder = run("lvis-minival", tmp_path / "lvis", tmp_path / "out", shots=(2,))
    assert measured[0].figures["AP rare mask"] == 0.1
    assert measured[0].figures["AP common mask"] is None
    config, references = recorder.configs[0]
    assert shots_of(references) == {10: 2, 20: 2, 30: 2, 40: 2}
    twice = [r.bbox_xywh for r in references.references if r.category_id == 20]
    assert twice[0] == twice[1]  # it has one only
    assert {r.image.file_name.split("/")[0] for r in references.references} == {"train2017"}
    truth = json.loads(Path(config.ground_truth).read_text())
    assert all(image["neg_category_ids"] == [10] for image in truth["images"])


@pytest.mark.slow
def test_lvis_minival_is_the_same_from_each_of_its_files(tmp_path):
    truths = []
    for minival in ("masks", "boxes", "none"):
        write_lvis(tmp_path / minival, minival=minival)
        _, recorder = run(
            "lvis-minival", tmp_path / minival, tmp_path / f"{minival}-out", shots=(2,)
        )
        truths.append(json.loads(Path(recorder.configs[0][0].ground_truth).read_text()))
    assert all(a["segmentation"] for a in truths[0]["annotations"])
    assert {i["file_name"].split("/")[0] for i in truths[0]["images"]} == {"val2017"}
    for truth in truths[1:]:
        for block in ("images", "annotations", "categories"):
            assert truth[block] == truths[0][block]


def test_lvis_masks_come_from_the_same_objects(tmp_path):
    write_lvis(tmp_path / "lvis", minival="boxes")
    path = tmp_path / "lvis" / "annotations" / "lvis_v1_val.json"
    content = json.loads(path.read_text())
    content["annotations"][-1]["category_id"] = 10 + 20 * (
        content["annotations"][-1]["category_id"] == 10
    )
    path.write_text(json.dumps(content))
    with pytest.raises(
        InputError, match=r"boxes only, masks are in lvis_v1_val: annotation \d+ of"
    ):
        run("lvis-minival", tmp_path / "lvis", tmp_path / "out", shots=(2,))
    path.unlink()
    with pytest.raises(InputError, match=r"lvis_v1_val.json: no such file; get it from https://dl"):
        run("lvis-minival", tmp_path / "lvis", tmp_path / "out", shots=(2,))


def test_lvis_classes_without_a_valid_object_take_what_there_is(tmp_path):
    write_lvis(tmp_path / "lvis")
    path = tmp_path / "lvis" / "annotations" / "lvis_v1_train.json"
    content = json.loads(path.read_text())
    for annotation in content["annotations"]:
        if annotation["category_id"] == 30:
            annotation["bbox"] = [0, 0, 20, 20]  # too small, and at the border
            annotation["segmentation"] = [[0, 0, 20, 0, 20, 20, 0, 20]]
            annotation["area"] = 400
        if annotation["category_id"] == 40:
            annotation["bbox"], annotation["area"] = [0, 0, 3, 3], 9
    path.write_text(json.dumps(content))
    _, recorder = run("lvis-minival", tmp_path / "lvis", tmp_path / "out", shots=(2,))
    assert shots_of(recorder.configs[0][1]) == {10: 2, 20: 2, 30: 2}  # 40 cannot define a class


@pytest.mark.slow
@pytest.mark.parametrize("part", DATA_SETS)
def test_cd_fsod(tmp_path, part):
    write_cd_fsod(tmp_path / "cd", part)
    measured, recorder = run(
        "cd-fsod", tmp_path / "cd", tmp_path / "out", parts=[part], seeds=(33, 34)
    )
    assert len(measured) == 1  # the shots are files; there is nothing to draw
    _, references = recorder.configs[0]
    assert len(references.classes) == DATA_SETS[part][1]
    assert min(c.category_id for c in references.classes) == 1
    assert set(shots_of(references).values()) == {1}


def test_isaid(tmp_path):
    write_isaid(tmp_path / "isaid")
    measured, recorder = run("isaid", tmp_path / "isaid", tmp_path / "out")
    assert measured[0].figures.keys() == {"nAP mask", "nAP box", "nAP mask small"}
    config, references = recorder.configs[0]
    assert config.method.tiles.side == 512
    assert len(references.classes) == 15
    assert set(shots_of(references).values()) == {1}
    assert all("instance_id" not in r.image.file_name for r in references.references)
    val = tmp_path / "isaid" / "iSAID_patches" / "val"
    file = val / "instancesonly_filtered_val.json"
    other = file.rename(val / "instance_only_filtered_val.json")  # as the page spells it
    assert run("isaid", tmp_path / "isaid" / "iSAID_patches", tmp_path / "other")[1].configs
    content = json.loads(other.read_text())
    content["categories"][0]["name"] = "another"
    other.write_text(json.dumps(content))
    with pytest.raises(InputError, match="the same 15 classes"):
        run("isaid", tmp_path / "isaid", tmp_path / "third")


def test_masks_are_made_once(tmp_path):
    write_cd_fsod(tmp_path / "cd", "DeepFish")
    arguments = ("cd-fsod", tmp_path / "cd", tmp_path / "out")
    assert run(*arguments, parts=["DeepFish"])[1].masked == 1
    assert run(*arguments, parts=["DeepFish"])[1].masked == 0
    for other in (
        ["models.proposer.name=sam2_demo"],
        ["models.proposer.name=sam2_demo", "models.proposer.checkpoint=other.pt"],
        ["models.proposer.name=sam2_demo", "method.min_predicted_iou=0.9"],
    ):
        assert run(*arguments, parts=["DeepFish"], overrides=other)[1].masked == 1
        assert run(*arguments, parts=["DeepFish"], overrides=other)[1].masked == 0
    path = tmp_path / "cd" / "FISH" / "annotations" / "1_shot.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["bbox"][2] -= 1
    path.write_text(json.dumps(content))
    assert run(*arguments, parts=["DeepFish"], overrides=other)[1].masked == 1


@pytest.mark.parametrize("name", PROTOCOLS)
def test_all_missing_files_are_named_with_where_to_get_them(tmp_path, name):
    protocol = find_protocol(name)
    with pytest.raises(DataSetError, match=r"docs/protocols.md shows the layout") as caught:
        run(name, tmp_path, tmp_path / "out", shots=protocol.shots)
    needed = {n for p in protocol.parts for shots in protocol.shots for n in p.needed(shots)}
    assert len(caught.value.problems) == len(needed)
    for problem in caught.value.problems:
        assert ": no such file; get it from " in problem
        assert "http" in problem
    assert ("--part" in str(caught.value)) == (name == "cd-fsod")  # others share their files
    assert not (tmp_path / "out").exists()


def test_a_part_without_its_files_is_named_before_another_is_run(tmp_path):
    write_cd_fsod(tmp_path / "cd", "DeepFish")
    with pytest.raises(DataSetError) as caught:
        run("cd-fsod", tmp_path / "cd", tmp_path / "out", parts=["DeepFish", "UODD"], shots=(1, 5))
    named = [problem.split(": ")[0] for problem in caught.value.problems]
    folder = tmp_path / "cd"
    assert named == [
        f"{folder}/FISH/annotations/5_shot.json",
        f"{folder}/UODD/annotations/1_shot.json",
        f"{folder}/UODD/annotations/test.json",
        f"{folder}/UODD/annotations/5_shot.json",
    ]


@pytest.mark.parametrize("gone", ["val2017/000000000003.jpg", "train2017/000000000001.jpg"])
def test_images_that_were_not_unpacked_are_named(tmp_path, gone):
    write_coco(tmp_path / "coco")
    (tmp_path / "coco" / gone).unlink()
    with pytest.raises(DataSetError, match=rf"{gone}: no such file; get it from http.*val2017.zip"):
        run("coco-novel", tmp_path / "coco", tmp_path / "out")


def test_looking_only_writes_nothing(tmp_path):
    write_coco(tmp_path / "coco")
    protocol = find_protocol("coco-novel")
    wanted = Wanted(str(tmp_path / "coco"), str(tmp_path / "out"), protocol.parts, (1,), (33, 34))
    planned = prepare(protocol, wanted, write=False)
    assert [(p.part, p.shots, p.seed, p.images) for p in planned] == [
        ("novel", 1, 33, 3), ("novel", 1, 34, 3),
    ]  # fmt: skip
    assert not (tmp_path / "out").exists()


DAMAGED = {
    "no COCO file": ([], "not a COCO file with images, annotations, categories"),
    "a class without a name": (
        {"images": [], "annotations": [], "categories": [{"id": 1}]}, "category 1: has no name",
    ),
    "an annotation of no image": (
        {"images": [], "annotations": [{"id": 1, "image_id": 2}], "categories": []},
        "annotation 1: image 2 or category None is not in its file",
    ),
    "two images of one id": (
        {"images": [{"id": 1}, {"id": 1}], "annotations": [], "categories": []},
        "images: each needs an id of its own",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("content", "message"), DAMAGED.values(), ids=DAMAGED.keys())
def test_damaged_files_are_named(tmp_path, content, message):
    write_cd_fsod(tmp_path / "cd", "DeepFish")
    (tmp_path / "cd" / "FISH" / "annotations" / "test.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=rf"FISH/annotations/test.json: {message}"):
        run("cd-fsod", tmp_path / "cd", tmp_path / "out", parts=["DeepFish"])


WRONG_USES = {
    "protocol": (lambda: find_protocol("coco-novle"), InputError, "did you mean 'coco-novel'"),
    "part": (lambda: find_parts(find_protocol("voc"), ["4"]), InputError, "has no part '4'"),
    "setting": (lambda: run("voc", "x", "y", overrides=["merge.mim=1"]), ConfigError, "min_score"),
    "own setting": (
        lambda: run("voc", "x", "y", overrides=["images=z"]), InputError, "the protocol chooses",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("action", "error", "text"), WRONG_USES.values(), ids=WRONG_USES.keys())
def test_wrong_uses(action, error, text):
    with pytest.raises(error, match=text):
        action()


def test_tidied_keeps_what_is_fit():
    coco = {
        "images": [{"id": 7, "width": 10, "height": 10}],
        "categories": [{"id": 3, "name": "a"}],
        "annotations": [{"id": 5, "image_id": 7, "category_id": 3, "bbox": [-2, 1, 6, 20]}],
    }
    assert tidied(coco)["annotations"] == coco["annotations"]
    cut = tidied(coco, boxes_only=True)["annotations"][0]
    assert (cut["bbox"], cut["area"]) == ([0, 1, 4, 9], 36)
    outside = {**coco, "annotations": [{**coco["annotations"][0], "bbox": [9.5, 0, 3, 3]}]}
    assert tidied(outside, boxes_only=True)["annotations"] == []
    strange = {**coco, "annotations": [{**coco["annotations"][0], "image_id": [1]}]}
    with pytest.raises(InputError, match=r"annotation 5: image \[1\]"):
        tidied(strange)
