"""Supervisely's data sets: objects as its tools write them, and what cannot be used."""

import base64
import io
import json
import zlib

import numpy as np
import pytest
from PIL import Image

from ntt_ray.errors import InputError, ReferencesError
from ntt_ray.masks import decode_rle, rle_area
from ntt_ray.references.importers.supervisely import read_supervisely
from ntt_ray.storage import Storage

SIZE = {"height": 40, "width": 50}
PART = np.zeros((6, 8), bool)
PART[1:5, 2:8] = True


def bitmap(part=PART, origin=(10, 20), packed=True) -> dict:
    """As its SDK: a PNG with a palette whose index 0 is transparent, packed, in base64."""
    picture = Image.fromarray(part.astype(np.uint8)).convert("P")
    picture.putpalette([0, 0, 0, 255, 255, 255])
    stream = io.BytesIO()
    picture.save(stream, "PNG", transparency=0, optimize=0)
    data = zlib.compress(stream.getvalue()) if packed else stream.getvalue()
    return {"data": base64.b64encode(data).decode(), "origin": list(origin)}


def found(kind, label="nut", **geometry) -> dict:
    """An object with what its exports have besides."""
    return {
        "id": 497521359, "classId": 1661571, "description": "", "labelerLogin": "alexxx",
        "createdAt": "2020-08-07T11:09:51.054Z", "tags": [], "geometryType": kind,
        "classTitle": label, **geometry,
    }  # fmt: skip


def ring(*exterior, interior=()) -> dict:
    return {"points": {"exterior": [list(p) for p in exterior], "interior": list(interior)}}


HOLE = [[15, 15], [25, 15], [25, 25], [15, 25]]
POLYGON = ring((10, 10), (30, 10), (30, 30), (10, 30), interior=[HOLE])


def write(folder, *objects, name="a.jpg", ann="a.jpg.json", **changes) -> str:
    (folder / "lemons" / "img").mkdir(parents=True, exist_ok=True)
    (folder / "lemons" / "ann").mkdir(exist_ok=True)
    Image.new("RGB", (50, 40)).save(folder / "lemons" / "img" / name)
    (folder / "meta.json").write_text(json.dumps({"classes": [{"title": "nut"}], "tags": []}))
    content = {"description": "", "tags": [], "size": SIZE, "objects": list(objects), **changes}
    (folder / "lemons" / "ann" / ann).write_text(json.dumps(content))
    return str(folder)


def shapes(folder, *objects):
    (image,) = read_supervisely(write(folder, *objects), Storage())
    assert (image.file_name, image.size_hw) == ("lemons/img/a.jpg", (40, 50))
    return image.shapes


@pytest.mark.parametrize("packed", [True, False])
def test_a_bitmap_lies_where_it_begins(tmp_path, packed):
    (shape,) = shapes(tmp_path, found("bitmap", bitmap=bitmap(packed=packed)))
    expected = np.zeros((40, 50), bool)
    expected[20:26, 10:18] = PART
    assert shape.label == "nut"
    assert (decode_rle(shape.rle) == expected).all()


def test_a_bitmap_that_is_full(tmp_path):
    full = bitmap(np.ones((6, 8), bool), origin=(0, 0))
    (shape,) = shapes(tmp_path, found("bitmap", bitmap=full))
    assert rle_area(shape.rle) == 48


def test_a_polygon_has_its_hole(tmp_path):
    (shape,) = shapes(tmp_path, found("polygon", **POLYGON))
    inside = decode_rle(shape.rle)
    assert rle_area(shape.rle) == 20 * 20 - 10 * 10
    assert inside[12, 12]
    assert not inside[20, 20]


def test_a_rectangle_is_a_box_with_both_corners(tmp_path):
    (shape,) = shapes(tmp_path, found("rectangle", "bolt", **ring((4, 6), (13, 25))))
    assert (shape.rle, shape.bbox_xywh) == (None, (4, 6, 10, 20))


def test_what_outlines_nothing_is_counted(tmp_path, caplog):
    kinds = ("point", "polyline", "line", "graph")
    assert shapes(tmp_path, *(found(kind, **ring((1, 1))) for kind in kinds)) == ()
    assert "1 shapes of type polyline" in caplog.text


def test_old_exports(tmp_path):
    old = found("bitmap", bitmap=bitmap())
    del old["geometryType"]
    polygon = found("polygon", **POLYGON)
    del polygon["geometryType"]
    folder = write(tmp_path, old, polygon, ann="a.json")
    (image,) = read_supervisely(folder, Storage())
    assert [rle_area(shape.rle) for shape in image.shapes] == [24, 300]


def test_a_data_set_alone(tmp_path):
    write(tmp_path, found("bitmap", bitmap=bitmap()))
    (image,) = read_supervisely(str(tmp_path / "lemons"), Storage())
    assert image.file_name == "img/a.jpg"


WRONG = {
    "no class": ({"classTitle": ""}, "it has no classTitle"),
    "an unknown form": ({"geometryType": "cuboid_3d"}, "a cuboid_3d is not known"),
    "no origin": ({"bitmap": {"data": bitmap()["data"]}}, "no origin"),
    "origins of texts": ({"bitmap": {**bitmap(), "origin": ["1", "2"]}}, "no origin"),
    "outside": ({"bitmap": bitmap(origin=(60, 60))}, "covers no pixel"),
    "before": ({"bitmap": bitmap(origin=(-1, 0))}, "begins at -1, 0"),
    "not base64": ({"bitmap": {**bitmap(), "data": "!"}}, "not a packed PNG"),
    "no text": ({"bitmap": {**bitmap(), "data": 5}}, "not a packed PNG"),
    "not packed": ({"bitmap": {**bitmap(), "data": "AAAA"}}, "not a packed PNG"),
    "no points": ({"geometryType": "polygon", "points": None}, "not a list of"),
    "one corner": ({"geometryType": "rectangle", **ring((1, 1))}, "1 corners, not two"),
    "endless": ({"geometryType": "polygon", **ring((1, float("inf")))}, "not a finite number"),
}


@pytest.mark.parametrize(("changes", "said"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_used_is_named(tmp_path, changes, said):
    folder = write(tmp_path, {**found("bitmap", bitmap=bitmap()), **changes})
    with pytest.raises(ReferencesError, match=rf"ann/a\.jpg\.json: object 0: .*{said}"):
        read_supervisely(folder, Storage())


def test_a_bomb_is_no_mask(tmp_path):
    bomb = base64.b64encode(zlib.compress(bytes(200 << 20))).decode()
    folder = write(tmp_path, found("bitmap", bitmap={"data": bomb, "origin": [0, 0]}))
    with pytest.raises(ReferencesError, match="not a packed PNG"):
        read_supervisely(folder, Storage())


FILES = {
    "another size": ({"size": {"height": 50, "width": 40}}, "was annotated at 40 x 50"),
    "no objects": ({"objects": None}, "no list 'objects'"),
    "no image": ({"ann": "b.jpg.json"}, "there is no image lemons/img/b.jpg"),
}


@pytest.mark.parametrize(("changes", "said"), FILES.values(), ids=FILES)
def test_files_that_cannot_be_used(tmp_path, changes, said):
    with pytest.raises(ReferencesError, match=said):
        read_supervisely(write(tmp_path, **changes), Storage())


def test_another_folder(tmp_path):
    with pytest.raises(InputError, match=r"no ann/NAME\.json"):
        read_supervisely(str(tmp_path), Storage())
