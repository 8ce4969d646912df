"""The page of a review in a real browser: fifty labels by keys alone, undo, reload, export."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ntt_ray.config import Config
from ntt_ray.review.importing import import_run
from ntt_ray.review.job import draw_run, estimate_run, open_review
from ntt_ray.review.publish import publish_review
from ntt_ray.review.records import VERDICTS, Draw, parse_verdicts
from ntt_ray.run.layout import REVIEW_PAGE
from tests.support.browser import CHROMIUM, TIMEOUT_S, Browser
from tests.support.review_run import HOSTILE, review_run

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
]
LABELS, IMAGES = 50, 3


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    started = Browser()
    yield started
    started.close()


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    config = review_run(tmp_path_factory.mktemp("review"), images=48)
    draw_run(config, labels=LABELS, images=IMAGES, seed=3, publish=publish_review)
    return config


@pytest.fixture
def page(browser: Browser, config: Config) -> Browser:
    """The page as somebody sees it for the first time."""
    browser.open(Path(config.output) / REVIEW_PAGE)
    browser.run("localStorage.clear()")
    browser.open(Path(config.output) / REVIEW_PAGE)
    browser.problems.clear()
    browser.requests.clear()
    return browser


def key(page: Browser, name: str) -> None:
    codes = {"Enter": 13, "Escape": 27, "PageUp": 33, "PageDown": 34}
    codes |= {"ArrowLeft": 37, "ArrowRight": 39, "ArrowDown": 40}
    page.press(name, codes.get(name, ord(name[0].upper())))


def count(page: Browser) -> str:
    return str(page.run("document.querySelector('[data-testid=count]').textContent"))


def asks(page: Browser) -> bool:
    return not page.run("document.querySelector('[data-testid=asking]').hidden")


def other_class(draw: Draw, label_id: str) -> int:
    """The class that a label does not have, of two."""
    [own] = [label.category_id for label in draw.labels if str(label.id) == label_id]
    [other] = {c.id for c in draw.classes} - {own}
    return other


def exported(page: Browser, folder: Path) -> dict[str, Any]:
    page.send("Page.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
    key(page, "e")
    file, end = folder / "verdicts.json", time.monotonic() + TIMEOUT_S
    while not file.exists() and time.monotonic() < end:
        time.sleep(0.05)
    data: dict[str, Any] = json.loads(file.read_text())
    return data


def test_fifty_labels_by_keys(page: Browser, config: Config, tmp_path: Path) -> None:
    draw = open_review(config).draw
    ids = [str(label.id) for label in draw.labels]
    assert len(ids) == LABELS
    said, classes = {}, {}
    for n, label in enumerate(ids):
        said[label] = VERDICTS[n % 5]
        key(page, str(1 + n % 5))
        if VERDICTS[n % 5] == "class":  # the page asks which one is right
            assert asks(page)
            assert count(page) == f"{n + 1} of {LABELS + IMAGES}"
            key(page, "Escape" if n % 2 else "1")
            classes |= {} if n % 2 else {label: other_class(draw, label)}
            assert not asks(page)
        if n == 20:  # the last one was a slip
            key(page, "u")
            key(page, "1")
            said[label] = "right"
        if n == 30:  # the browser was closed meanwhile
            page.open(Path(config.output) / REVIEW_PAGE)
            assert count(page) == f"31 of {LABELS + IMAGES}"
            key(page, "u")  # even the last verdict before that can be taken back
            assert count(page) == f"30 of {LABELS + IMAGES}"
            key(page, "5")
            said[label] = "unclear"
    assert count(page) == f"50 of {LABELS + IMAGES}"
    for _ in range(IMAGES):
        key(page, "Enter")
    assert count(page) == f"{LABELS + IMAGES} of {LABELS + IMAGES}"
    found = parse_verdicts(exported(page, tmp_path), "verdicts.json")
    assert found.labels == said
    assert {key: own.category_id for key, own in found.corrections.items()} == classes
    assert len(classes) == 5
    assert found.draw == draw.sha256
    assert set(found.images) == {str(image.image_id) for image in draw.whole_images}
    assert page.problems == []
    import_run(config, str(tmp_path / "verdicts.json"), "a person")
    assert estimate_run(config)["judged"] == LABELS
    given = open_review(config).verdicts[0].corrections
    assert {key: own.category_id for key, own in given.items()} == classes


def test_the_right_class_by_keys(page: Browser, config: Config, tmp_path: Path) -> None:
    draw = open_review(config).draw
    first, second, third = (str(label.id) for label in draw.labels[:3])
    key(page, "2")
    assert asks(page)
    assert page.run("document.activeElement.id") == "filter"
    assert page.run("document.getElementById('filter').value") == ""
    page.run("document.activeElement.value = 'no such class'")
    page.run("document.activeElement.dispatchEvent(new Event('input'))")
    assert page.run("document.querySelectorAll('.answer').length") == 0
    key(page, "Enter")  # there is nothing to take
    assert asks(page)
    page.run("document.activeElement.value = ''")
    page.run("document.activeElement.dispatchEvent(new Event('input'))")
    key(page, "ArrowDown")
    key(page, "Enter")
    assert exported(page, tmp_path)["corrections"] == {
        first: {"category_id": other_class(draw, first)}
    }
    key(page, "u")  # verdict and class together
    assert count(page) == f"0 of {LABELS + IMAGES}"
    key(page, "2")
    key(page, "1")
    key(page, "PageUp")
    assert ": is " in page.run("document.querySelector('[data-testid=question]').textContent")
    key(page, "4")
    key(page, "u")  # so was the class that it had
    assert ": is " in page.run("document.querySelector('[data-testid=question]').textContent")
    key(page, "2")
    key(page, "Escape")
    key(page, "PageUp")
    assert ": is " not in page.run("document.querySelector('[data-testid=question]').textContent")
    key(page, "4")
    key(page, "2")
    page.click("#skip")
    key(page, "2")
    page.click(".answer")
    (tmp_path / "verdicts.json").unlink()
    found = exported(page, tmp_path)
    assert found["labels"] == {first: "nothing", second: "class", third: "class"}
    assert found["corrections"] == {third: {"category_id": other_class(draw, third)}}
    assert page.problems == []


def test_the_right_class_on_a_whole_image(page: Browser, config: Config, tmp_path: Path) -> None:
    draw = open_review(config).draw
    for _ in range(LABELS):
        key(page, "PageDown")
    image = next(n for n, whole in enumerate(draw.whole_images) if len(whole.labels) == 2)
    for _ in range(image):
        key(page, "PageDown")
    key(page, "2")
    key(page, "1")
    key(page, "n")
    key(page, "2")
    key(page, "1")
    key(page, "u")
    key(page, "Enter")
    found, own = exported(page, tmp_path), draw.whole_images[image]
    one, two = (str(label.id) for label in own.labels)
    assert found["images"][str(own.image_id)]["labels"] == {one: "class", two: "right"}
    ids = {c.id for c in draw.classes} - {own.labels[0].category_id}
    assert found["corrections"] == {one: {"category_id": min(ids)}}
    assert page.problems == []


def test_missing_objects_by_click_box_and_keys(
    page: Browser, config: Config, tmp_path: Path
) -> None:
    draw = open_review(config).draw
    for _ in range(LABELS):
        key(page, "PageDown")
    image = next(n for n, whole in enumerate(draw.whole_images) if len(whole.labels) == 2)
    for _ in range(image):
        key(page, "PageDown")
    left, top, width, height = page.run(
        "(() => { const s = document.querySelector('#stage svg');"
        "const m = s.getScreenCTM(), v = s.viewBox.baseVal;"
        "return [m.e, m.f, v.width * m.a, v.height * m.d]; })()"
    )

    def mouse(kind: str, x: float, y: float) -> None:
        place = {"x": left + x * width, "y": top + y * height}
        page.send("Input.dispatchMouseEvent", type=kind, **place, button="left", clickCount=1)

    for kind in ("mousePressed", "mouseReleased"):
        mouse(kind, 0.5, 0.25)
    mouse("mousePressed", 0.25, 0.5)
    mouse("mouseMoved", 0.4, 0.6)
    mouse("mouseReleased", 0.5, 0.75)
    key(page, "ArrowRight")
    key(page, "m")
    key(page, "m")
    key(page, "u")
    key(page, "n")
    key(page, "3")
    key(page, "Enter")
    found = exported(page, tmp_path)["images"]
    own = found[str(draw.whole_images[image].image_id)]
    assert list(own["labels"].values()) == ["right", "mask"]
    places = [[m[name] for name in ("x", "y", "width", "height")] for m in own["missed"]]
    assert places[0] == pytest.approx([40, 15, 0, 0], abs=0.6)  # of 80 x 60 pixels
    assert places[1] == pytest.approx([20, 30, 20, 15], abs=0.6)
    assert places[2] == pytest.approx([42, 30, 0, 0], abs=0.6)
    assert len(places) == 3
    assert page.problems == []


def test_names_are_text_and_nothing_else_runs(page: Browser) -> None:
    names = set()
    for _ in range(8):
        names.add(page.run("document.querySelector('[data-testid=question]').textContent"))
        key(page, "ArrowRight")
    assert HOSTILE in names
    assert page.run("window.hacked") is None
    assert page.run("document.querySelectorAll('script').length") == 2
    assert page.run("document.querySelectorAll('img').length") == 0
    assert page.run("document.querySelectorAll('#references svg path').length") == 1
    assert [url for url in page.requests if not url.startswith(("file:", "data:"))] == []


@pytest.mark.parametrize(("width", "height"), [(390, 844), (1440, 900)])
def test_fits(page: Browser, width: int, height: int) -> None:
    page.resize(width, height)
    assert page.run("document.documentElement.scrollWidth") <= width
    stage = "document.querySelector('#stage svg').getBoundingClientRect()"
    assert page.run(f"{stage}.width") > 0.6 * width - 40
    assert page.run(f"{stage}.bottom") <= height
    key(page, "2")  # and so can be the question
    page.run("document.activeElement.blur()")
    assert page.run("document.documentElement.scrollWidth") <= width
    skip = "document.querySelector('#skip').getBoundingClientRect().bottom"
    assert page.run(skip) <= height
    key(page, "Escape")
    last = "[...document.querySelectorAll('[data-verdict]')].at(-1).getBoundingClientRect().bottom"
    assert page.run(last) <= height  # all verdicts can be seen without scrolling
