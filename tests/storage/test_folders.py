"""Which folder on a path is missing."""

import pytest

from ntt_ray import storage

CASES = {
    "nothing is missing": ("there/file.json", ""),
    "only the file": ("there/other.json", ""),
    "its folder": ("gone/file.json", "gone"),
    "the first of several": ("gone/deep/deeper/file.json", "gone"),
    "one below another": ("there/gone/file.json", "there/gone"),
}


@pytest.mark.parametrize(("path", "missing"), CASES.values(), ids=CASES.keys())
def test_the_first_folder_that_is_missing(tmp_path, path, missing):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file.json").touch()
    said = storage.missing_folder(str(tmp_path / path))
    assert said == (f" (there is no folder {tmp_path / missing})" if missing else "")


def test_uris_have_no_folders():
    assert storage.missing_folder("s3://bucket/gone/file.json") == ""
