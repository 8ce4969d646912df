"""Rows that are gone through by columns get what they get one by one."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntt_ray.errors import InputError
from ntt_ray.sources import plain_rows as module
from ntt_ray.sources import tables
from ntt_ray.sources.image_list import list_images
from ntt_ray.sources.plain_rows import plain_rows
from ntt_ray.storage import Storage

ROOTS = ["s3://bucket/photos", "s3://bucket/photos/", "/data/in", "in", "https://host/a b"]
TEXTS = [
    "a.jpg",
    "a/b.jpg",
    "a//b.jpg",
    "é/ü.png",
    "a b+c,d.jpg",
    "",
    ".",
    "..",
    "../a.jpg",
    "/a.jpg",
]
TEXTS += [
    "a/../b.jpg",
    "a..b.jpg",
    "~/a.jpg",
    "c:\\a.jpg",
    "\\a.jpg",
    "a?b.jpg",
    "a#b.jpg",
    "a%20b.jpg",
]
TEXTS += [
    "s3://bucket/photos/x.jpg",
    "s3://bucket/other/x.jpg",
    "s3://bucket//x.jpg",
    "s3://b/a@b.jpg",
]
TEXTS += [
    "s3://user:pw@bucket/x.jpg",
    "S3://bucket/x.jpg",
    "https://h/x.jpg?sig=1",
    "file:///x.jpg",
]
TEXTS += [
    "range://0-9/s3://bucket/a.tar",
    "gs://bucket/x.jpg",
    ".hidden/x.jpg",
    "a\nb.jpg",
    "s3://b/.x",
]
text = st.sampled_from(TEXTS) | st.text(max_size=12)


def _one_by_one(places, names, root):
    check = tables._RowCheck(root, allow_local=False)
    rows = list(tables._checked_rows(zip(places, names, strict=True), 0, "t.csv", root, check))
    return [row[1] for row in rows], [row[2] for row in rows]


@given(st.sampled_from(ROOTS), st.lists(st.tuples(text, st.none() | text), min_size=1, max_size=3))
def test_plain_rows_are_as_one_by_one(root, rows):
    places, names = [place for place, _ in rows], [name for _, name in rows]
    if (found := plain_rows(places, names, root)) is not None:
        assert (found[0].to_pylist(), found[1].to_pylist()) == _one_by_one(places, names, root)


@pytest.mark.parametrize(
    "place", ["a/b c.jpg", "s3://bucket/photos/x.jpg", "s3://bucket/other/é.jpg"]
)
@pytest.mark.parametrize("name", [None, "", "own/name.jpg"])
def test_most_rows_are_plain(place, name):
    root = "s3://bucket/photos"
    found = plain_rows([place], [name], root)
    assert found is not None
    assert [column.to_pylist() for column in found] == list(_one_by_one([place], [name], root))


@pytest.mark.parametrize(
    "places", [[None], [1], [b"a.jpg"], ["a.jpg", None], ["a.jpg", "\udcff.jpg"]]
)
def test_what_is_no_text_is_not_plain(places):
    assert plain_rows(places, [None] * len(places), "in") is None


def test_a_bad_row_among_plain_ones_is_named(tmp_path):
    rows = [{"uri": "a.png"}, {"uri": "b.png"}, {"uri": "../c.png"}]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError, match=r"'\.\./c\.png' leads out of"):
        list_images(str(tmp_path / "t.jsonl"), None, Storage())


def test_a_root_that_may_not_be_read_is_found_by_its_first_row(tmp_path, monkeypatch):
    (tmp_path / "t.csv").write_text("uri\na.png\nb.png\n")
    assert module.plain_rows(["a.png"], [None], "nope://x") is not None
    monkeypatch.setattr(tables, "plain_rows", module.plain_rows)
    with pytest.raises(InputError, match=r"row 1 .*nope://"):
        list_images(str(tmp_path / "t.csv"), "nope://x", Storage())
