import copy
import io

import numpy as np
import pytest
from PIL import Image

from ntt_ray.errors import InputError, ReferencesError
from ntt_ray.json_input import read_json
from ntt_ray.references.dataset import check_images, load_references, parse_references
from ntt_ray.storage import Storage

SQUARE = [[10, 10, 40, 10, 40, 40, 10, 40]]
COCO = {
    "images": [
        {"id": 1, "file_name": "a.png", "width": 60, "height": 50},
        {"id": 2, "file_name": "b.png", "width": 60, "height": 50},
    ],
    "categories": [{"id": 3, "name": "bolt"}, {"id": 1, "name": "nut"}],
    "annotations": [
        {
            "id": 7,
            "image_id": 1,
            "category_id": 3,
            "bbox": [10, 10, 30, 30],
            "segmentation": SQUARE,
        },
        {
            "id": 8,
            "image_id": 2,
            "category_id": 1,
            "bbox": [10, 10, 30, 30],
            "segmentation": SQUARE,
        },
    ],
}


def _changed(change) -> dict:
    coco = copy.deepcopy(COCO)
    change(coco)
    return coco


@pytest.fixture
def image_root(tmp_path):
    for name in ("a.png", "b.png"):
        stream = io.BytesIO()
        Image.new("RGB", (60, 50), (9, 9, 9)).save(stream, "PNG")
        (tmp_path / name).write_bytes(stream.getvalue())
    return tmp_path


def test_a_good_file(image_root):
    references = parse_references(COCO, image_root=str(image_root))
    assert [(c.category_id, c.name) for c in references.classes] == [(1, "nut"), (3, "bolt")]
    assert [r.annotation_id for r in references.of_class(3)] == [7]
    digest = check_images(references, Storage(), 0.2)
    assert digest == check_images(references, Storage(), 0.2)
    assert digest != check_images(references, Storage(), 0.3)


def test_classes_choose(image_root):
    references = parse_references(COCO, image_root=str(image_root), classes=["bolt"])
    assert [c.name for c in references.classes] == ["bolt"]
    assert len(references.references) == 1


def _set(*path_and_value):
    *path, key, value = path_and_value

    def change(coco):
        target = coco
        for part in path:
            target = target[part]
        target[key] = value

    return change


PROBLEMS = {
    "not an object": (lambda c: c.clear(), "no list 'images'"),
    "id twice": (_set("annotations", 1, "id", 7), "id 7 is used twice"),
    "unknown image": (_set("annotations", 0, "image_id", 99), "image 99 is not in the file"),
    "unknown class": (_set("annotations", 0, "category_id", 99), "unknown class id 99"),
    "category 0": (_set("categories", 0, "id", 0), "category ids must be 1 or more"),
    "name twice": (_set("categories", 0, "name", "nut"), "'nut' is used 2 times"),
    "no box": (_set("annotations", 0, "bbox", None), "bbox is not"),
    "nan box": (_set("annotations", 0, "bbox", [1, 2, 3, float("nan")]), "bbox is not"),
    "outside": (_set("annotations", 0, "bbox", [50, 10, 30, 30]), "outside its image"),
    "just outside": (_set("annotations", 0, "bbox", [60, 10, 1, 30]), "covers too little"),
    "just outside at the other end": (
        _set("annotations", 0, "bbox", [-0.5, 10, 1, 30]),
        "covers too little",
    ),
    "no classes": (lambda c: c.update(categories=[], annotations=[]), "has no category"),
    "no mask": (_set("annotations", 0, "segmentation", None), "has no mask"),
    "empty mask": (
        _set("annotations", 0, "segmentation", {"size": [50, 60], "counts": [3000]}),
        "mask is empty",
    ),
    "tiny mask": (
        _set("annotations", 0, "segmentation", {"size": [50, 60], "counts": [900, 3, 2097]}),
        "too tiny",
    ),
    "mask of another size": (
        _set("annotations", 0, "segmentation", {"size": [5, 6], "counts": [30]}),
        "of size",
    ),
    "image without size": (_set("images", 0, "width", "60"), "needs width and height"),
    "image outside its root": (_set("images", 0, "file_name", "../../etc/x.png"), "leads out of"),
    "class without reference": (lambda c: c["annotations"].pop(), "'nut'.*has no reference"),
    "only a crowd": (_set("annotations", 1, "iscrowd", 1), "'nut'.*has no reference"),
}


@pytest.mark.parametrize(("change", "text"), PROBLEMS.values(), ids=PROBLEMS.keys())
def test_problems_are_named(change, text):
    with pytest.raises(ReferencesError, match=text):
        parse_references(_changed(change), image_root="/data")


def test_a_box_that_sticks_out_by_rounding_keeps_its_far_corner():
    coco = _changed(_set("annotations", 0, "bbox", [-0.5, 10, 40.5, 30]))
    reference = parse_references(coco, image_root="/data").of_class(3)[0]
    assert reference.bbox_xywh == (0.0, 10.0, 40.0, 30.0)


def test_no_class_is_not_every_class():
    with pytest.raises(ReferencesError, match="names no class; leave it out to take all"):
        parse_references(COCO, image_root="/data", classes=[])


def test_other_classes_need_not_be_sound():
    coco = _changed(_set("annotations", 1, "bbox", "none"))
    assert len(parse_references(coco, image_root="/data", classes=["bolt"]).references) == 1
    with pytest.raises(ReferencesError, match="annotation 8: its bbox is not"):
        parse_references(coco, image_root="/data")


def test_all_problems_at_once():
    coco = _changed(_set("annotations", 0, "bbox", [50, 10, 30, 30]))
    coco["annotations"][1]["segmentation"] = None
    with pytest.raises(ReferencesError) as caught:
        parse_references(coco, image_root="/data", classes=["bolt", "nut", "bold"])
    text = str(caught.value)
    assert "annotation 7" in text
    assert "annotation 8" in text
    assert "unknown class 'bold'; did you mean 'bolt'?" in text


def test_too_few_shots():
    with pytest.raises(ReferencesError, match=r"'bolt'.*0 valid references for 2 shots"):
        parse_references(COCO, image_root="/data", shots=2)


def test_the_plain_profile_has_no_rules_on_size():
    references = parse_references(COCO, image_root="/data", shots=1, profile="plain")
    assert [r.annotation_id for r in references.references] == [7, 8]


def test_boxes_alone_are_no_references_and_the_way_out_is_named():
    boxes = _changed(lambda c: [a.pop("segmentation") for a in c["annotations"]])
    with pytest.raises(ReferencesError, match=r"2 of 2 references.*references from-boxes") as found:
        parse_references(boxes, image_root="/data")
    assert len(found.value.problems) == 1  # not the same again for each of a million


def test_a_long_list_of_problems_is_cut_off_when_it_is_shown():
    images = [{"id": i, "file_name": "a.png", "width": 0, "height": 0} for i in range(90)]
    boxes = [{**COCO["annotations"][0], "id": i, "image_id": i} for i in range(90)]
    with pytest.raises(ReferencesError, match=r"and 42 more$") as found:
        parse_references({**COCO, "images": images, "annotations": boxes}, image_root="/data")
    assert len(found.value.problems) == 92  # and that two classes have no reference


def test_images_are_checked_together(image_root):
    references = parse_references(COCO, image_root=str(image_root))
    (image_root / "a.png").unlink()
    Image.new("RGB", (50, 60)).save(image_root / "b.png")
    with pytest.raises(ReferencesError) as caught:
        check_images(references, Storage(), 0.2)
    text = str(caught.value)
    assert "image a.png (of annotations 7): there is no file" in text
    said = "image b.png: is 50 x 60 pixels, but the reference file says 60 x 50; annotate pixels as"
    assert said in text


def test_a_text_file_as_reference_image(image_root):
    references = parse_references(COCO, image_root=str(image_root))
    (image_root / "a.png").write_text("hello")
    with pytest.raises(ReferencesError, match=r"a\.png: not an image"):
        check_images(references, Storage(), 0.2)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        load_references(str(tmp_path / "none.json"), None, Storage())
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(InputError, match="not JSON"):
        read_json(str(tmp_path / "bad.json"), Storage())


@pytest.mark.parametrize("value", [None, 5, "x", [], {"images": 3}, {"images": [1]}])
def test_any_json_is_answered_cleanly(value):
    with pytest.raises(ReferencesError):
        parse_references(value, image_root="/data")


def test_the_mask_decides_not_its_form(image_root):
    mask = np.zeros((50, 60), dtype=bool)
    mask[10:40, 10:40] = True
    from ntt_ray.masks import encode_mask

    rle = _changed(_set("annotations", 0, "segmentation", dict(encode_mask(mask))))
    polygon = parse_references(COCO, image_root=str(image_root)).of_class(3)[0]
    assert parse_references(rle, image_root=str(image_root)).of_class(3)[0].rle == polygon.rle
