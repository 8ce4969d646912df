"""A resume says what is not as it was: package versions, and images that came or went."""

import json
import logging
import os
import tarfile
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ntt_ray import storage
from ntt_ray.config import build_config
from ntt_ray.errors import InputError, OutputMismatchError
from ntt_ray.records import ImageEntry
from ntt_ray.run import manifest as manifest_file
from ntt_ray.run import manifest_writer, resume
from ntt_ray.run.layout import MANIFEST_FILE
from ntt_ray.run.prepare import check_images
from ntt_ray.run.record import Identity, make_record, write_record
from ntt_ray.sources.image_list import list_images
from ntt_ray.sources.schema import SCHEMA
from ntt_ray.storage import Storage
from tests.support.run_files import manifest_table

STORE = Storage()
MODELS = {"encoder": {"checkpoint": "e"}, "proposer": {"checkpoint": "p"}}
NAMES = [f"{number}.png" for number in range(4)]


def _photos(folder, names=NAMES):
    root = folder / "photos"
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


def _tar(path, names=NAMES):
    with tarfile.open(path, "w") as tar:
        for name in names:
            tar.addfile(tarfile.TarInfo(name))
    return path


def _config(images, output, **job):
    data = {"images": str(images), "output": str(output), "bank": "/bank", "job": job}
    return build_config(data)


def _begun(images, output):
    """A run that was begun and has no shard yet."""
    config = _config(images, output, images_per_unit=2)
    listed = list_images(config.images, None, STORE)
    manifest = manifest_writer.manifest_bytes(listed, 2)
    STORE.publish_bytes(storage.join(config.output, MANIFEST_FILE), manifest)
    digest = manifest_file.manifest_digest(manifest)
    identity = {"manifest": digest, "bank": "b", "method": {}, "models": MODELS}
    record = make_record(
        identity=Identity.model_validate(identity),
        config={},
        classes=(),
        units=(len(listed) + 1) // 2,
        images=len(listed),
        images_sha256=resume.list_digest(config.images, STORE, config.columns),
    )
    write_record(config.output, record, STORE)
    return config


def _edit_versions(output, **versions):
    path = output / "run.json"
    record = json.loads(path.read_text())
    record["versions"].update(versions)
    path.write_text(json.dumps(record))


def _warnings(caplog):
    return [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]


@pytest.mark.parametrize("images", ["a.tar", "."], ids=["an archive", "a folder of archives"])
def test_members_of_archives_that_came_or_went_are_named(tmp_path, caplog, images):
    where, archive = tmp_path / "in" / images, tmp_path / "in" / "a.tar"
    archive.parent.mkdir()
    _tar(archive)
    config = _begun(where, tmp_path / "run")
    assert check_images(config, STORE).sizes == (2, 2)
    assert _warnings(caplog) == []
    _tar(archive, [*NAMES[1:], "new.png"])
    check_images(config, STORE)
    assert [text[:9] for text in _warnings(caplog)] == ["images: 1", "images: 1"]


def _parquet(path, names=NAMES):
    rows = [{"bytes": b"x", "path": name} for name in names]
    pq.write_table(pa.table({"image": rows}), path)


@pytest.mark.parametrize("images", ["a.parquet", "."], ids=["a file", "a folder"])
def test_images_of_parquet_files_that_came_or_went_are_named(tmp_path, caplog, images):
    where, file = tmp_path / "in" / images, tmp_path / "in" / "a.parquet"
    file.parent.mkdir()
    _parquet(file)
    config = _begun(where, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "run.json").read_text())["images_sha256"] is None
    assert check_images(config, STORE).sizes == (2, 2)
    assert _warnings(caplog) == []
    _parquet(file, [*NAMES[1:], "new.png"])
    check_images(config, STORE)
    assert [text[:9] for text in _warnings(caplog)] == ["images: 1", "images: 1"]


def test_a_lost_manifest_of_a_run_that_knew_no_keys_is_found_again(tmp_path, monkeypatch):
    _tar(tmp_path / "a.tar")
    manifest_bytes = manifest_writer.manifest_bytes
    with monkeypatch.context() as older:
        without = lambda images, size: manifest_bytes(images.select(SCHEMA.names), size)  # noqa: E731
        older.setattr(manifest_writer, "manifest_bytes", without)
        config = _begun(tmp_path / "a.tar", tmp_path / "run")
    before = (tmp_path / "run" / MANIFEST_FILE).read_bytes()
    (tmp_path / "run" / MANIFEST_FILE).unlink()
    found = check_images(config, STORE)
    assert (found.manifest.sha256, found.lost) == (manifest_file.manifest_digest(before), True)


def test_nothing_is_said_where_nothing_changed(tmp_path, caplog):
    config = _begun(_photos(tmp_path), tmp_path / "run")
    assert check_images(config, STORE).sizes == (2, 2)
    assert _warnings(caplog) == []


def test_other_package_versions_are_named_in_one_warning(tmp_path, caplog):
    config = _begun(_photos(tmp_path), tmp_path / "run")
    _edit_versions(tmp_path / "run", timm="0.1", gone="3")
    check_images(config, STORE)
    (text,) = _warnings(caplog)
    timm = resume.installed_versions()["timm"]
    assert f"gone 3 then, not installed now; timm 0.1 then, {timm} now. What is labelled" in text
    assert "job.strict_versions" in text
    assert "numpy" not in text


def test_they_are_an_error_where_that_is_asked_for(tmp_path):
    _begun(_photos(tmp_path), tmp_path / "run")
    strict = _config(tmp_path / "photos", tmp_path / "run", strict_versions=True)
    assert check_images(strict, STORE).sizes == (2, 2)
    _edit_versions(tmp_path / "run", timm="0.1")
    with pytest.raises(OutputMismatchError, match=r"set job\.strict_versions to false") as caught:
        check_images(strict, STORE)
    (problem,) = caught.value.problems
    assert problem.startswith("timm 0.1 then, ")


def test_images_that_came_or_went_are_counted_and_named(tmp_path, caplog):
    root = _photos(tmp_path)
    config = _begun(root, tmp_path / "run")
    _photos(tmp_path, [f"sub/new-{number}.png" for number in range(7)])
    (root / "2.png").unlink()
    assert check_images(config, STORE).sizes == (2, 2)  # the run is what it was
    came, went = _warnings(caplog)
    shown = ", ".join(f"sub/new-{number}.png" for number in range(5))
    assert f"images: 7 appeared in {root} since the run began ({shown}, ...)." in came
    assert f"images: 1 vanished from {root} since the run began (2.png)." in went
    assert f"another output, by the same bank (bank: {tmp_path}/run/bank.safetensors)" in came


def test_names_that_are_not_unicode_and_files_that_are_no_images_are_no_change(tmp_path, caplog):
    root = _photos(tmp_path, ["a.png", os.fsdecode(b"\xff.png")])
    config = _begun(root, tmp_path / "run")
    _photos(tmp_path, ["notes.txt", ".hidden/x.png"])
    check_images(config, STORE)
    assert _warnings(caplog) == []


def test_an_output_below_the_images_brings_no_images(tmp_path, caplog):
    root = _photos(tmp_path)
    config = _begun(root, root / "run")
    (root / "run" / "semantic").mkdir()
    (root / "run" / "semantic" / "0.png").write_bytes(b"")
    check_images(config, STORE)
    assert _warnings(caplog) == []


def test_a_list_is_compared_by_its_digest_and_read_only_where_that_differs(
    tmp_path, caplog, monkeypatch
):
    _photos(tmp_path)
    table = tmp_path / "photos" / "list.csv"
    table.write_text("uri\n0.png\n1.png\n")
    config = _begun(table, tmp_path / "run")
    caplog.set_level(logging.INFO)
    with monkeypatch.context() as patched:
        patched.setattr(resume, "image_pieces", None)
        check_images(config, STORE)
    assert "list.csv is as it was when the run began" in caplog.text
    table.write_text("uri\n1.png\n2.png\n3.png\n")
    check_images(config, STORE)
    came, went = _warnings(caplog)
    assert f"2 appeared in {table} since the run began (2.png, 3.png)." in came
    assert f"1 vanished from {table} since the run began (0.png)." in went


def test_a_run_of_an_older_version_is_compared_too(tmp_path, caplog):
    _photos(tmp_path)
    table = tmp_path / "photos" / "list.csv"
    table.write_text("uri\n0.png\n1.png\n")
    config = _begun(table, tmp_path / "run")
    path = tmp_path / "run" / "run.json"
    record = json.loads(path.read_text())
    del record["images_sha256"]
    path.write_text(json.dumps(record))
    check_images(config, STORE)
    assert _warnings(caplog) == []
    table.write_text("uri\n0.png\n")
    check_images(config, STORE)
    assert ["1 vanished" in text for text in _warnings(caplog)] == [True]


def test_images_that_cannot_be_listed_stop_nothing(tmp_path, caplog):
    table = _photos(tmp_path) / "list.csv"
    table.write_text("uri\n0.png\n")
    config = _begun(table, tmp_path / "run")
    table.unlink()
    assert check_images(config, STORE).sizes == (1,)
    (text,) = _warnings(caplog)
    assert text.startswith("images: whether some came or went is not known: ")


def test_a_manifest_that_was_edited_or_deleted_is_listed_again(tmp_path):
    config = _begun(_photos(tmp_path), tmp_path / "run")
    path = tmp_path / "run" / MANIFEST_FILE
    before = check_images(config, STORE)
    for damage in (lambda: path.write_bytes(b"x"), path.unlink):
        damage()
        found = check_images(config, STORE)
        assert (found.manifest, found.lost, before.lost) == (before.manifest, True, False)


def test_a_manifest_that_the_images_do_not_give_again_must_be_restored(tmp_path):
    root = _photos(tmp_path)
    config = _begun(root, tmp_path / "run")
    (root / "0.png").unlink()
    (tmp_path / "run" / MANIFEST_FILE).write_bytes(b"x")
    with pytest.raises(InputError, match=r"manifest\.parquet: .* Restore it, or choose another"):
        check_images(config, STORE)


def test_all_images_gone(tmp_path, caplog):
    root = _photos(tmp_path)
    config = _begun(root, tmp_path / "run")
    root.rename(tmp_path / "elsewhere")
    check_images(config, STORE)
    (text,) = _warnings(caplog)
    assert "4 vanished" in text


CHANGES = {
    "nothing at all": ([], [], (0, 0, (), ())),
    "all new": ([], [["b", "a"]], (2, 0, ("a", "b"), ())),
    "all gone": ([["a"], ["b"]], [], (0, 2, (), ("a", "b"))),
    "the same in another order": ([["a", "b"], ["c"]], [["c"], ["b", "a"]], (0, 0, (), ())),
    "one for another": ([["a", "b"]], [["a"], [], ["c"]], (1, 1, ("c",), ("b",))),
    "more than are shown": (
        [[f"{n}" for n in range(9)]],
        [[f"x{n}" for n in range(9)]],
        (9, 9, ("x0", "x1", "x2", "x3", "x4"), ("0", "1", "2", "3", "4")),
    ),
}


@pytest.mark.parametrize("case", CHANGES)
def test_changes(case):
    known, listed, wanted = CHANGES[case]
    assert resume.image_changes(lambda: known, listed, "/out/") == resume.ImageChanges(*wanted)


@pytest.mark.slow
def test_listing_again_takes_little_memory_for_an_image():
    """9 bytes are kept of each; a list of the names would take 70."""
    count = 200_000
    entries = [ImageEntry(n, f"photos/of/a/day/{n:09d}.jpg", "") for n in range(count)]
    manifest = manifest_writer.manifest_bytes(manifest_table(entries), 256)
    del entries
    pages = (
        [f"photos/of/a/day/{n:09d}.jpg" for n in range(start, start + 1000)]
        for start in range(0, count, 1000)
    )
    tracemalloc.start()
    try:
        found = resume.image_changes(lambda: manifest_file.name_batches(manifest), pages, "/out/")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found == resume.ImageChanges(0, 0, (), ())
    assert peak < 40 * count
