"""The documentation site: each page has its place, and is copied where its links hold."""

import pytest

from tests.support import site_pages
from tests.support.paths import ROOT


def test_every_page_has_its_place():
    pages = site_pages.in_navigation()
    assert len(pages) == len({*pages})
    written = {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("**/*.md")}
    assert written <= {*pages}, f"add to zensical.toml: {sorted(written - {*pages})}"


@pytest.mark.parametrize("page", site_pages.in_navigation())
def test_links_lead_to_files_of_the_repository(page):
    for target in site_pages.linked_from(page):
        assert (ROOT / target).is_file(), f"{page} links to {target}"


def test_pages_keep_their_folders_and_nothing_else_stays(tmp_path):
    (tmp_path / "of_before.md").touch()
    site_pages.copy_pages(tmp_path)
    copied = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    assert copied == {*site_pages.needed()}
    assert {"README.md", "docs/cluster.md", "docs/report.png", "configs/photos.yaml"} <= copied


def test_the_site_loads_nothing_from_elsewhere():
    assert site_pages.settings()["theme"]["font"] is False
