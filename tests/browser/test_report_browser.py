"""The report in a real browser: it draws, filters, counts, and runs nothing but its own script.

Chromium is driven through its debugging pipe, so no driver package is needed.
"""

from __future__ import annotations

import itertools
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.report_run import CLASSES, example_run, references_of_example, truth_of_example

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser") if (found := shutil.which(name))), None
)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
)
TIMEOUT_S = 60
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
]


class Browser:
    """One headless Chromium with one page.

    Attributes:
        problems: console errors, exceptions and refusals of the content security policy.
        requests: URLs the page asked for.
    """

    def __init__(self) -> None:
        assert CHROMIUM is not None
        self.problems: list[str] = []
        self.requests: list[str] = []
        self._numbers = itertools.count(1)
        self._buffer = b""
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        commands_read, self._commands = os.pipe()
        self._replies, replies_write = os.pipe()

        def connect_pipe() -> None:  # Chromium reads commands from 3 and answers on 4
            os.dup2(commands_read, 3)
            os.dup2(replies_write, 4)

        self._process = subprocess.Popen(
            [CHROMIUM, *FLAGS, f"--user-data-dir={self._profile.name}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=connect_pipe,
            pass_fds=(3, 4),
            start_new_session=True,
        )
        os.close(commands_read)
        os.close(replies_write)
        self._session: str | None = None
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        attached = self.send("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def close(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._commands)
        os.close(self._replies)
        self._profile.cleanup()

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            reply = self._next_message()
            if reply.get("id") == number:
                assert "error" not in reply, reply["error"]
                return dict(reply["result"])

    def open(self, path: Path, width: int = 1280, height: int = 900) -> None:
        self.resize(width, height)
        self.send("Page.navigate", url=path.as_uri())
        end = time.monotonic() + TIMEOUT_S
        while self.run("document.readyState") != "complete" and time.monotonic() < end:
            time.sleep(0.05)

    def resize(self, width: int, height: int) -> None:
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )

    def run(self, expression: str) -> Any:
        """Value of a JavaScript expression, or what its promise comes to."""
        reply = self.send(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in reply, reply["exceptionDetails"]
        return reply["result"].get("value")

    def press(self, key: str, code: int) -> None:
        for kind in ("rawKeyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code)

    def click(self, selector: str) -> None:
        x, y = self.middle_of(selector)
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def hover(self, selector: str) -> None:
        x, y = self.middle_of(selector)
        self.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def middle_of(self, selector: str) -> tuple[float, float]:
        x, y = self.run(
            f"(async () => {{ const el = document.querySelector({json.dumps(selector)});"
            "el.scrollIntoView({block: 'center', behavior: 'instant'});"
            "for (let frames = 0; frames < 2; frames++) await new Promise(requestAnimationFrame);"
            "const box = el.getBoundingClientRect();"
            "return [box.left + box.width / 2, box.top + box.height / 2]; })()"
        )
        return x, y

    def _next_message(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._replies], [], [], TIMEOUT_S)
            part = os.read(self._replies, 1 << 16) if ready else b""
            assert part, "Chromium does not answer"
            self._buffer += part
        text, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        self._note(message.get("method", ""), message.get("params", {}))
        return message

    def _note(self, method: str, params: dict[str, Any]) -> None:
        if method == "Runtime.exceptionThrown":
            self.problems.append(json.dumps(params["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert"):
            self.problems.append(json.dumps(params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.problems.append(params["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])


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
