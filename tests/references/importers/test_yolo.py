"""YOLO's texts: which belongs to which image, and what a line says."""

import numpy as np
import pytest
from PIL import Image

from ntt_ray.errors import InputError, ReferencesError
from ntt_ray.masks import decode_rle
from ntt_ray.references.importers.shapes import shapes_to_coco
from ntt_ray.references.importers.yolo import read_yolo
from ntt_ray.storage import Storage

WIDTH, HEIGHT = 50, 40
NAMES = "names: [nut, bolt]\n"
SQUARE = "1 0.2 0.25 0.6 0.25 0.6 0.75 0.2 0.75"  # x 10 to 30, y 10 to 30
BOX = "0 0.5 0.5 0.4 0.5"  # x 15 to 35, y 10 to 30


def write(folder, files, names=NAMES):
    """Texts by the names of their images, None for an image without one."""
    if names is not None:
        folder.mkdir(exist_ok=True)
        (folder / "data.yaml").write_text(names)
    for image, text in files.items():
        path = folder / image
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (WIDTH, HEIGHT)).save(path)
        if text is not None:
            label = folder / image.replace("images/", "labels/", 1)
            label = label.with_suffix(".txt")
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text(text)
    return str(folder)


LAYOUTS = ["images/train/a.png", "images/a.png", "a.png", "day/images/b/a.png"]


@pytest.mark.parametrize("image", LAYOUTS)
@pytest.mark.parametrize("names", [NAMES, "names: {0: nut, 1: bolt}\nnc: 2\n"])
def test_polygons_and_boxes(tmp_path, image, names):
    folder = write(tmp_path / "set", {image: f"{SQUARE}\n\n{BOX}\n"}, names)
    (found,) = read_yolo(folder, Storage())
    assert (found.file_name, found.size_hw) == (image, (HEIGHT, WIDTH))
    polygon, box = found.shapes
    wanted = np.zeros((HEIGHT, WIDTH), bool)
    wanted[10:30, 10:30] = True
    assert (decode_rle(polygon.rle) == wanted).all()
    assert (polygon.label, box.label, box.rle) == ("bolt", "nut", None)
    assert box.bbox_xywh == pytest.approx((15.0, 10.0, 20.0, 20.0))


def test_images_without_a_text_have_no_object(tmp_path):
    folder = write(tmp_path, {"images/a.png": SQUARE, "images/b.png": None, "images/c.png": ""})
    coco = shapes_to_coco(read_yolo(folder, Storage()), "yolo")
    assert [image["file_name"] for image in coco["images"]] == ["images/a.png"]


WRONG = {
    "a class without a name": ("7 0.1 0.1 0.5 0.1 0.5 0.5", "line 1: there is no name of class 7"),
    "a pose": ("0 0.5 0.5 0.4 0.5 0.1", "line 1: 5 numbers are neither a box nor a polygon"),
    "words": ("nut 0.5 0.5 0.4 0.5", "line 1: it is not a class and numbers"),
    "pixels": ("0 10 10 30 10 30 30", "line 1: it has a number that is no share of the image"),
    "not a number": ("0 nan 0.5 0.4 0.5", "line 1: it has a number that is no share"),
    "in the second line": (f"{SQUARE}\n1 0.5", "line 2: 1 numbers are neither"),
}


@pytest.mark.parametrize(("text", "message"), WRONG.values(), ids=WRONG)
def test_wrong_lines_are_named(tmp_path, text, message):
    folder = write(tmp_path, {"images/a.png": text})
    with pytest.raises(ReferencesError, match=rf"labels/a\.txt: {message}"):
        read_yolo(folder, Storage())


def test_a_text_without_an_image_is_named(tmp_path):
    folder = write(tmp_path, {"images/a.png": SQUARE})
    (tmp_path / "labels" / "lost.txt").write_text(SQUARE)
    with pytest.raises(ReferencesError, match=r"labels/lost\.txt: there is no image to it"):
        read_yolo(folder, Storage())


NO_NAMES = {
    "no file": (None, "there is no file of names"),
    "no names": ("nc: 2", "it has no list or table 'names'"),
    "numbers": ("names: [1, 2]", "its 'names' are not texts by number"),
    "not YAML": ("names: [", r"data\.yaml: "),
}


@pytest.mark.parametrize(("names", "message"), NO_NAMES.values(), ids=NO_NAMES)
def test_without_names_there_is_nothing_to_read(tmp_path, names, message):
    folder = write(tmp_path / "set", {"images/a.png": SQUARE}, names)
    with pytest.raises(InputError, match=message):
        read_yolo(folder, Storage())


def test_without_texts_too(tmp_path):
    folder = write(tmp_path, {"images/a.png": None})
    with pytest.raises(InputError, match="there is no text of labels"):
        read_yolo(folder, Storage())
