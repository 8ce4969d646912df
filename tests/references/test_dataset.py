import copy
import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from ntt_ray.errors import ImageError, InputError, ReferencesError
from ntt_ray.json_input import read_json
from ntt_ray.references.dataset import (
    check_images,
    decode_sized,
    load_references,
    parse_references,
    read_image,
)
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
    said = "image b.png: is 50 x 60 pixels, but the reference file says 60 x 50; it was turned"
    assert said in text


def test_images_that_are_all_elsewhere_are_one_problem(tmp_path):
    """The folder is wrong then, and not forty images."""
    references = parse_references(COCO, image_root=str(tmp_path / "elsewhere"))
    with pytest.raises(ReferencesError) as caught:
        check_images(references, Storage(), 0.2)
    (problem,) = caught.value.problems
    assert problem.startswith("none of the 2 images can be read. Is image_root the folder")
    assert "The first: image a.png (of annotations 7): there is no file" in problem


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


def _turned(turn: int, size_wh=(60, 50), file_format="PNG") -> tuple[bytes, np.ndarray, np.ndarray]:
    """An image file whose EXIF asks for a turn; its pixels as stored, and upright."""
    width, height = size_wh
    pixels = np.random.default_rng(turn).integers(0, 256, (height, width, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = turn
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, file_format, exif=exif)
    with Image.open(stream) as image:
        upright = image if file_format == "TIFF" else ImageOps.exif_transpose(image)
        return stream.getvalue(), pixels, np.asarray(upright)


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
@pytest.mark.parametrize("turn", range(2, 9))
def test_turned_photos_are_read_as_they_were_annotated(turn, file_format):
    data, stored, upright = _turned(turn, file_format=file_format)
    assert (decode_sized(data, upright.shape[:2], "upright") == upright).all()
    assert (decode_sized(data, stored.shape[:2], "stored") == stored).all()
    if turn >= 5:  # the size tells
        assert (decode_sized(data, upright.shape[:2], "auto") == upright).all()
        assert (decode_sized(data, stored.shape[:2], "auto") == stored).all()
    else:
        with pytest.raises(
            ImageError, match=rf"orientation {turn}.*references\.orientation: uprig"
        ):
            decode_sized(data, upright.shape[:2], "auto")
    with pytest.raises(ImageError, match=r"is \d+ x \d+ pixels upright, but .* says 59 x 31"):
        decode_sized(data, (31, 59), "auto")


@pytest.mark.parametrize("turn", range(2, 9))
def test_the_size_of_a_square_does_not_tell(turn):
    data, stored, upright = _turned(turn, (48, 48))
    with pytest.raises(ImageError, match="does not tell whether it was annotated upright"):
        decode_sized(data, (48, 48), "auto")
    assert (decode_sized(data, (48, 48), "upright") == upright).all()
    assert (decode_sized(data, (48, 48), "stored") == stored).all()


def test_what_is_not_turned_is_the_same_in_every_orientation():
    data, stored, _ = _turned(1)
    for orientation in ("auto", "upright", "stored"):
        assert (decode_sized(data, (50, 60), orientation) == stored).all()


def test_the_orientation_of_the_config_reaches_every_reference(image_root):
    (image_root / "a.png").write_bytes(_turned(3)[0])
    references = parse_references(COCO, image_root=str(image_root))
    with pytest.raises(ReferencesError, match=r"image a\.png: is stored turned \(EXIF orientatio"):
        check_images(references, Storage(), 0.2)
    digests = []
    for orientation, expected in zip(("stored", "upright"), _turned(3)[1:], strict=True):
        chosen = parse_references(COCO, image_root=str(image_root), orientation=orientation)
        assert {r.orientation for r in chosen.references} == {orientation}
        assert (read_image(chosen.of_class(3)[0], Storage()) == expected).all()
        digests.append(check_images(chosen, Storage(), 0.2))
    assert digests[0] != digests[1]


def _mark(coco: dict, *ids: int) -> None:
    for annotation in coco["annotations"]:
        annotation["iscrowd"] = int(annotation["id"] in ids)


def test_brush_masks_marked_as_crowds_are_named_with_the_way_to_take_them():
    coco = _changed(lambda coco: _mark(coco, 7, 8))
    with pytest.raises(ReferencesError) as caught:
        parse_references(coco, image_root="/data")
    for name in ("bolt", "nut"):
        assert f"class {name!r} (id " in str(caught.value)
    assert str(caught.value).count("1 of its 1 annotations are marked iscrowd: 1") == 2
    assert "CVAT, Datumaro and supervision mark brush masks so" in str(caught.value)
    assert "set references.crowds: objects" in str(caught.value)
    for shots in (None, 1):
        chosen = parse_references(
            coco, image_root="/data", crowds="objects", shots=shots, profile="plain"
        )
        assert [r.annotation_id for r in chosen.references] == [7, 8]


def test_a_class_that_is_mostly_crowds_is_warned_of(caplog):
    def change(coco):
        more = [{**coco["annotations"][0], "id": 20 + n} for n in range(2)]
        coco["annotations"] += more
        _mark(coco, 20, 21)

    found = parse_references(_changed(change), image_root="/data")
    assert [r.annotation_id for r in found.of_class(3)] == [7]
    (warning,) = [r.message for r in caplog.records if r.levelname == "WARNING"]
    assert warning.startswith("class 'bolt': 2 of its 3 annotations are marked iscrowd: 1")


def test_category_ids_from_0_are_raised_and_said(caplog):
    def change(coco):
        for block, key in (("categories", "id"), ("annotations", "category_id")):
            for item in coco[block]:
                item[key] -= 1

    found = parse_references(_changed(change), image_root="/data")
    assert [(c.category_id, c.name) for c in found.classes] == [(1, "nut"), (3, "bolt")]
    assert [r.annotation_id for r in found.of_class(3)] == [7]
    assert "category ids begin at 0" in caplog.text
    assert "each is higher by 1" in caplog.text


def _as_roboflow(coco: dict, name: str = "hardware") -> dict:
    """With the entry that Roboflow puts before the classes, and its classes below it."""
    changed = copy.deepcopy(coco)
    for category in changed["categories"]:
        category["supercategory"] = name
    parent = {"id": 0, "name": name, "supercategory": "none"}
    changed["categories"].insert(0, parent)
    return changed


@pytest.mark.parametrize("name", ["hardware", "nut"])
def test_roboflows_first_category_is_no_class(name):
    plain, found = (parse_references(c, image_root="/x") for c in (COCO, _as_roboflow(COCO, name)))
    assert found == plain


def test_a_first_category_with_an_annotation_is_a_class():
    coco = _as_roboflow(COCO)
    coco["annotations"].append({**coco["annotations"][0], "id": 9, "category_id": 0})
    assert "hardware" in [c.name for c in parse_references(coco, image_root="/x").classes]
    del coco["annotations"][2]["bbox"]  # not sound, but an annotation
    with pytest.raises(ReferencesError, match="bbox"):
        parse_references(coco, image_root="/x")


def test_names_that_look_alike_are_warned_of(caplog):
    names = {"categories": [{"id": 3, "name": "key"}, {"id": 1, "name": "Key "}]}
    parse_references({**COCO, **names}, image_root="/data")
    assert "the classes 'Key ', 'key' differ in blanks or case only" in caplog.text


def test_ids_that_are_texts_are_named():
    coco = _changed(lambda coco: coco["images"][0].update(id="a17"))
    with pytest.raises(
        ReferencesError, match=r"images\[0\]: its id is a text, 'a17'; ids are whole"
    ):
        parse_references(coco, image_root="/data")


def test_a_windows_path_is_named():
    references = parse_references(
        _changed(lambda coco: coco["images"][0].update(file_name="photos\\a.png")),
        image_root="/nowhere",
    )
    with pytest.raises(ReferencesError, match=r"a\.png; its name has \\ where paths have /"):
        check_images(references, Storage(), 0.2)


def test_a_compressed_file_is_named(tmp_path):
    (tmp_path / "refs.json").write_bytes(b"\x1f\x8b\x08" + bytes(30))
    with pytest.raises(InputError, match=r"refs\.json: is compressed \(gzip\); unpack it"):
        load_references(str(tmp_path / "refs.json"), None, Storage())


def test_a_stray_click_beside_a_polygon_is_left_out_and_said(caplog):
    stray = [[20, 20], [5, 5, 6, 6]]
    coco = _changed(lambda c: c["annotations"][0].update(segmentation=[*SQUARE, *stray]))
    found = parse_references(coco, image_root="/data")
    plain = parse_references(COCO, image_root="/data")
    assert found == plain
    assert "annotation 7: 2 of the 3 parts of its mask have one or two points" in caplog.text
    coco = _changed(lambda c: c["annotations"][0].update(segmentation=stray))
    with pytest.raises(
        ReferencesError, match="annotation 7: has a polygon that is not a list of at"
    ):
        parse_references(coco, image_root="/data")
