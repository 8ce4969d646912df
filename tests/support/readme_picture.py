"""The README's picture, of the demo's report.

python -m tests.support.readme_picture      takes it anew, after ``make demo``
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

from PIL import Image

from tests.support.browser import CHROMIUM, Browser

ROOT = Path(__file__).resolve().parents[2]
PICTURE = ROOT / "docs" / "report.png"
SIZE = (1200, 1060)  # pixels of the page, width and height
SCALE = 0.8  # pixels of the picture for one of the page
COLOURS = 256
# the sections in the picture begin at this heading
_TO_REFERENCES = """
[...document.querySelectorAll("h2")].find(h => h.textContent.trim() === "References")
    .closest("section").scrollIntoView({block: "start", behavior: "instant"}), scrollBy(0, -12)
"""
_DRAWN = """
Promise.all([...document.images].map(image => image.decode().catch(() => null)))
    .then(() => new Promise(requestAnimationFrame)).then(() => true)
"""


def take(report: Path) -> bytes:
    """A PNG of a report from its references on, with all pictures that are in it there."""
    browser = Browser()
    try:
        browser.dark(False)
        browser.open(report, *SIZE)
        browser.run("document.documentElement.style.scrollbarWidth = 'none'")
        size = dict(zip(("width", "height"), SIZE, strict=True))
        browser.send(
            "Emulation.setDeviceMetricsOverride", **size, deviceScaleFactor=SCALE, mobile=False
        )
        browser.run(_DRAWN)
        browser.run(_TO_REFERENCES)
        browser.run(_DRAWN)
        assert not browser.problems, browser.problems
        with Image.open(io.BytesIO(browser.picture(whole=False))) as taken:
            small, file = taken.convert("RGB").quantize(COLOURS), io.BytesIO()
        small.save(file, "PNG", optimize=True)
        return file.getvalue()
    finally:
        browser.close()


def main() -> None:
    report = ROOT / "runs" / "demo" / "run" / "report.html"
    if CHROMIUM is None or not report.is_file():
        sys.exit(f"needs chromium and {report.relative_to(ROOT)}: make demo")
    PICTURE.write_bytes(take(report))


if __name__ == "__main__":
    main()
