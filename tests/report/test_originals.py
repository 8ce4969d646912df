"""Links to originals carry no secrets and stay relative; the sharp part is the telling object."""

from __future__ import annotations

import numpy as np
import pytest

from ntt_ray.evaluate.matching import Matches
from ntt_ray.pages.pictures import UNITS_PER_PX, thumbnail
from ntt_ray.records import ImageEntry, ImageLabels
from ntt_ray.report.originals import link_to, sharp_part
from tests.support.report_run import SIZE_HW, detection

IMAGE = np.random.default_rng(0).integers(0, 256, (*SIZE_HW, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("uri", "output", "link"),
    [
        ("/data/photos/a.jpg", "/data/run", "./../photos/a.jpg"),
        ("/data/run/javascript:alert(1)", "/data/run", "./javascript%3Aalert%281%29"),
        ('/data/a b#?".jpg', "/data/run", "./../a%20b%23%3F%22.jpg"),
        ("file:///data/a%FF.jpg", "/data/run", "./../a%FF.jpg"),
        ("https://host/a.jpg?v=1", "s3://bucket/run", "https://host/a.jpg?v=1"),
        ("https://me:pw@host/a.jpg", "/data/run", ""),
        ("https://host/a.jpg?X-Amz-Signature=1", "/data/run", ""),
        ("s3://bucket/a.jpg", "/data/run", ""),
        ("s3://bucket/a.jpg", "s3://bucket/run", ""),
        ("/data/a.jpg", "s3://bucket/run", ""),
    ],
)
def test_link_to(uri: str, output: str, link: str) -> None:
    assert link_to(uri, output) == link


def _labels(*found) -> ImageLabels:
    return ImageLabels.labelled(ImageEntry(1, "a.png", "a.png"), SIZE_HW, found)


SURE, WRONG = detection(3, 0.9, (5, 5, 10, 10)), detection(3, 0.6, (60, 40, 10, 10))


@pytest.mark.parametrize(("right", "x", "y"), [(None, 2, 2), ((True, False), 57, 37)])
def test_the_sharp_part_is_around_the_object_to_look_at(right, x, y) -> None:
    picture = thumbnail(IMAGE, 24, 9_000)
    matches = None if right is None else Matches((), right, (), ())
    part = sharp_part(_labels(SURE, WRONG), matches, IMAGE, picture, 9_000)
    assert part is not None
    unit = picture.scale * UNITS_PER_PX
    assert (part.x, part.y, part.width, part.height) == (x * unit, y * unit, 16 * unit, 16 * unit)


def test_no_part_where_nothing_is_won() -> None:
    small, whole = thumbnail(IMAGE, 24, 9_000), thumbnail(IMAGE, 480, 9_000)
    assert sharp_part(_labels(), None, IMAGE, small, 9_000) is None
    assert sharp_part(_labels(SURE), None, IMAGE, whole, 9_000) is None
    assert sharp_part(_labels(SURE), None, IMAGE, small, 0) is None
