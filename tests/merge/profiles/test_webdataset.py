"""The profile webdataset: a tar of labels for each packed file, with its keys in its order."""

import io
import json
import tarfile

import pytest

from ntt_ray.errors import InputError
from ntt_ray.merge import fragments
from ntt_ray.merge.profiles import webdataset
from ntt_ray.merge.profiles.webdataset import tar_name
from ntt_ray.run.layout import MERGED_FILE
from ntt_ray.sources.archives import webdataset_key
from tests.support.profile_run import (
    in_tars,
    kept_masks,
    labelled_images,
    merged,
    write_packed,
    write_run,
)


def members(path) -> dict[str, dict]:
    with tarfile.open(path) as tar:
        found = {m.name: json.loads(tar.extractfile(m).read()) for m in tar}
        assert all((m.mtime, m.uid, m.uname) == (0, 0, "") for m in tar.getmembers())
    return found


def test_each_packed_file_has_a_tar_in_its_order(tmp_path):
    shards = write_packed(tmp_path, in_tars)
    written = merged(tmp_path, "webdataset", shard_ids=shards, uris=None)["webdataset"]
    images = labelled_images()
    count = -(-len(images) // 4)
    assert list(written.files) == [f"webdataset/deep/s-{n}.tar" for n in range(count)]
    assert all(MERGED_FILE.fullmatch(name) for name in written.files)
    for number, name in enumerate(written.files):
        own = images[4 * number : 4 * number + 4]
        wanted = [f"{webdataset_key(image.entry.file_name)}.json" for image in own]
        assert list(members(tmp_path / name)) == wanted


def test_members_hold_the_annotations_of_coco(tmp_path):
    shards = write_packed(tmp_path, in_tars)
    written = merged(tmp_path, "coco", "webdataset", shard_ids=shards, uris=None)["webdataset"]
    coco = json.loads((tmp_path / "annotations.json").read_text())
    found = [m for name in written.files for m in members(tmp_path / name).values()]
    assert [a for member in found for a in member["annotations"]] == coco["annotations"]
    names = {c["id"]: c["name"] for c in coco["categories"]}
    for member in found:
        used = sorted({a["category_id"] for a in member["annotations"]})
        assert member["categories"] == [{"id": i, "name": names[i]} for i in used]
        assert len(member["annotations"]) == len(kept_masks().get(member["file_name"], ()))
    empty, failed = found[-2:]
    assert (empty["status"], empty["annotations"], empty["error"]) == ("empty", [], None)
    assert (failed["status"], failed["error"], failed["height"]) == ("failed", "truncated", None)


def test_the_bytes_depend_on_the_labels_alone(tmp_path, monkeypatch):
    written = []
    for number, (rows, size) in enumerate(((3, 8 << 20), (2, 1), (5, 300))):
        folder = tmp_path / str(number)
        folder.mkdir()
        shards = write_packed(folder, in_tars, rows)
        monkeypatch.setattr(fragments, "FRAGMENT_BYTES", size)
        monkeypatch.setattr(webdataset, "_CHUNK_BYTES", size)
        monkeypatch.setattr("ntt_ray.run.shard.BATCH_ROWS", rows - 1)
        written.append(merged(folder, "webdataset", shard_ids=shards, uris=None)["webdataset"])
    assert written[0] == written[1] == written[2]


def test_images_that_share_a_key_are_told_apart(tmp_path):
    def place(number, _name):
        return "a.tar", ["both", "both", "alone"][number % 3]

    shards = write_packed(tmp_path, place)
    (name,) = merged(tmp_path, "webdataset", shard_ids=shards, uris=None)["webdataset"].files
    with tarfile.open(tmp_path / name) as tar:
        names = tar.getnames()
    assert names[:3] == ["both.jpg.json", "both.jpg.json", "alone.json"]  # endings are the same
    assert {webdataset_key(n) for n in names} == {"both", "alone"}


def test_what_webdataset_skips_has_a_member_that_it_skips(tmp_path):
    shards = write_packed(tmp_path, lambda _number, _name: ("a.tar", None))
    (name,) = merged(tmp_path, "webdataset", shard_ids=shards, uris=None)["webdataset"].files
    found = members(tmp_path / name)
    assert len(found) == len(labelled_images())
    assert ".deep%2Fer%2Fimg 1.jpg.json" in found
    assert {webdataset_key(member) for member in found} == {None}


KEYS = {
    "a key with a dot": ("v1.2", "v1%2E2.json"),
    "a way out": ("../../a", "%2E%2E%2F%2E%2E%2Fa.json"),
    "a root": ("/a", "%2Fa.json"),
    "nothing": ("", ".json"),
    "a folder": ("./a.b/c", "./a.b/c.json"),
}


@pytest.mark.parametrize(("key", "member"), KEYS.values(), ids=KEYS)
def test_keys_of_tables_lead_nowhere_else(tmp_path, key, member):
    place = lambda number, _name: ("a.parquet", key if number == 0 else f"k{number}")  # noqa: E731
    shards = write_packed(tmp_path, place)
    (name,) = merged(tmp_path, "webdataset", shard_ids=shards, uris=None)["webdataset"].files
    assert name == "webdataset/a.parquet.tar"
    found = members(tmp_path / name)
    assert next(iter(found)) == member
    assert found[member]["key"] == key


def test_loose_images_are_in_one_tar(tmp_path):
    write_run(str(tmp_path))
    (name,) = merged(tmp_path, "webdataset")["webdataset"].files
    assert name == "webdataset/loose.tar"
    found = members(tmp_path / name)
    assert next(iter(found)) == "deep/er/img 1.json"
    assert found["deep/er/img 1.json"]["source"] is None


def test_names_lead_nowhere_else(tmp_path):
    with pytest.raises(InputError, match="leads out"):
        tar_name("../a.tar")
    shards = write_packed(tmp_path, lambda n, name: (("a.zip", "a.zip.tar")[n % 2], name))
    with pytest.raises(InputError, match="labels of two packed files"):
        merged(tmp_path, "webdataset", shard_ids=shards, uris=None)


def test_an_edited_record_names_no_other_file():
    assert MERGED_FILE.fullmatch("webdataset/a/..b/c.tar")
    for name in ("webdataset/../a.tar", "webdataset/a/../../b.tar", "webdataset/a//b.tar", "a.tar"):
        assert not MERGED_FILE.fullmatch(name)


def test_long_names_are_kept(tmp_path):
    long = "é" * 200
    shards = write_packed(tmp_path, lambda number, _name: ("a.tar", f"{long}/{number}"))
    (name,) = merged(tmp_path, "webdataset", shard_ids=shards, uris=None)["webdataset"].files
    assert next(iter(members(tmp_path / name))) == f"{long}/0.json"
    with tarfile.open(fileobj=io.BytesIO((tmp_path / name).read_bytes()), mode="r|") as tar:
        assert len(list(tar)) == len(labelled_images())  # read as a stream, too
