"""The README as the package index shows it; everything else of the package is in pyproject.toml.

There, a link to a file of the repository leads nowhere. Where ``[project.urls]`` names the site of
the documentation (``Documentation = "https://..."``, whatever ``make docs`` wrote is published at)
it leads to that file there; until then its words stand without the link, and a picture is left out.
"""

import posixpath
import re
import tomllib
from pathlib import Path

import setuptools

ROOT = Path(__file__).resolve().parent
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?://|#)([^)\s]+)\)")


def address(link: str, site: str) -> str:
    """Where the site has a file: pages as folders, the README of a folder as that folder."""
    path, _, anchor = link.partition("#")
    folder, name = posixpath.split(path)
    if name == "README.md":
        path = f"{folder}/" if folder else ""
    elif path.endswith(".md"):
        path = path.removesuffix(".md") + "/"
    return f"{site.rstrip('/')}/{path}" + (f"#{anchor}" if anchor else "")


def readable(text: str, site: str | None) -> str:
    """The README with links that work without the repository.

    Args:
        text: the README.
        site: the address of the documentation, or None where there is none.
    """

    def replaced(found: re.Match[str]) -> str:
        picture, words, link = found.groups()
        if site is not None:
            return f"{picture}[{words}]({address(link, site)})"
        return "" if picture else words

    return re.sub(r"\n{3,}", "\n\n", LINK.sub(replaced, text))


def long_description() -> str:
    """The README of this folder, for the site that pyproject.toml names."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return readable(text, project.get("urls", {}).get("Documentation"))


if __name__ == "__main__":
    setuptools.setup(
        long_description=long_description(), long_description_content_type="text/markdown"
    )
