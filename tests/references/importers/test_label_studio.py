"""Label Studio's tasks: which image and which annotation count, and what a result says."""

import json

import numpy as np
import pytest
from PIL import Image

from ntt_ray.errors import InputError, ReferencesError
from ntt_ray.masks import decode_rle, encode_mask, rle_bbox_xywh
from ntt_ray.merge.mask_parts import MaskPart
from ntt_ray.merge.profiles.brush import brush_rle
from ntt_ray.references.importers.label_studio import read_label_studio
from ntt_ray.storage import Storage

WIDTH, HEIGHT = 50, 40
WANTED = np.zeros((HEIGHT, WIDTH), bool)
WANTED[10:30, 10:30] = True
SQUARE = [[20, 25], [60, 25], [60, 75], [20, 75]]


def rle_of(mask):
    return brush_rle(MaskPart(mask, 0, 0, encode_mask(mask)))


def result(kind="polygonlabels", label="nut", **value):
    value = value or {"points": SQUARE}
    return {"type": kind, "value": {kind: [label], **value}}


def task(*results, image="a.png", **more):
    return {"data": {"image": image}, "annotations": [{"result": list(results)}], **more}


def write(folder, tasks, images=("a.png",)):
    for name in images:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (WIDTH, HEIGHT)).save(folder / name)
    text = tasks if isinstance(tasks, str) else json.dumps(tasks)
    (folder / "project-1.json").write_text(text)
    return str(folder)


def shapes(folder, *results):
    (found,) = read_label_studio(write(folder, [task(*results)]), Storage())
    return found.shapes


def test_polygons(tmp_path):
    (shape,) = shapes(tmp_path, result())
    assert (shape.label, (decode_rle(shape.rle) == WANTED).all()) == ("nut", True)


@pytest.mark.parametrize("seed", range(4))
def test_brush_masks_are_those_that_were_written(tmp_path, seed):
    pixels = np.random.default_rng(seed).random((HEIGHT, WIDTH)) > (0.5 if seed else 0.0)
    (shape,) = shapes(tmp_path, result("brushlabels", rle=rle_of(pixels), format="rle"))
    assert (decode_rle(shape.rle) == pixels).all()


def test_rectangles_are_boxes_and_turned_ones_too(tmp_path):
    plain = {"x": 20, "y": 25, "width": 40, "height": 50}
    flat, turned = shapes(
        tmp_path, result("rectanglelabels", **plain),
        result("rectanglelabels", **plain, rotation=90),
    )  # fmt: skip
    assert (flat.rle, flat.bbox_xywh) == (None, pytest.approx((10, 10, 20, 20)))
    assert turned.bbox_xywh == pytest.approx((0, 10, 10, 20))  # cut off at the border


def test_ellipses(tmp_path):
    (shape,) = shapes(tmp_path, result("ellipselabels", x=50, y=50, radiusX=20, radiusY=25))
    assert rle_bbox_xywh(shape.rle) == pytest.approx([15, 10, 20, 20], abs=1)


def test_what_outlines_nothing_is_left_out_and_counted(tmp_path, caplog):
    assert len(shapes(tmp_path, result(), {"type": "choices", "value": {"choices": ["x"]}})) == 1
    assert "1 shapes of type choices outline no object" in caplog.text


def test_the_last_annotation_that_was_not_cancelled_counts(tmp_path):
    made = task(image="a.png")
    made["annotations"] = [
        {"result": [result(label="old")]},
        {"result": [result(label="new")]},
        {"result": [result(label="no")], "was_cancelled": True},
    ]
    (found,) = read_label_studio(write(tmp_path, [made]), Storage())
    assert [shape.label for shape in found.shapes] == ["new"]


def test_without_one_the_first_prediction_does(tmp_path):
    made = {"data": {"image": "a.png"}, "predictions": [{"result": [result(label="guess")]}]}
    empty = {"data": {"image": "a.png"}, "annotations": []}
    (found,) = read_label_studio(write(tmp_path, [made, empty]), Storage())
    assert [shape.label for shape in found.shapes] == ["guess"]


ADDRESSES = {
    "a name": "x/a.png",
    "a bucket": "s3://bucket/photos/x/a.png",
    "an upload": "/data/upload/3/1234abcd-a.png",
    "local files": "/data/local-files/?d=photos/x/a.png",
    "escaped": "https://host/x/%61.png?token=1",
    "Windows": "photos\\x\\a.png",
}


@pytest.mark.parametrize("address", ADDRESSES.values(), ids=ADDRESSES)
def test_images_are_found_by_the_end_of_their_address(tmp_path, address):
    folder = write(tmp_path, [task(result(), image=address)], ["x/a.png", "x/b.png"])
    (found,) = read_label_studio(folder, Storage())
    assert found.file_name == "x/a.png"


WRONG = {
    "no image": (task(result(), image="z.png"), "its image 'z.png' is not below the folder"),
    "two of the name": (task(result(), image="other/b.png"), "'b.png' is below the folder 2 times"),
    "no label": ({**task(result()), "annotations": [{"result": [
        {"type": "polygonlabels", "value": {"points": SQUARE}}]}]}, "it has not one label"),
    "a damaged mask": (task(result("brushlabels", rle=[1, 2, 3])), "its rle ends too early"),
    "another size": (task({**result(), "original_width": 99, "original_height": 40}),
                     "50 x 40 pixels, but was annotated at 99 x 40"),
    "no numbers": (task(result("rectanglelabels", x="a", y=1, width=1, height=1)), "not numbers"),
    "no points": (task(result(points="x")), "its points are not a list"),
}  # fmt: skip


@pytest.mark.parametrize(("made", "message"), WRONG.values(), ids=WRONG)
def test_wrong_tasks_are_named(tmp_path, made, message):
    folder = write(tmp_path, [made], ["a.png", "x/b.png", "y/b.png"])
    with pytest.raises(ReferencesError, match=rf"project-1\.json: task 0.*{message}"):
        read_label_studio(folder, Storage())


@pytest.mark.parametrize("text", ["{", '{"data": 1}', "[1]", '[{"image": "a.png"}]'])
def test_other_files_are_named(tmp_path, text):
    with pytest.raises(ReferencesError, match=r"project-1\.json: (not|its tasks)"):
        read_label_studio(write(tmp_path, text), Storage())


def test_a_mask_of_a_length_that_lies(tmp_path):
    rle = rle_of(WANTED)
    for wrong, message in (
        (rle[:-2], "ends too early|longer than"),
        ([255] * 4 + rle[4:], "of no picture"),
        (rle_of(WANTED[:19]), "of another size"),
    ):
        with pytest.raises(ReferencesError, match=message):
            shapes(tmp_path, result("brushlabels", rle=wrong))


def test_there_is_nothing(tmp_path):
    with pytest.raises(InputError, match="no Label Studio JSON file"):
        read_label_studio(str(tmp_path), Storage())
