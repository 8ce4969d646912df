"""Shapes of annotation tools: their areas, their groups, their COCO file."""

import io
import math

import numpy as np
import pytest
from PIL import Image

from ntt_ray.errors import ImageError, ReferencesError
from ntt_ray.masks import decode_rle, encode_mask, rle_area
from ntt_ray.references.importers import shapes as drawn
from ntt_ray.references.importers.shapes import (
    AnnotatedImage,
    ellipse_points,
    shapes_to_coco,
    turned,
)

SIZE_HW = (60, 80)


def square(x1, y1, x2, y2) -> list[tuple[float, float]]:
    return [(x1, y1), (x2, y1), (x2, y2), (x1, y2)]


def outline(points, label="nut", group=None):
    return drawn.outline(label, group, points, SIZE_HW)


def box(points, label="nut", group=None):
    return drawn.box(label, group, points, SIZE_HW)


def test_ellipses_have_their_area_and_turn_clockwise():
    upright = outline(ellipse_points((40, 30), (20, 10)))
    assert rle_area(upright.rle) == pytest.approx(math.pi * 200, rel=0.02)
    quarter = outline(ellipse_points((40, 30), (20, 10), 90))
    assert quarter.bbox_xywh[2:] == pytest.approx((20, 40), abs=1)
    assert turned([(1.0, 0.0)], (0.0, 0.0), 90)[0] == pytest.approx((0.0, 1.0))  # y is downwards


def test_boxes_are_upright_and_inside():
    assert box(square(-5, 10, 20, 90)).bbox_xywh == (0, 10, 20, 50)
    assert box([(30, 20), (10, 5)]).bbox_xywh == (10, 5, 20, 15)
    for points in ([(5, 5), (5.5, 30)], [(90, 5), (99, 30)], [(5, 5), (float("nan"), 30)]):
        with pytest.raises(ValueError, match=r"too tiny|not a finite"):
            box(points)


def test_masks_are_placed_and_cut_off():
    part = np.ones((10, 20), dtype=bool)
    placed = decode_rle(drawn.place_mask(part, 70, 55, SIZE_HW))
    assert placed[55:, 70:].all()
    assert placed.sum() == 5 * 10
    with pytest.raises(ValueError, match="outside its image"):
        drawn.place_mask(part, -1, 0, SIZE_HW)
    with pytest.raises(ValueError, match="covers no pixel"):
        drawn.mask("nut", None, encode_mask(np.zeros(SIZE_HW, dtype=bool)))


def test_the_coco_file():
    shapes = (
        outline(square(1, 1, 5, 5), "nut"),
        outline(square(10, 10, 20, 20), "bolt", 1),
        outline(square(30, 10, 40, 20), "bolt", 1),
        box(square(50, 10, 60, 30), "nut"),
        outline(square(30, 30, 40, 40), "nut", 1),
        box(square(5, 30, 10, 40), "bolt", 2),
        box(square(12, 30, 20, 45), "bolt", 2),
    )
    images = [
        AnnotatedImage("b.png", SIZE_HW, shapes),
        AnnotatedImage("a.png", SIZE_HW, shapes[:1]),
    ]
    coco = shapes_to_coco([*images, AnnotatedImage("0.png", SIZE_HW, ())], "a test")
    assert coco["images"] == [
        {"id": 1, "file_name": "a.png", "width": 80, "height": 60},
        {"id": 2, "file_name": "b.png", "width": 80, "height": 60},
    ]
    assert coco["categories"] == [{"id": 1, "name": "bolt"}, {"id": 2, "name": "nut"}]
    found = [(a["id"], a["image_id"], a["category_id"], a["bbox"]) for a in coco["annotations"]]
    assert found == [
        (1, 1, 2, [1, 1, 4, 4]),
        (2, 2, 2, [1, 1, 4, 4]),
        (3, 2, 1, [10, 10, 30, 10]),  # two outlines of a group
        (4, 2, 2, [50, 10, 10, 20]),
        (5, 2, 2, [30, 30, 10, 10]),  # group 1 of another class
        (6, 2, 1, [5, 30, 15, 15]),  # two boxes of a group
    ]
    assert ["segmentation" in a for a in coco["annotations"]] == [1, 1, 1, 0, 1, 0]
    assert coco["annotations"][2]["area"] == 200
    with pytest.raises(ReferencesError, match="no object"):
        shapes_to_coco([AnnotatedImage("0.png", SIZE_HW, ())], "a test")


def encoded(orientation=None) -> bytes:
    stream, exif = io.BytesIO(), Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    Image.new("RGB", (80, 60)).save(stream, "JPEG", exif=exif)
    return stream.getvalue()


def test_sizes_are_checked():
    assert drawn.check_size(encoded(), None) == SIZE_HW
    assert drawn.check_size(encoded(1), SIZE_HW) == SIZE_HW
    with pytest.raises(ImageError, match="is 80 x 60 pixels, but was annotated at 60 x 80"):
        drawn.check_size(encoded(), (80, 60))
    with pytest.raises(ImageError, match="stored turned"):
        drawn.check_size(encoded(3), SIZE_HW)
    with pytest.raises(ImageError, match="not an image"):
        drawn.check_size(b"text", None)
