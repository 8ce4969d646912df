"""What is published: the README as the index shows it, what goes into a release, true bounds."""

import fnmatch
import re
import runpy
import subprocess
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests.support import site_pages
from tests.support.paths import ROOT

SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = SETTINGS["project"]
SETUP = runpy.run_path(str(ROOT / "setup.py"), run_name="setup")
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXTRAS = PROJECT["optional-dependencies"]
SITE = "https://docs.example.com/ntt-ray"


def _tracked() -> list[str]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip("not a git checkout")
    return [name for name in done.stdout.splitlines() if (ROOT / name).is_file()]


def _pins(name: str) -> dict[str, str]:
    rows = (ROOT / name).read_text().lower().replace("_", "-").splitlines()
    return dict(row.split("==") for row in rows if row and not row.startswith("#"))


def _links(text: str) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", text)


def test_the_published_readme_has_no_link_that_needs_the_repository():
    published = SETUP["readable"](README, None)
    assert all(link.startswith("https://") for link in _links(published))
    assert "![" not in published
    assert "docs/cluster.md" in published
    assert len(published) > 0.8 * len(README)


def test_the_published_readme_leads_to_the_site_where_one_is_named():
    published = SETUP["readable"](README, SITE)
    links = _links(published)
    assert len(links) == len(_links(README))
    assert all(link.startswith("https://") for link in links)
    assert f"{SITE}/docs/cluster/" in links
    assert f"{SITE}/docs/report.png" in links
    assert f"{SITE}/configs/photos.yaml" in links
    assert {*site_pages.linked_from("README.md")} <= {*site_pages.needed()}


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        ("docs/output.md#columns", "docs/output/#columns"),
        ("benchmarks/README.md", "benchmarks/"),
        ("README.md", ""),
        ("configs/photos.yaml", "configs/photos.yaml"),
    ],
)
def test_addresses_of_the_site(link, expected):
    assert SETUP["address"](link, SITE + "/") == f"{SITE}/{expected}"


def test_the_readme_is_made_by_setup_py():
    assert "readme" in PROJECT["dynamic"]
    assert SETUP["long_description"]().startswith("# ntt-ray\n")


def test_every_file_of_the_package_is_installed():
    patterns = SETTINGS["tool"]["setuptools"]["package-data"]["ntt_ray"]
    others = [n for n in _tracked() if n.startswith("ntt_ray/") and not n.endswith(".py")]
    assert others
    for name in others:
        inside = name.removeprefix("ntt_ray/")
        assert any(fnmatch.fnmatch(inside, pattern) for pattern in patterns), name


def test_the_source_distribution_is_the_repository():
    rows = [row.split() for row in (ROOT / "MANIFEST.in").read_text().splitlines()]
    folders = tuple(f"{row[1]}/" for row in rows if row and row[0] == "graft")
    patterns = [pattern for row in rows if row and row[0] == "include" for pattern in row[1:]]
    for name in _tracked():
        at_the_top = "/" not in name and any(fnmatch.fnmatch(name, p) for p in patterns)
        assert at_the_top or name.startswith(folders), f"{name}: add it to MANIFEST.in"


@pytest.mark.parametrize("extra", [None, "gcs", "azure", "heif", "fast-eval", "dev"])
def test_every_lower_bound_is_what_make_oldest_installs(extra):
    """A bound names the oldest version, or the first one of a series (2.4 for 2.4.1)."""
    pins = _pins("constraints-oldest.txt")
    for line in PROJECT["dependencies"] if extra is None else EXTRAS[extra]:
        needed = Requirement(line)
        ((operator, bound),) = [(s.operator, s.version) for s in needed.specifier]
        oldest = Version(pins[needed.name.lower()])
        assert operator == ">=", line
        release = Version(bound).release
        assert oldest.release[: len(release)] == release, f"{line}, but the oldest is {oldest}"


@pytest.mark.parametrize("extra", ["docs", "release"])
def test_the_tools_are_pinned(extra):
    pins = _pins("constraints-tools.txt")
    for needed in map(Requirement, EXTRAS[extra]):
        assert needed.specifier.contains(pins[needed.name])


def test_every_python_that_is_allowed_is_named_and_tried():
    found = [re.search(r":: (3\.\d+)$", line) for line in PROJECT["classifiers"]]
    named = [match[1] for match in found if match]
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(r"^PYTHONS := (.*)$", makefile, flags=re.MULTILINE)[1].split() == named
    assert all(
        Requirement(f"python{PROJECT['requires-python']}").specifier.contains(n) for n in named
    )
