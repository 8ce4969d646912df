"""V7's Darwin JSON 2.0: annotations as it exports them, and what cannot be used."""

import json
import math

import numpy as np
import pytest
from PIL import Image

from ntt_ray.errors import InputError, ReferencesError
from ntt_ray.masks import decode_rle, rle_area
from ntt_ray.references.importers.darwin import read_darwin
from ntt_ray.references.importers.shapes import shapes_to_coco
from ntt_ray.storage import Storage

SLOT = {
    "type": "image", "slot_name": "0", "width": 50, "height": 40,
    "source_files": [{"file_name": "a.jpg", "url": "https://darwin.v7labs.com/api/v2/x"}],
}  # fmt: skip
OUTER = [(10, 10), (30, 10), (30, 30), (10, 30)]
INNER = [(15, 15), (25, 15), (25, 25), (15, 25)]
VALUES = np.zeros((40, 50), int)
VALUES[5:10, 5:10] = 1
VALUES[20:30, 20:25] = 2


def points(path) -> list[dict]:
    return [{"x": float(x), "y": float(y)} for x, y in path]


def found(label="nut", identity="1", **data) -> dict:
    """An annotation with what its exports have besides."""
    return {"id": identity, "name": label, "properties": [], "slot_names": ["0"], **data}


def polygon(*paths) -> dict:
    box = {"x": 10.0, "y": 10.0, "w": 20.0, "h": 20.0}
    return {"polygon": {"paths": [points(path) for path in paths]}, "bounding_box": box}


def layer(values=VALUES, ids=None) -> dict:
    runs: list[int] = []
    for value in values.ravel().tolist():
        if runs and runs[-2] == value:
            runs[-1] += 1
        else:
            runs += [value, 1]
    content = {
        "dense_rle": runs,
        "mask_annotation_ids_mapping": ids or {"m1": 1, "m2": 2},
        "total_pixels": values.size,
    }
    return found("__raster_layer__", "9", raster_layer=content)


def write(folder, *annotations, image="images/a.jpg", slots=(SLOT,), item=None, **changes) -> str:
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    (folder / image).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (50, 40)).save(folder / image)
    shown = {"name": "a.jpg", "path": "/", "slots": list(slots), **(item or {})}
    content = {"version": "2.0", "item": shown, "annotations": list(annotations), **changes}
    (folder / "annotations" / "a.json").write_text(json.dumps(content))
    return str(folder)


def shapes(folder, *annotations):
    (image,) = read_darwin(write(folder, *annotations), Storage())
    assert (image.file_name, image.size_hw) == ("images/a.jpg", (40, 50))
    return image.shapes


def test_a_polygon_of_several_paths(tmp_path):
    hole, apart = shapes(
        tmp_path,
        found("nut", **polygon(OUTER, INNER)),
        found("bolt", "2", **polygon(INNER, [(30, 30), (34, 30), (34, 34), (30, 34)])),
    )
    assert rle_area(hole.rle) == 20 * 20 - 10 * 10
    assert not decode_rle(hole.rle)[20, 20]
    assert (apart.label, rle_area(apart.rle)) == ("bolt", 10 * 10 + 4 * 4)


def test_masks_of_a_raster_layer(tmp_path):
    first, second = shapes(
        tmp_path, found("nut", "m1", mask={}), found("bolt", "m2", mask={}), layer()
    )
    assert [first.label, second.label] == ["nut", "bolt"]
    assert (decode_rle(first.rle) == (VALUES == 1)).all()
    assert (decode_rle(second.rle) == (VALUES == 2)).all()


def test_an_ellipse_is_turned_by_radians(tmp_path):
    ellipse = {"center": {"x": 25.0, "y": 20.0}, "radius": {"x": 12.0, "y": 4.0}}
    (shape,) = shapes(tmp_path, found(ellipse={**ellipse, "angle": math.pi / 2}))
    assert shape.bbox_xywh[2:] == pytest.approx((8, 24), abs=2)
    assert rle_area(shape.rle) == pytest.approx(math.pi * 48, rel=0.05)


def test_a_bounding_box_is_a_box(tmp_path):
    box = {"x": 3.5, "y": 4.0, "w": 10.0, "h": 20.25}
    (shape,) = shapes(tmp_path, found(bounding_box=box))
    assert (shape.rle, shape.bbox_xywh) == (None, (3.5, 4.0, 10.0, 20.25))


def test_parts_of_an_instance_are_one_object(tmp_path):
    folder = write(
        tmp_path,
        found("nut", instance_id={"value": 7}, **polygon(OUTER)),
        found("nut", "2", instance_id={"value": 7}, **polygon([(40, 2), (45, 2), (45, 8)])),
        found("nut", "3", **polygon(INNER)),
    )
    assert len(shapes_to_coco(read_darwin(folder, Storage()), "darwin")["annotations"]) == 2


def test_what_outlines_nothing_is_counted(tmp_path, caplog):
    others = {"keypoint": {"x": 1, "y": 2}, "line": {"path": []}, "skeleton": {}, "tag": {}}
    made = [found(kind, str(n), **{kind: data}) for n, (kind, data) in enumerate(others.items())]
    assert shapes(tmp_path, *made, found("nut", "m3", mask={}), layer()) == ()
    assert "1 shapes of type skeleton" in caplog.text
    assert "1 shapes of type mask without a pixel" in caplog.text


IMAGES = {
    "beside": ("a.jpg", {}),
    "in folders as in V7": ("images/day/1/a.jpg", {"path": "/day/1"}),
    "flat although V7 has folders": ("images/a.jpg", {"path": "/day/1"}),
    "an item without an ending": ("images/a.jpg", {"name": "a"}),
    "a renamed item": ("images/a.jpg", {"name": "first photo"}),
}


@pytest.mark.parametrize(("image", "item"), IMAGES.values(), ids=IMAGES)
def test_where_images_lie(tmp_path, image, item):
    folder = write(tmp_path, found(**polygon(OUTER)), image=image, item=item)
    (read,) = read_darwin(folder, Storage())
    assert read.file_name == image


def test_the_metadata_beside_is_no_annotation(tmp_path):
    folder = write(tmp_path, found(**polygon(OUTER)))
    (tmp_path / "annotations" / ".v7").mkdir()
    (tmp_path / "annotations" / ".v7" / "metadata.json").write_text('{"classes": []}')
    assert len(read_darwin(folder, Storage())) == 1


ANNOTATIONS = {
    "no name": ({"name": ""}, "it has no name"),
    "an unknown form": ({"sphere": {}}, "none is a form that is known"),
    "version 1": ({"polygon": {"path": []}}, "no list 'paths'"),
    "two points": (polygon(OUTER[:2]), "."),
    "a point without y": ({"polygon": {"paths": [[{"x": 1}]]}}, "x, y are not finite"),
    "paths of texts": ({"polygon": {"paths": ["a"]}}, "no list 'paths'"),
    "an ellipse without a radius": ({"ellipse": {"center": {"x": 1, "y": 1}}}, "no table"),
    "an endless box": (
        {"bounding_box": {"x": 1, "y": 1, "w": float("inf"), "h": 1}},
        "are not finite numbers",
    ),
}


@pytest.mark.parametrize(("data", "said"), ANNOTATIONS.values(), ids=ANNOTATIONS)
def test_annotations_that_cannot_be_used(tmp_path, data, said):
    folder = write(tmp_path, {**found(), **data})
    with pytest.raises(ReferencesError, match=rf"annotations/a\.json: annotation 0: .*{said}"):
        read_darwin(folder, Storage())


FILES = {
    "version 1": ({"item": None}, None),
    "a video": ({"slots": [{**SLOT, "type": "video"}]}, r"is not of one image \(video\)"),
    "two slots": ({"slots": [SLOT, SLOT]}, "is not of one image"),
    "another size": ({"slots": [{**SLOT, "width": 60}]}, "was annotated at 60 x 40"),
    "annotations of a video": ({"annotations": {}}, "no list 'annotations'"),
    "no image": (
        {"item": {"name": "b.jpg"}, "slots": [{**SLOT, "source_files": []}]},
        "its image 'b.jpg' is not below the folder",
    ),
}


@pytest.mark.parametrize(("changes", "said"), FILES.values(), ids=FILES)
def test_files_that_cannot_be_used(tmp_path, changes, said):
    folder = write(tmp_path, **changes)
    if said is None:
        path = tmp_path / "annotations" / "a.json"
        content = json.loads(path.read_text())
        del content["item"]
        path.write_text(json.dumps({**content, "image": {"filename": "a.jpg"}}))
        said = "export as Darwin JSON 2.0"
    with pytest.raises(ReferencesError, match=said):
        read_darwin(folder, Storage())


def test_runs_that_do_not_add_up(tmp_path):
    folder = write(tmp_path, found("nut", "m1", mask={}), layer(VALUES[:30]))
    with pytest.raises(ReferencesError, match="add up to 1500 pixels, not to 50 x 40"):
        read_darwin(folder, Storage())


def test_images_that_are_there_twice(tmp_path):
    folder = write(tmp_path, found(**polygon(OUTER)), image="images/one/a.jpg")
    write(tmp_path, found(**polygon(OUTER)), image="images/two/a.jpg")
    with pytest.raises(ReferencesError, match="is below the folder 2 times"):
        read_darwin(folder, Storage())


def test_an_empty_folder(tmp_path):
    with pytest.raises(InputError, match="no Darwin JSON"):
        read_darwin(str(tmp_path), Storage())
