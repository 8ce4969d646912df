"""A folder per class: which mask belongs to which image, and what a mask's values mean."""

import io

import numpy as np
import pytest
from PIL import Image, ImageFilter

from ntt_ray.errors import InputError, ReferencesError
from ntt_ray.masks import decode_rle
from ntt_ray.references.importers.folders import masks_by_image, read_folders
from ntt_ray.storage import Storage

OBJECT = np.zeros((40, 50), dtype=bool)
OBJECT[10:20, 15:35] = True


def write(path, picture, file_format="PNG"):
    path.parent.mkdir(parents=True, exist_ok=True)
    stream = io.BytesIO()
    picture.save(stream, file_format)
    path.write_bytes(stream.getvalue())


def photo(path):
    jpeg = path.suffix == ".jpg"
    write(path, Image.new("RGB", (50, 40), (90, 80, 70)), "JPEG" if jpeg else "PNG")


def grey(factor) -> Image.Image:
    return Image.fromarray((OBJECT * factor).astype(np.uint8))


LAYOUTS = {
    "beside a JPEG": ("nut/1.jpg", ["nut/1.png"]),
    "with an ending": ("nut/1.png", ["nut/1_mask.png"]),
    "with another ending": ("nut/a.b.jpg", ["nut/a.b.mask.png"]),
    "one for each object": ("nut/1.jpg", ["nut/1_mask_1.png", "nut/1_mask_2.png"]),
    "in folders": ("nut/images/1.png", ["nut/masks/1.png"]),
    "in folders, with endings": ("nut/images/1.png", ["nut/masks/1_mask1.png"]),
    "deeper": ("nut/day/images/1.jpg", ["nut/day/masks/1.png"]),
    "upper case": ("nut/1.JPG", ["nut/1.PNG"]),
}


@pytest.mark.parametrize(("image", "masks"), LAYOUTS.values(), ids=LAYOUTS.keys())
def test_layouts(image, masks):
    problems: list[str] = []
    assert masks_by_image([image, *masks], problems) == {image: masks}
    assert problems == []


def test_whatever_is_left_over_is_named():
    problems: list[str] = []
    masks_by_image(["nut/1.png", "nut/2_mask.png", "nut/3.jpg", "bolt/3.png"], problems)
    assert sorted(problems) == [
        "bolt/3.png: there is no mask to this image",
        "nut/1.png: there is no mask to this image",
        "nut/2_mask.png: there is no image to this mask",
        "nut/3.jpg: there is no mask to this image",
    ]


def test_classes_are_the_folders(tmp_path):
    for name in ("nut", "bolt"):
        photo(tmp_path / name / "1.jpg")
        write(tmp_path / name / "1.png", grey(255))
    bolt, nut = read_folders(str(tmp_path), Storage())
    assert (bolt.file_name, nut.file_name) == ("bolt/1.jpg", "nut/1.jpg")
    assert [shape.label for shape in (*bolt.shapes, *nut.shapes)] == ["bolt", "nut"]
    assert np.array_equal(decode_rle(nut.shapes[0].rle), OBJECT)


def palette() -> Image.Image:
    picture = Image.fromarray((OBJECT * 3).astype(np.uint8), "P")
    picture.putpalette([0, 0, 0] * 256)  # all black: the indices count
    return picture


def transparent() -> Image.Image:
    picture = Image.new("RGBA", (50, 40), (9, 9, 9, 0))
    picture.paste((0, 0, 0, 255), (15, 10, 35, 20))
    return picture


def soft() -> Image.Image:
    values = np.tile(np.linspace(0, 120, 50), (40, 1))
    return Image.fromarray(np.where(OBJECT, 250, values).astype(np.uint8))


def smooth(steps: int | None = None) -> Image.Image:
    """Edges that are smoothed, to all grey values or to a few."""
    values = np.asarray(grey(255).filter(ImageFilter.GaussianBlur(1.0))).astype(float)
    values = values if steps is None else np.round(values / 255 * steps) * 255 / steps
    # what was at the edge and above the half stays, as of every mask
    return Image.fromarray(
        np.where(OBJECT, np.maximum(values, 128), values.clip(0, 127)).astype("u1")
    )


FORMS = {
    "smooth edges": smooth(),
    "smooth edges of few values": smooth(4),
    "0 and 255": grey(255),
    "0 and 1": grey(1),
    "bits": Image.fromarray(OBJECT),
    "palette": palette(),
    "16 bits": Image.fromarray((OBJECT * 40000).astype(np.uint16)),
    "coloured": Image.fromarray(np.stack([OBJECT * 0, OBJECT * 200, OBJECT * 0], -1).astype("u1")),
    "transparent": transparent(),
    "opaque": Image.fromarray(np.stack([*[OBJECT * 200] * 3, OBJECT * 0 + 255], -1).astype("u1")),
    "soft": soft(),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_what_a_mask_can_be(tmp_path, form):
    photo(tmp_path / "nut" / "1.jpg")
    write(tmp_path / "nut" / "1.png", form)
    (image,) = read_folders(str(tmp_path), Storage())
    assert np.array_equal(decode_rle(image.shapes[0].rle), OBJECT)


def two_values() -> Image.Image:
    values = OBJECT.astype(np.uint8)
    values[30:, 30:] = 2
    return Image.fromarray(values)


def many_ids(count: int) -> Image.Image:
    """Squares of 5 x 5 pixels, each of its own value."""
    values = np.zeros((40, 50), np.uint8)
    for n in range(count):
        values[8 * (n // 8) : 8 * (n // 8) + 5, 6 * (n % 8) : 6 * (n % 8) + 5] = n + 1
    return Image.fromarray(values)


def two_colours(smooth: bool = False) -> Image.Image:
    values = np.zeros((40, 50, 3), np.uint8)
    values[5:25, 5:20, 0] = values[10:35, 30:45, 1] = 255
    picture = Image.fromarray(values)
    return picture.filter(ImageFilter.GaussianBlur(1.5)) if smooth else picture


def two_lines() -> Image.Image:
    values = np.zeros((40, 50), np.uint8)
    values[5, 5:45], values[30, 5:45] = 1, 2
    return Image.fromarray(values)


BROKEN = {
    "20 ids": (many_ids(20), "shows 20 objects or more.*one file for each object"),
    "40 ids": (many_ids(40), "objects or more.*one file for each object"),
    "two colours": (two_colours(), "shows 2 objects or more.*one file for each object"),
    "two colours, smooth": (two_colours(smooth=True), "shows 2 objects or more"),
    "two thin lines": (two_lines(), "shows 2 objects or more"),
    "empty": (grey(0), "nut/1.png: it covers no pixel"),
    "several objects": (two_values(), "shows 2 objects or more.*one file for each object"),
    "another size": (Image.new("L", (40, 50)), "is 40 x 50 pixels, but its image 50 x 40"),
}


@pytest.mark.parametrize(("form", "text"), BROKEN.values(), ids=BROKEN.keys())
def test_broken_masks_are_named(tmp_path, form, text):
    photo(tmp_path / "nut" / "1.jpg")
    write(tmp_path / "nut" / "1.png", form)
    with pytest.raises(ReferencesError, match=text):
        read_folders(str(tmp_path), Storage())


def test_all_problems_at_once(tmp_path):
    photo(tmp_path / "loose.jpg")
    photo(tmp_path / "nut" / "1.jpg")
    (tmp_path / "nut" / "1.png").write_bytes(b"no mask")
    (tmp_path / "nut" / "2.jpg").write_bytes(b"no image")
    write(tmp_path / "nut" / "2.png", grey(255))
    with pytest.raises(ReferencesError) as caught:
        read_folders(str(tmp_path), Storage())
    text = str(caught.value)
    assert "loose.jpg: lies in no class's folder" in text
    assert "nut/1.png: not an image" in text
    assert "nut/2.jpg: not an image" in text


def test_nothing_to_read(tmp_path):
    with pytest.raises(InputError, match="no folder of a class"):
        read_folders(str(tmp_path), Storage())


IDS = np.zeros((40, 50), np.uint8)
IDS[5:15, 5:20], IDS[5:15, 20:30], IDS[25:35, 25:45] = 1, 2, 200


def each(folder, picture):
    photo(folder / "nut" / "1.jpg")
    write(folder / "nut" / "1_mask.png", picture)
    return read_folders(str(folder), Storage(), "value")


def test_each_value_is_an_object(tmp_path):
    (found,) = each(tmp_path, Image.fromarray(IDS))
    assert [shape.label for shape in found.shapes] == ["nut"] * 3
    for value, shape in zip((1, 2, 200), found.shapes, strict=True):
        assert (decode_rle(shape.rle) == (value == IDS)).all()


def test_each_value_of_16_bits_is_an_object(tmp_path):
    (found,) = each(tmp_path, Image.fromarray(IDS.astype(np.uint16) * 300))
    assert len(found.shapes) == 3


def test_each_colour_is_an_object(tmp_path):
    red_and_green = np.stack([(IDS == 1) * 255, (IDS == 2) * 255, IDS * 0], -1).astype(np.uint8)
    (found,) = each(tmp_path, Image.fromarray(red_and_green))
    assert [shape.bbox_xywh for shape in found.shapes] == [(20, 5, 10, 10), (5, 5, 15, 10)]


def test_soft_edges_are_no_objects(tmp_path):
    soft = Image.fromarray(IDS).filter(ImageFilter.GaussianBlur(1))
    with pytest.raises(ReferencesError, match="values have no pixel around which all are the same"):
        each(tmp_path, soft)


def test_the_refusal_of_several_objects_names_the_way(tmp_path):
    photo(tmp_path / "nut" / "1.jpg")
    write(tmp_path / "nut" / "1_mask.png", Image.fromarray(IDS))
    with pytest.raises(ReferencesError, match=r"shows 3 objects or more.* --objects value"):
        read_folders(str(tmp_path), Storage())
