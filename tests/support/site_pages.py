"""The pages of the documentation site, copied from where they stand; `zensical.toml` orders them.

python -m tests.support.site_pages      writes build/pages anew
"""

import re
import shutil
import tomllib
from pathlib import Path

from tests.support.paths import ROOT

PAGES = ROOT / "build" / "pages"
_LINK = re.compile(r"\]\((?!https?://|mailto:|#)([^)#\s]+)")


def settings() -> dict:
    """What `zensical.toml` says of the site."""
    return tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]


def in_navigation(entries: list | None = None) -> list[str]:
    """Every page of the navigation, in its order, as a path from the root of the repository."""
    pages = []
    for entry in settings()["nav"] if entries is None else entries:
        for value in [entry] if isinstance(entry, str) else entry.values():
            pages += in_navigation(value) if isinstance(value, list) else [value]
    return pages


def linked_from(page: str) -> list[str]:
    """Every file of the repository that a page links to, as a path from the root."""
    text = (ROOT / page).read_text(encoding="utf-8")
    targets = [(ROOT / page).parent.joinpath(link).resolve() for link in _LINK.findall(text)]
    return [target.relative_to(ROOT).as_posix() for target in targets]


def needed() -> list[str]:
    """The pages of the navigation, and the files that they show or link to."""
    pages = in_navigation()
    return sorted({*pages, *(target for page in pages for target in linked_from(page))})


def copy_pages(target: Path = PAGES) -> None:
    """Copy each file into the folder that it has in the repository, and leave nothing else there.

    Raises:
        FileNotFoundError: a page links to a file that is not there.
    """
    shutil.rmtree(target, ignore_errors=True)
    for name in needed():
        copy = target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, copy)


if __name__ == "__main__":
    copy_pages()
