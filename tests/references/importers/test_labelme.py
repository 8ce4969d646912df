"""LabelMe files as LabelMe 5 and 6 write them."""

import base64
import copy
import io
import json
import math

import numpy as np
import pytest
from PIL import Image

from ntt_ray.errors import InputError, ReferencesError
from ntt_ray.masks import decode_rle
from ntt_ray.references.importers.labelme import read_labelme
from ntt_ray.storage import Storage

SIZE_HW = (60, 80)
PART = np.zeros((11, 21), dtype=bool)
PART[2:, 3:] = True


def png(values) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "PNG")
    return stream.getvalue()


def shape(kind, points, label="nut", group_id=None, **more) -> dict:
    return {
        "label": label,
        "points": points,
        "group_id": group_id,
        "description": "",
        "shape_type": kind,
        "flags": {},
        **more,
    }


MASK_TEXT = base64.b64encode(png(PART)).decode()
CONTENT = {
    "version": "5.5.0",
    "flags": {},
    "shapes": [
        shape("polygon", [[10.0, 10.0], [30.0, 10.0], [30.0, 20.0], [10.0, 20.0]]),
        shape("rectangle", [[50.0, 40.5], [40.0, 20.25]], "bolt", 3, mask=None),
        shape("circle", [[40.0, 30.0], [46.0, 38.0]]),
        shape("mask", [[30.0, 20.0], [50.0, 30.0]], mask=MASK_TEXT),
        shape("oriented_rectangle", [[20, 10], [30, 20], [20, 30], [10, 20]]),
        shape("line", [[1.0, 1.0], [2.0, 2.0]]),
        shape("point", [[1.0, 1.0]]),
        shape("linestrip", [[1.0, 1.0], [2.0, 2.0], [3.0, 1.0]]),
    ],
    "imagePath": "a.png",
    "imageData": None,
    "imageHeight": 60,
    "imageWidth": 80,
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a.png").write_bytes(png(np.zeros((*SIZE_HW, 3), dtype=np.uint8)))
    return tmp_path


def read(folder, content, name="a.json"):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps(content))
    return read_labelme(str(folder), Storage())


def test_every_kind_of_shape(folder, caplog):
    (image,) = read(folder, CONTENT)
    assert (image.file_name, image.size_hw) == ("a.png", SIZE_HW)
    polygon, rectangle, circle, mask, oriented = image.shapes
    assert decode_rle(polygon.rle)[10:20, 10:30].all()
    assert decode_rle(polygon.rle).sum() == 200
    assert (rectangle.label, rectangle.group, rectangle.rle) == ("bolt", 3, None)
    assert rectangle.bbox_xywh == (40.0, 20.25, 10.0, 20.25)
    assert decode_rle(circle.rle).sum() == pytest.approx(math.pi * 100, rel=0.02)
    assert np.array_equal(decode_rle(mask.rle)[20:31, 30:51], PART)
    assert decode_rle(mask.rle).sum() == PART.sum()
    assert (oriented.rle, oriented.bbox_xywh) == (None, (10.0, 10.0, 20.0, 20.0))
    for kind in ("line", "point", "linestrip"):
        assert f"1 shapes of type {kind} outline no object" in caplog.text


PLACES = {
    "beside the JSON": ("a.png", "a.json"),
    "in another folder": ("../a.png", "json/a.json"),
    "written on Windows": ("..\\a.png", "json/a.json"),
    "moved beside the JSON": ("C:\\photos\\a.png", "a.json"),
    "out of the folder, then beside": ("../../elsewhere/a.png", "a.json"),
}


@pytest.mark.parametrize(("path", "name"), PLACES.values(), ids=PLACES.keys())
def test_where_images_are(folder, path, name):
    (image,) = read(folder, {**CONTENT, "imagePath": path}, name)
    assert image.file_name == "a.png"


def test_sizes_that_are_not_given_come_from_the_image(folder):
    (image,) = read(folder, {**CONTENT, "imageHeight": None, "imageWidth": None})
    assert image.size_hw == SIZE_HW


def _changed(**values):
    return lambda content: content.update(values)


def _with_shape(*arguments, **more):
    return lambda content: content["shapes"].append({**shape(*arguments), **more})


PROBLEMS = {
    "not LabelMe": (_changed(shapes=None), "a.json: not a LabelMe file"),
    "no image": (_changed(imagePath="b.png"), "its image 'b.png' is not below the folder"),
    "image in the JSON": (_changed(imagePath="b.png", imageData="aGFsbG8="), "imageData: save"),
    "other size": (_changed(imageWidth=81), "is 80 x 60 pixels, but was annotated at 81 x 60"),
    "two points": (_with_shape("polygon", [[1, 1], [2, 2]]), "shape 8: has a polygon that is not"),
    "no points": (_with_shape("polygon", None), "shape 8: its points are not a list"),
    "text": (_with_shape("polygon", [["a", 1]] * 3), "shape 8: it has a point that is not"),
    "giant": (_with_shape("circle", [[1, 1], [10**400, 1]]), "shape 8: it has a point that is not"),
    "no label": (_with_shape("polygon", [[1, 1]], ""), "shape 8: its label is empty"),
    "unknown": (_with_shape("cloud", [[1, 1]]), "shape 8: a cloud of 1 points is not known"),
    "mask of another size": (
        _with_shape("mask", [[1, 1], [5, 5]], mask=MASK_TEXT),
        "shape 8: its mask is",
    ),
    "no mask": (_with_shape("mask", [[1, 1], [5, 5]], mask=None), "shape 8: its mask is not a PNG"),
    "outside": (_with_shape("polygon", [[90, 1], [99, 1], [99, 9]]), "covers no pixel"),
}


@pytest.mark.parametrize(("change", "text"), PROBLEMS.values(), ids=PROBLEMS.keys())
def test_problems_are_named(folder, change, text):
    content = copy.deepcopy(CONTENT)
    change(content)
    with pytest.raises(ReferencesError, match=text):
        read(folder, content)


def test_all_problems_at_once(folder):
    (folder / "b.json").write_text("{")
    with pytest.raises(ReferencesError) as caught:
        read(folder, {**CONTENT, "shapes": [shape("cloud", [[1, 1]]), shape("", [])]})
    assert len(caught.value.problems) == 3


def test_an_empty_folder(tmp_path):
    with pytest.raises(InputError, match="no LabelMe JSON file"):
        read_labelme(str(tmp_path), Storage())


def test_a_list_of_label_studio_is_named(folder):
    (folder / "project-1.json").write_text("[]")
    with pytest.raises(ReferencesError, match=r"project-1\.json: .* use --from labelstudio"):
        read_labelme(str(folder), Storage())
