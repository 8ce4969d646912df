"""The page of boxes: every reference once, kept boxes first, and nothing of the data runs."""

import re

import numpy as np

from ntt_ray.masks import encode_mask
from ntt_ray.quality.box_page import draw_box, render_boxes

IMAGE = np.zeros((80, 100, 3), dtype=np.uint8)
MASK = np.zeros((80, 100), dtype=bool)
MASK[30:50, 40:70] = True
HOSTILE = '"><script>alert(1)</script>'


def picture(number, category_id, source, note=""):
    return draw_box(
        IMAGE,
        (40.0, 30.0, 30.0, 20.0),
        encode_mask(MASK),
        annotation_id=number,
        category_id=category_id,
        file_name=HOSTILE,
        source=source,
        note=note,
    )


def test_box_and_mask_lie_where_they_should():
    drawn = picture(1, 1, "sam2")
    # the window is 45 wide and high around (55, 40): it begins at (32, 17)
    assert (drawn.picture.width, drawn.picture.height, drawn.picture.scale) == (45, 45, 1.0)
    assert drawn.frame == (8.0, 13.0, 30.0, 20.0)
    start = re.match(r"M(\d+) (\d+)l", drawn.path)
    assert 8 * 4 <= int(start[1]) <= 38 * 4
    assert 13 * 4 <= int(start[2]) <= 33 * 4


def test_kept_boxes_come_first_and_every_reference_is_there():
    shown = [picture(1, 7, "sam2"), picture(2, 7, "box", "nothing <b>found</b>")]
    shown += [picture(3, 9, "given")]
    page = render_boxes(shown, [(7, f"nut {HOSTILE}"), (9, "bolt")])
    order = [int(n) for n in re.findall(r"<span>.*?annotation (\d+),", page)]
    assert order == [2, 1, 3]
    assert "mask by SAM2: 1 · box kept as mask: 1 · mask was given: 1" in page
    assert page.index("No mask was found for these") < page.index("annotation 1,")
    assert "nothing &lt;b&gt;found&lt;/b&gt;" in page
    assert "<script" not in page
    assert "$" not in page
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "default-src 'none'" in page


def test_without_kept_boxes_nothing_is_said_of_them():
    page = render_boxes([picture(1, 7, "sam2")], [(7, "nut")])
    assert "No mask was found" not in page
