"""Every page for everybody: axe-core finds nothing serious, in light and dark, narrow and wide.

axe-core comes from a package for tests, which `make axe` puts into the folder ``.axe``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ntt_ray.records import ImageEntry, ImageLabels
from ntt_ray.references.page import render_references
from ntt_ray.review.job import draw_run
from ntt_ray.review.look_job import Wanted, look_run
from ntt_ray.review.publish import publish_review
from ntt_ray.run.layout import REVIEW_PAGE
from tests.support import bank_page as bank
from tests.support import calibration_page as calibration
from tests.support import reference_page as references
from tests.support.browser import CHROMIUM, Browser
from tests.support.paths import ROOT
from tests.support.report_run import (
    CLASSES,
    example_run,
    references_of_example,
    truth_of_example,
    write_run,
)
from tests.support.review_run import review_run

AXE = ROOT / ".axe" / "axe_playwright_python" / "axe.min.js"
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
    pytest.mark.skipif(not AXE.exists(), reason="axe-core is not there: make axe"),
]
METRICS = {
    "segm": {"AP": 0.1234, "AP50": 0.5, "AP75": None},
    "bbox": {"AP": 0.1},
    "per_class": {label.name: {"segm": {"AP": 0.7, "AP50": 0.5}} for label in CLASSES},
    "curves": {"disc": [1.0, 0.5, 0.0]},
    "false_alarms": {"score": 0.41, "best_f1": 0.5, "precision": 0.5, "recall": 0.5}
    | {"share": 0.25, "images_without_objects": 4},
    "confusion": {
        "score": 0.5,
        "labels": ["disc", "ring", "nothing"],
        "matrix": [[30, 3, 1], [2, 2, 0], [4321, 0, 0]],
    },
}


def _judged(folder: Path) -> str:
    run = example_run(folder)
    known = {"ground_truth": truth_of_example(), "references": references_of_example(folder)}
    run.report(**known, metrics=METRICS, images_per_s=2.5)
    return run.html


def _without_truth(folder: Path) -> str:
    run = example_run(folder)
    run.report()
    return run.html


def _failed(folder: Path) -> str:
    labels = [ImageLabels.failed(ImageEntry(n, f"{n}.png", "gone"), "broken") for n in (1, 2)]
    run = write_run(folder, labels, CLASSES)
    run.report()
    return run.html


def _bank(folder: Path) -> str:
    return bank._write(folder / "run", bank._bank(2), bank._examples(folder, negatives=2))[1]


def _calibration(folder: Path) -> str:
    found = (*calibration.GOOD, calibration.PART, calibration.ELSEWHERE)
    return calibration._page([calibration._judged(n, *found) for n in range(1, 5)])


def _references(folder: Path) -> str:
    sources = ("sam2", "box", "given", "doubtful", "none")
    shown = [references.picture(n, 7, source, "why") for n, source in enumerate(sources, start=1)]
    return render_references(shown, [(7, "nut"), (9, "bolt")])


def _review(folder: Path, labels: int = 4, images: int = 2, keys: str = "") -> str:
    config = review_run(folder / "reviewed")
    draw_run(config, labels=labels, images=images, seed=1, publish=publish_review)
    page = (Path(config.output) / REVIEW_PAGE).read_text(encoding="utf-8")
    pressed = "".join(
        f"document.dispatchEvent(new KeyboardEvent('keydown', {{key: '{key}'}}));" for key in keys
    )
    return page.replace("</body>", f"<script>localStorage.clear(); {pressed}</script></body>")


def _review_asking(folder: Path) -> str:
    return _review(folder, keys="2")


def _review_of_an_image(folder: Path) -> str:
    return _review(folder, labels=1, images=30, keys="1m")


def _look(folder: Path) -> str:
    config = review_run(folder / "looked")
    review = look_run(config, Wanted("outliers", 4), publish=publish_review)
    return Path(review.uri(REVIEW_PAGE)).read_text(encoding="utf-8")


PAGES: dict[str, Callable[[Path], str]] = {
    "report": _judged,
    "report without truth": _without_truth,
    "report of failures": _failed,
    "bank": _bank,
    "calibration": _calibration,
    "references": _references,
    "review": _review,
    "review that asks": _review_asking,
    "review of a whole image": _review_of_an_image,
    "review by an order": _look,
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    started = Browser()
    yield started
    started.close()


@pytest.mark.parametrize("name", PAGES)
def test_nothing_serious(browser: Browser, tmp_path: Path, name: str) -> None:
    page = tmp_path / "page.html"
    page.write_text(PAGES[name](tmp_path), encoding="utf-8")
    found = {}
    for dark in (False, True):
        for width in (390, 1440):
            browser.dark(dark)
            browser.open(page, width)
            browser.run("document.querySelectorAll('details').forEach(part => part.open = true)")
            found.update({(dark, width, text): None for text in _violations(browser)})
            assert browser.run("document.documentElement.scrollWidth") <= width
    assert list(found) == []


def test_something_serious_is_found(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("<h1>Title</h1><p style='color:#999'>pale</p><h3>deep</h3><input>")
    browser.open(page)
    kinds = {text.split(":")[0] for text in _violations(browser)}
    assert {"color-contrast", "heading-order", "label"} <= kinds


def _violations(browser: Browser) -> list[str]:
    """Violations that are serious, critical, or about headings, each with the first element."""
    browser.run(AXE.read_text(encoding="utf-8") + ";0")
    result: dict[str, Any] = json.loads(
        browser.run("axe.run({resultTypes: ['violations']}).then(r => JSON.stringify(r))")
    )
    return [
        f"{rule['id']}: {node['html'][:160]} {node['failureSummary']}"
        for rule in result["violations"]
        if rule["impact"] in ("serious", "critical") or rule["id"] == "heading-order"
        for node in rule["nodes"][:3]
    ]
