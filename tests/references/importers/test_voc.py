"""VOC's folders: an object for each value, and its class from the map beside."""

import numpy as np
import pytest
from PIL import Image

from ntt_ray.errors import InputError, ReferencesError
from ntt_ray.masks import decode_rle
from ntt_ray.references.importers.folders import read_folders
from ntt_ray.references.importers.voc import read_voc
from ntt_ray.storage import Storage

OBJECTS = np.zeros((40, 50), np.uint8)
OBJECTS[5:15, 5:20] = 1
OBJECTS[20:35, 25:45] = 2
OBJECTS[15, 5:20] = 255  # a border
CLASSES = np.select([OBJECTS == 1, OBJECTS == 2, OBJECTS == 255], [9, 12, 255], 0).astype(np.uint8)


def write(folder, objects=OBJECTS, classes=CLASSES, **files):
    for place in ("JPEGImages", "SegmentationObject", "SegmentationClass"):
        (folder / place).mkdir(parents=True)
    Image.new("RGB", (50, 40)).save(folder / "JPEGImages" / "a.jpg")
    for place, values in (("SegmentationObject", objects), ("SegmentationClass", classes)):
        picture = Image.fromarray(values)
        if values.ndim == 2:
            picture = picture.convert("P")
            picture.putpalette([n % 256 for n in range(768)])
        picture.save(folder / place / "a.png")
    for name, text in files.items():
        (folder / f"{name}.txt").write_text(text)
    return str(folder)


def test_objects_and_their_classes(tmp_path):
    (found,) = read_voc(write(tmp_path / "voc"), Storage())
    assert found.file_name == "JPEGImages/a.jpg"
    assert [shape.label for shape in found.shapes] == ["chair", "dog"]
    for number, shape in enumerate(found.shapes, start=1):
        assert (decode_rle(shape.rle) == (number == OBJECTS)).all()


def test_a_list_of_labels_comes_first(tmp_path):
    listed = "# label:color_rgb:parts:actions\nbackground:0,0,0::\n" + "".join(
        f"c{n}:{n},{n},{n}::\n" for n in range(1, 13)
    )
    (found,) = read_voc(write(tmp_path / "voc", labelmap=listed), Storage())
    assert [shape.label for shape in found.shapes] == ["c9", "c12"]


LABELS = "# label:color_rgb:parts:actions\nbackground:0,0,0::\nbolt:0,32,128::\nnut:9,9,9::\n"


def coloured(values, colours):
    picture = np.zeros((*values.shape, 3), np.uint8)
    for value, rgb in colours.items():
        picture[values == value] = rgb
    return picture


def test_coloured_maps_as_of_cvat(tmp_path):
    """As its "Segmentation mask 1.1": both in RGB, with VOC's colours for objects and borders."""
    border = {255: (224, 224, 192)}
    objects = coloured(OBJECTS, {1: (128, 0, 0), 2: (0, 128, 0), **border})
    classes = coloured(CLASSES, {9: (9, 9, 9), 12: (0, 32, 128), **border})
    folder = write(tmp_path / "voc", objects, classes, labelmap=LABELS)
    (found,) = read_voc(folder, Storage())
    assert {
        shape.label: (decode_rle(shape.rle) == (n == OBJECTS)).all()
        for n, shape in zip((2, 1), found.shapes, strict=True)
    } == {"nut": True, "bolt": True}


def test_class_maps_of_one_grey(tmp_path):
    only = np.where(OBJECTS == 1, OBJECTS, 0)
    classes = coloured(only, {1: (9, 9, 9)})
    (found,) = read_voc(write(tmp_path / "voc", only, classes, labelmap=LABELS), Storage())
    assert [shape.label for shape in found.shapes] == ["nut"]


def test_a_colour_that_no_label_has(tmp_path):
    classes = coloured(CLASSES, {9: (1, 2, 3), 12: (0, 32, 128)})
    folder = write(tmp_path / "voc", OBJECTS, classes, labelmap=LABELS)
    with pytest.raises(ReferencesError, match="object 1: has the colour 1,2,3, which labelmap"):
        read_voc(folder, Storage())


WRONG = {
    "another size": ({"objects": OBJECTS[:30]}, "is 50 x 30 pixels, but its image 50 x 40"),
    "a class without a name": ({"labelmap": "background:0,0,0::\nnut:1,1,1::"}, "has the class 9"),
    "coloured": ({"classes": np.stack([CLASSES, OBJECTS, OBJECTS], -1)}, "is a coloured picture"),
}


@pytest.mark.parametrize(("changes", "message"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_used_is_named(tmp_path, changes, message):
    folder = write(tmp_path / "voc", **changes)
    with pytest.raises(ReferencesError, match=rf"SegmentationObject/a\.png: .*{message}"):
        read_voc(folder, Storage())


def test_a_mask_without_an_image_and_an_image_without_a_mask(tmp_path):
    folder = write(tmp_path / "voc")
    Image.new("RGB", (50, 40)).save(tmp_path / "voc" / "JPEGImages" / "b.jpg")  # not annotated
    assert len(read_voc(folder, Storage())) == 1
    Image.fromarray(OBJECTS).save(tmp_path / "voc" / "SegmentationObject" / "z.png")
    with pytest.raises(ReferencesError, match=r"z\.png: there is no image to this mask"):
        read_voc(folder, Storage())


def test_other_folders_are_refused_with_the_way_to_read_them(tmp_path):
    with pytest.raises(InputError, match="use --from voc"):
        read_folders(write(tmp_path / "voc"), Storage())
    (tmp_path / "other").mkdir()
    with pytest.raises(InputError, match="there is no JPEGImages"):
        read_voc(str(tmp_path / "other"), Storage())
    (tmp_path / "yolo" / "labels").mkdir(parents=True)
    (tmp_path / "yolo" / "labels" / "a.txt").write_text("0 0.5 0.5 0.1 0.1")
    with pytest.raises(InputError, match="use --from yolo"):
        read_folders(str(tmp_path / "yolo"), Storage())
