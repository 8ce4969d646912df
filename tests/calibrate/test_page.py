"""The page of a calibration: every image once, mistakes first, and nothing of the data runs."""

import re

from ntt_ray.calibrate.page import (
    MAX_PICTURES,
    render_calibration,
    render_judged,
    worst_first,
)
from ntt_ray.calibrate.thresholds import ImageOutcomes, Outcome, calibrate
from tests.support.calibration_page import (
    BOLT,
    ELSEWHERE,
    GOOD,
    HOSTILE,
    IMAGE,
    LIMITS,
    LOW,
    NUT,
    PART,
    _found,
    _judged,
    _page,
)


def test_what_is_drawn():
    view = render_judged(_judged(1, *GOOD, PART, ELSEWHERE, LOW), IMAGE, LIMITS)
    assert [category_id for category_id, _ in view.right] == [2, BOLT.category_id]
    assert [len(found) for found in (view.wrong, view.unclear, view.missed)] == [1, 1, 0]
    view = render_judged(_judged(1, GOOD[0]), IMAGE, {**LIMITS, 2: 0.95})
    assert [len(found) for found in (view.right, view.wrong, view.missed)] == [0, 0, 2]


def test_objects_that_could_not_be_found_are_not_missed():
    judged = _judged(1, GOOD[0], classes={2})
    assert judged.missed(LIMITS) == []
    assert render_judged(judged, IMAGE, LIMITS).missed == ()


def test_the_worst_come_first_and_ties_by_id():
    images = [_judged(3, *GOOD), _judged(2, *GOOD), _judged(9, *GOOD, PART), _judged(8)]
    order = [judged.labels.entry.image_id for judged in worst_first(images, LIMITS)]
    assert order == [8, 9, 2, 3]
    assert len(worst_first([_judged(n, *GOOD) for n in range(1, 99)], LIMITS)) == MAX_PICTURES


def _tiles(page) -> dict[str, tuple[str, str]]:
    """Number and caption of each tile, by its title."""
    pattern = r'<h2>([^<]+)</h2><p class="number">([^<]+)</p><p>([^<]*)</p>'
    return {title: (number, text) for title, number, text in re.findall(pattern, page)}


def test_the_page_is_safe_and_whole():
    page = _page([_judged(n, *GOOD, PART, ELSEWHERE) for n in range(1, 5)])
    assert page.count('data-testid="picture"') == 4
    assert "<script" not in page
    assert "鳥" in page
    assert "default-src 'none'" in page
    assert "$" not in page
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert 'data-testid="too-few"' not in page
    assert "unclear, not counted" in page
    assert "the best F1" in page
    assert "0.40 to 1.00 · 4 of 4<" in page  # bolts: 0.025 ** (1 / 4)
    assert _tiles(page)["Classes that can be told"] == ("2 of 2", "have 3 reference images or more")
    assert "What was held out" not in page


def test_unclear_detections_are_counted_apart():
    page = _page([_judged(n, *GOOD, _found(2, 0.95, 5, 25, 15, 35)) for n in range(1, 5)])
    _, text = _tiles(page)["Precision"]
    assert text == "8 of 8 kept detections that can be judged are right; 4 more are unclear"
    assert "0.16 to 1.00 · 4 of 4, 4 unclear" in page  # from 4 to 8 of 8
    assert "4 kept detections are unclear" in page


def test_tiles_agree_with_their_captions_where_no_threshold_was_chosen():
    page = _page([_judged(n, PART) for n in range(1, 5)])
    tiles = _tiles(page)
    value, text = tiles["Classes that can be told"]
    assert (value, "none was chosen" in text) == ("0 of 2", True)
    assert tiles["Precision"] == ("–", "no threshold was chosen: no detection is right")
    page = _page([_judged(1, PART)])
    assert "is their threshold" not in page
    assert "They have no threshold" in page


def test_what_was_held_out_and_what_could_not_be():
    names = [f"{n}{HOSTILE}.png" for n in (1, 2)]
    page = _page([_judged(1, *GOOD)], copies=[names], extended=7)
    assert "<script" not in page
    assert "1 picture of the references" in page
    assert "<bdi>1&#34;&gt;&lt;script&gt;" in page
    assert "The 7 references of the bank that was extended" in page


def test_the_page_says_what_it_cannot_tell():
    page = _page([_judged(1, *GOOD)], wanted_precision=0.9, complete=True)
    assert "Too few references to tell" in page
    assert "0 of 2" in page
    assert "a precision of 0.9" in page
    assert "unclear, not counted" not in page


def test_without_anything():
    page = _page([])
    assert page.count('data-testid="picture"') == 0
    nothing = [ImageOutcomes((Outcome(2, 0.5, None),), {})]
    found = calibrate(nothing, [NUT])
    page = render_calibration(found, nothing, [], wanted_precision=None, complete=False)
    assert "merge.min_score" in page
    assert "and 1 more reference images" in page


def test_an_image_that_went_away_leaves_an_empty_place():
    view = render_judged(_judged(1, *GOOD), None, LIMITS)
    assert view.picture.data_uri == ""
    assert len(view.right) == 2
