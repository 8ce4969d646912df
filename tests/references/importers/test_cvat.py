"""An export "CVAT for images 1.1", as CVAT documents and writes it."""

import math

import numpy as np
import pytest
from PIL import Image

from ntt_ray.errors import InputError, ReferencesError
from ntt_ray.masks import decode_rle
from ntt_ray.references.importers.cvat import read_cvat
from ntt_ray.storage import Storage

# the mask is the example of CVAT's documentation: 13 x 15 pixels, row by row
MASK_RUNS = (
    "3, 5, 7, 7, 5, 9, 3, 11, 2, 11, 2, 12, 1, 12, 1, 26, 1, 12, 1, 12, 2, 11, 3, 9, 5, 7, 7, 5, 3"
)
HEAD = """<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta>
    <task>
      <id>4</id>
      <name>segmentation</name>
      <size>1</size>
      <mode>annotation</mode>
      <overlap>0</overlap>
      <labels><label><name>car</name><type>any</type><attributes></attributes></label></labels>
      <segments><segment><id>4</id><start>0</start><stop>0</stop></segment></segments>
    </task>
    <dumped>2018-09-25 11:38:28.799808+03:00</dumped>
  </meta>
"""
SHAPES = f"""
    <box label="plate" source="manual" occluded="0" xtl="79.33" ytl="87.92" xbr="96.52" ybr="92.94" z_order="4">
      <attribute name="text">AB 1</attribute>
    </box>
    <box label="plate" source="manual" occluded="0" xtl="50.00" ytl="50.00" xbr="70.00" ybr="60.00" rotation="90.00" z_order="4">
    </box>
    <polygon label="car" source="manual" occluded="0" points="10.00,10.00;30.00,10.00;30.00,20.00;10.00,20.00" z_order="1" group_id="2">
    </polygon>
    <polyline label="line" occluded="0" points="46.10,0.00;12.80,100.00" z_order="3">
    </polyline>
    <points label="wheel" occluded="0" points="57.90,93.48;117.16,90.90" z_order="5">
    </points>
    <ellipse label="car" source="manual" occluded="0" cx="60.00" cy="40.00" rx="20.00" ry="10.00" z_order="0">
    </ellipse>
    <ellipse label="car" source="manual" occluded="0" cx="60.00" cy="40.00" rx="20.00" ry="10.00" rotation="90.00" z_order="0">
    </ellipse>
    <tag label="good_frame" source="manual">
    </tag>
    <skeleton label="s1" source="manual" z_order="0">
      <points label="1" occluded="0" source="manual" outside="0" points="54.47,94.81">
      </points>
    </skeleton>
    <cuboid label="car" source="manual" occluded="0" xtl1="1" ytl1="1" xbl1="1" ybl1="9" xtr1="5" ytr1="1" xbr1="5" ybr1="9" xtl2="7" ytl2="1" xbl2="7" ybl2="9" xtr2="9" ytr2="1" xbr2="9" ybr2="9" z_order="0">
    </cuboid>
    <mask label="car" source="manual" occluded="0" rle="{MASK_RUNS}" left="70" top="80" width="13" height="15" z_order="0">
    </mask>
"""  # noqa: E501


def image(shapes, name="frame 1.png", more="") -> str:
    return f'  <image id="0" name="{name}" width="160" height="120"{more}>{shapes}  </image>\n'


def export(folder, *images, place="images/frame 1.png"):
    (folder / "annotations.xml").write_text(HEAD + "".join(images) + "</annotations>\n")
    (folder / place).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (160, 120)).save(folder / place)
    return str(folder)


def test_every_kind_of_shape(tmp_path, caplog):
    (read,) = read_cvat(export(tmp_path, image(SHAPES)), Storage())
    assert (read.file_name, read.size_hw) == ("images/frame 1.png", (120, 160))
    plate, turned, polygon, ellipse, upright, mask = read.shapes
    assert (plate.label, plate.rle, plate.group) == ("plate", None, None)
    assert plate.bbox_xywh == pytest.approx((79.33, 87.92, 17.19, 5.02))
    assert turned.bbox_xywh == pytest.approx((55, 45, 10, 20))
    assert polygon.group == 2
    assert polygon.bbox_xywh == (10, 10, 20, 10)
    assert decode_rle(polygon.rle).sum() == 200
    assert decode_rle(ellipse.rle).sum() == pytest.approx(math.pi * 200, rel=0.02)
    assert ellipse.bbox_xywh == pytest.approx((40, 30, 40, 20), abs=1)
    assert upright.bbox_xywh == pytest.approx((50, 20, 20, 40), abs=1)
    for kind in ("polyline", "points", "tag", "skeleton", "cuboid"):
        assert f"1 shapes of type {kind} outline no object" in caplog.text

    # the documented mask is a disc when it is read row by row
    inside = decode_rle(mask.rle)[80:95, 70:83]
    assert decode_rle(mask.rle).sum() == inside.sum() == 149
    assert inside[0].tolist() == [False] * 3 + [True] * 5 + [False] * 5
    assert inside.sum(axis=1).tolist() == [5, 7, 9, 11, 11, 12, 12, 13, 13, 12, 12, 11, 9, 7, 5]


def test_masks_run_row_by_row(tmp_path):
    shapes = '<mask label="car" rle="2, 3, 1" left="4" top="6" width="3" height="2"/>'
    (read,) = read_cvat(export(tmp_path, image(shapes)), Storage())
    inside = decode_rle(read.shapes[0].rle)[6:8, 4:7]
    assert np.array_equal(inside, [[False, False, True], [True, True, False]])


PLACES = {
    "beside the XML": ("frame 1.png", ""),
    "a task": ("images/frame 1.png", ""),
    "a project": ("images/train/frame 1.png", ' subset="train" task_id="3"'),
    "a task with its default subset": ("images/default/frame 1.png", ""),
}


@pytest.mark.parametrize(("place", "more"), PLACES.values(), ids=PLACES.keys())
def test_where_images_are(tmp_path, place, more):
    folder = export(tmp_path, image(SHAPES, more=more), place=place)
    assert read_cvat(folder, Storage())[0].file_name == place


def test_images_without_objects_need_not_be_there(tmp_path):
    bare = image("<tag label='empty'></tag>", "none.png") + image("", "nothing.png")
    assert len(read_cvat(export(tmp_path, image(SHAPES), bare), Storage())) == 1


BOX = '<box label="{}" xtl="{}" ytl="1" xbr="9" ybr="9"/>'
PROBLEMS = {
    "no image": (image(SHAPES, "none.png"), "image none.png: is not below the folder"),
    "other size": (image(SHAPES).replace("160", "161"), "is 160 x 120 pixels, but was annotated"),
    "no size": (image(SHAPES).replace('width="160" ', ""), "image frame 1.png: invalid literal"),
    "no corner": (image('<box label="a" xtl="1"/>'), "box 0: it has no 'ytl'"),
    "no label": (image(BOX.format("", "1")), "box 0: its label is empty"),
    "text": (image(BOX.format("a", "one")), "box 0: could not convert string to float: 'one'"),
    "nan": (image(BOX.format("a", "nan")), "box 0: its xtl is not a finite number"),
    "tiny": (image(BOX.format("a", "9")), "box 0: its box of 0 x 8 pixels is too tiny"),
    "unknown": (image('<cloud label="a"/>'), "cloud 0: is not known"),
    "two points": (image('<polygon label="a" points="1,1;2,2"/>'), "polygon 0: has a polygon that"),
    "mask of another size": (
        image('<mask label="a" rle="2, 3" left="1" top="1" width="3" height="3"/>'),
        "mask 0: its runs add up to 5, not to 3 x 3",
    ),
    "giant mask": (
        image(
            f'<mask label="a" rle="0, {10**18}" left="1" top="1" width="{10**9}" height="{10**9}"/>'
        ),
        "mask 0: its mask of 1000000000 x 1000000000 is larger than its image",
    ),
    "mask outside": (
        image('<mask label="a" rle="0, 9" left="-1" top="1" width="3" height="3"/>'),
        "mask 0: its mask begins at -1, 1, outside its image",
    ),
}


@pytest.mark.parametrize(("broken", "text"), PROBLEMS.values(), ids=PROBLEMS.keys())
def test_problems_are_named(tmp_path, broken, text):
    with pytest.raises(ReferencesError, match=text):
        read_cvat(export(tmp_path, broken), Storage())


REFUSED = {
    "video": ("<annotations><track id='0'/></annotations>", "not an export 'CVAT for images 1.1'"),
    "something else": ("<html></html>", "not an export 'CVAT for images 1.1'"),
    "not XML": ("annotations", "not XML"),
    "entities": ("<!DOCTYPE a [<!ENTITY b 'c'>]><annotations/>", "no document type"),
}


@pytest.mark.parametrize(("text", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_other_files_are_refused(tmp_path, text, message):
    (tmp_path / "annotations.xml").write_text(text)
    with pytest.raises(InputError, match=message):
        read_cvat(str(tmp_path), Storage())


def test_a_folder_without_xml_and_one_that_is_not_text(tmp_path):
    with pytest.raises(InputError, match="unpack the export"):
        read_cvat(str(tmp_path), Storage())
    (tmp_path / "annotations.xml").write_bytes("<annotations/>".encode("utf-16"))
    with pytest.raises(InputError, match="not an XML file in UTF-8"):
        read_cvat(str(tmp_path), Storage())
