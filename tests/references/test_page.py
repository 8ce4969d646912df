"""The page of references: each once, doubtful ones first, and nothing of the data runs."""

import re

from PIL import Image

from ntt_ray.masks import encode_mask
from ntt_ray.references.page import render_file, render_references
from ntt_ray.storage import Storage
from tests.support.reference_page import HOSTILE, IMAGE, MASK, picture


def test_box_and_mask_lie_where_they_should():
    drawn = picture(1, 1, "sam2")
    # the window is 45 wide and high around (55, 40): it begins at (32, 17)
    assert (drawn.picture.width, drawn.picture.height, drawn.picture.scale) == (45, 45, 1.0)
    assert drawn.frame == (8.0, 13.0, 30.0, 20.0)
    start = re.match(r"M(\d+) (\d+)l", drawn.path)
    assert 8 * 4 <= int(start[1]) <= 38 * 4
    assert 13 * 4 <= int(start[2]) <= 33 * 4


def test_what_is_to_be_looked_at_comes_first_and_every_reference_is_there():
    shown = [picture(1, 7, "sam2"), picture(2, 7, "box", "nothing <b>found</b>")]
    shown += [picture(3, 9, "given"), picture(4, 9, "doubtful"), picture(5, 9, "none")]
    page = render_references(shown, [(7, f"nut {HOSTILE}"), (9, "bolt")])
    order = [int(n) for n in re.findall(r"<span>.*?annotation (\d+),", page)]
    assert order == [2, 4, 1, 3, 5]
    counted = ("box kept as mask: 1", "doubtful mask by SAM2: 1", "mask by SAM2: 1")
    counted += ("mask was given: 1", "box without a mask: 1")
    assert " · ".join(("5 references", *counted)) in page
    assert page.index("No mask was found for these") < page.index("annotation 1,")
    assert "nothing &lt;b&gt;found&lt;/b&gt;" in page
    assert "<script" not in page
    assert "$" not in page
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "default-src 'none'" in page


def test_nothing_is_said_of_what_is_not_there():
    page = render_references([picture(1, 7, "sam2")], [(7, "nut")])
    assert "No mask was found" not in page
    assert "Doubtful" not in page
    assert "predicted IoU is what" in page
    assert "predicted IoU" not in render_references([picture(1, 7, "given")], [(7, "nut")])


def test_a_large_file_shows_some_of_each_class():
    views = [picture(n, 7, "given") for n in range(700)] + [picture(900, 9, "given")]
    page = render_references(views, [(7, "nut"), (9, "bolt")])
    assert page.count("<figure>") == 600 // 4 + 1
    assert "and 550 more in the file" in page
    assert "701 references" in page


def _file(folder, names) -> dict:
    """One reference an image; the first has a mask, the second a box alone."""
    rle = encode_mask(MASK)
    box = {"category_id": 7, "bbox": [40, 30, 30, 20]}
    for name in names[:2]:
        Image.fromarray(IMAGE).save(folder / name)
    return {
        "images": [
            {"id": i, "file_name": name, "width": 100, "height": 80} for i, name in enumerate(names)
        ],
        "annotations": [
            {**box, "id": i, "image_id": i, **({} if i == 1 else {"segmentation": rle})}
            for i in range(len(names))
        ],
        "categories": [{"id": 7, "name": "Nüsse"}],
    }


def test_a_file_is_drawn_and_what_cannot_be_drawn_says_why(tmp_path):
    coco = _file(tmp_path, ["a.png", "b.png", "none.png", "../out.png", "small.png"])
    Image.new("RGB", (9, 9)).save(tmp_path / "small.png")
    page = render_file(coco, str(tmp_path), Storage())
    assert page.count("<figure>") == 5
    assert page.count("data:image/jpeg") == 2
    assert "Nüsse" in page
    assert "box without a mask: 1" in page
    assert "there is no file" in page
    assert "leads out of" in page
    assert "is 9 x 9 pixels" in page
    coco["annotations"][0]["bbox"] = [300, 5, 10, 10]
    assert "lies outside its image" in render_file(coco, str(tmp_path), Storage())
