"""The report in a real browser: it draws, filters, counts, and runs nothing but its own script."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.browser import CHROMIUM, Browser
from tests.support.report_run import CLASSES, example_run, references_of_example, truth_of_example

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    started = Browser()
    yield started
    started.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("report")
    run = example_run(folder)
    data = run.report(ground_truth=truth_of_example(), references=references_of_example(folder))
    return Path(run.output) / "report.html", data


@pytest.fixture
def page(browser: Browser, report: tuple[Path, dict[str, Any]]) -> Browser:
    browser.problems.clear()
    browser.requests.clear()
    browser.open(report[0])
    return browser


VISIBLE = "[...document.querySelectorAll('g.m')].filter(m => m.getClientRects().length).length"


def counted(page: Browser) -> int:
    """The number on the page, after checking that as many masks are really drawn."""
    shown = int(page.run("document.querySelector('[data-testid=visible-count]').textContent"))
    assert shown == page.run(VISIBLE)
    return shown


def scores(report: dict[str, Any], category_id: int | None = None) -> list[float]:
    return [
        d["score"]
        for image in report["gallery"]
        for d in image["detections"]
        if category_id in (None, d["category_id"])
    ]


def set_slider(page: Browser, value: float) -> None:
    page.run(
        "(() => { const s = document.querySelector('[data-testid=score-slider]');"
        f"s.value = {value}; s.dispatchEvent(new Event('input', {{bubbles: true}})); }})()"
    )


def test_slider_hides_masks_below_it(page: Browser, report: tuple[Path, dict[str, Any]]) -> None:
    found = scores(report[1])
    assert counted(page) == sum(s >= 0.4 for s in found)  # starts at the threshold
    for cut in (0.0, 0.3, 0.41, 0.5, 0.95):
        set_slider(page, cut)
        assert counted(page) == sum(s >= cut for s in found), cut


def test_slider_moves_with_the_keyboard(page: Browser, report: tuple[Path, dict[str, Any]]) -> None:
    page.run("document.querySelector('#score').focus()")
    page.press("Home", 36)
    assert counted(page) == len(scores(report[1]))
    page.press("End", 35)
    assert counted(page) == 0
    assert page.run("document.querySelector('#score-value').textContent") == "1.00"


def test_class_filter(page: Browser, report: tuple[Path, dict[str, Any]]) -> None:
    set_slider(page, 0)
    everything = len(scores(report[1]))
    for number, label in enumerate(CLASSES):
        page.click(f"label:has([data-testid=class-{number}])")
        without = everything - len(scores(report[1], label.category_id))
        assert counted(page) == without, label.name
        page.click(f"label:has([data-testid=class-{number}])")
    page.click("[data-testid=none]")
    assert counted(page) == 0
    page.click("label:has([data-testid=class-1])")
    assert counted(page) == len(scores(report[1], CLASSES[1].category_id))
    page.click("[data-testid=all]")
    assert counted(page) == everything


def test_misses_follow_the_slider(page: Browser) -> None:
    missed = "document.querySelectorAll('g.t.miss').length"
    set_slider(page, 0.3)
    assert page.run(missed) == 2  # one of another class, one of nothing
    set_slider(page, 0.7)
    assert page.run(missed) == 3
    set_slider(page, 1)
    assert page.run(missed) == 4


def test_a_mask_tells_its_class_and_score(page: Browser) -> None:
    tip = "document.querySelector('#tip').textContent"
    page.hover(".pic.prediction g.m[data-k='0']")
    assert page.run(tip) == "disc 0.90, right"
    page.run("document.querySelector('.pic.prediction').focus()")
    page.press("ArrowRight", 39)
    page.press("ArrowRight", 39)
    assert " 0." in page.run(tip)
    page.press("Escape", 27)
    assert page.run(tip) == ""


def test_names_are_text_and_nothing_else_runs(page: Browser) -> None:
    names = page.run(
        "[...document.querySelectorAll('[data-testid=classes] tbody th')].map(c => c.textContent)"
    )
    assert names == [label.name for label in CLASSES]
    page.click("label:has([data-testid=names])")
    assert page.run("window.hacked") is None
    assert page.run("document.querySelectorAll('script').length") == 2
    assert page.run("document.querySelectorAll('img').length") == 0
    outside = [url for url in page.requests if not url.startswith(("file:", "data:"))]
    assert outside == []
    assert page.problems == []


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_fits_the_width(page: Browser, width: int) -> None:
    page.resize(width, 800)
    assert page.run("document.documentElement.scrollWidth") <= width
    assert (
        page.run(
            "Math.min(...[...document.querySelectorAll('.pic')].map(p => "
            "p.getBoundingClientRect().width))"
        )
        > 60
    )


def test_runs_without_a_gallery(browser: Browser, tmp_path: Path) -> None:
    browser.problems.clear()
    run = example_run(tmp_path)
    run.report(max_images=0, random_images=0, max_classes=0)
    browser.open(Path(run.output) / "report.html")
    assert browser.run("document.querySelector('[data-testid=no-gallery]').textContent")
    assert browser.problems == []
