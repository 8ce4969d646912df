"""The environment of the pages: every text is escaped, and nothing is left out in silence."""

import pytest
from jinja2 import UndefinedError

from ntt_ray.pages.environment import (
    colour,
    counted,
    digest,
    fraction,
    number,
    render,
    shortened,
    threshold,
)

HOSTILE = '<script>alert("x")</script> {{ 7 * 7 }}'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (number(1234), "1,234"),
        (number(0.126, ".1%"), "12.6%"),
        (fraction(None), "–"),
        (fraction(0.12345), "0.123"),
        (counted(1, "class"), "1 class"),
        (counted(1234, "class"), "1,234 classes"),
        (counted(0, "image"), "0 images"),
        (shortened("a" * 60), "a" * 60),
        (shortened("a" * 61), "a" * 59 + "…"),
        (digest(None), ""),
        (digest("ab" * 32), "ab" * 6),
        (colour(13), "c1"),
    ],
)
def test_filters(text, expected):
    assert text == expected


def _references(**changes):
    values = {"total": 1, "sources": [(HOSTILE, 1)], "source_texts": {}, "sections": []}
    return render("references.html.j2", **{**values, "with_masks_of_boxes": False, **changes})


def test_texts_are_escaped_and_never_taken_for_a_template():
    page = _references()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "{{ 7 * 7 }}" in page


def test_a_value_that_is_not_there_is_an_error():
    section = {"title": "x", "note": "", "colour": "c0", "total": 1, "views": []}
    assert "<section>" in _references(sections=[section])
    del section["note"]
    with pytest.raises(UndefinedError, match="note"):
        _references(sections=[section])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.8819, "0.881"),
        (0.29, "0.290"),
        (0.7, "0.700"),
        (1.0, "1.000"),
        (0.0, "0.000"),
        (None, "–"),
    ],
)
def test_a_threshold_keeps_what_has_its_score(value, text):
    assert threshold(value) == text
    assert value is None or float(threshold(value)) <= value
