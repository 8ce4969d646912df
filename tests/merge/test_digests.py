"""Digests of merged files: taken while writing, the same however files are divided."""

import hashlib
import json

import pytest

from ntt_ray.merge import digests
from ntt_ray.merge.digests import (
    DigestingStream,
    FileDigest,
    FolderDigest,
    digest_of_bytes,
    digest_of_file,
)
from ntt_ray.storage import Storage, publishing, store
from ntt_ray.verify.merged_files import check_files
from ntt_ray.verify.problems import Findings
from tests.support.profile_run import STORE, merged, write_run

NOTHING = hashlib.sha256(b"").hexdigest()
FILES = {"d/a.txt": b"one", "d/ü #%41?.txt": b"", "d/b.txt": b"three"}


@pytest.mark.parametrize(
    "chunks",
    [[], [b""], [b"abc"], [b"a", memoryview(b"b"), b"c"]],
    ids=["none", "empty", "one", "some"],
)
def test_a_stream_is_handed_through(chunks):
    stream = DigestingStream()
    handed = b"".join(stream.through(chunks))
    assert handed == b"".join(chunks)
    assert stream.digest() == digest_of_bytes(handed)
    assert stream.digest() == FileDigest(len(handed), hashlib.sha256(handed).hexdigest())


def test_a_file_is_read_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr("ntt_ray.merge.digests.READ_BYTES", 2)
    (tmp_path / "a").write_bytes(b"abcde")
    assert digest_of_file(str(tmp_path / "a"), STORE) == digest_of_bytes(b"abcde")
    (tmp_path / "a").write_bytes(b"")
    assert digest_of_file(str(tmp_path / "a"), STORE) == FileDigest(0, NOTHING)
    with pytest.raises(FileNotFoundError):
        digest_of_file(str(tmp_path / "b"), STORE)


def _folder(files):
    parts = [FolderDigest.of(name, digest_of_bytes(data)) for name, data in files.items()]
    return sum(parts, FolderDigest())


def test_a_folder_is_the_sum_of_the_lines_of_sha256sum():
    lines = [f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in FILES.items()]
    total = sum(int(hashlib.sha256(line.encode()).hexdigest(), 16) for line in lines)
    assert _folder(FILES) == FolderDigest(3, 8, f"{total % 2**256:064x}")
    assert _folder(dict(reversed(FILES.items()))) == _folder(FILES)


OTHERS = {
    "renamed": {**FILES, "d/c.txt": FILES["d/b.txt"]},
    "swapped": {**FILES, "d/a.txt": b"three", "d/b.txt": b"one"},
    "changed": {**FILES, "d/a.txt": b"onf"},
    "moved by a byte": {**FILES, "d/a.txt": b"onet", "d/b.txt": b"hree"},
    "none": {},
}


@pytest.mark.parametrize("files", OTHERS.values(), ids=OTHERS)
def test_other_files_have_another_digest(files):
    assert _folder(files).sha256_sum != _folder(FILES).sha256_sum


class Record:
    def __init__(self, written):
        self.files = {name: d for one in written.values() for name, d in one.files.items()}
        self.folders = {name: d for one in written.values() for name, d in one.folders.items()}


def _problems(output, storage, written):
    findings = Findings()
    check_files(output, storage, Record(written), storage.list_files(output), findings)
    return [(problem.kind, problem.where) for problem in findings.kept]


@pytest.mark.slow
def test_uploads_in_parts_to_s3_are_what_their_digests_say(s3, monkeypatch):
    for module in (publishing, store):
        monkeypatch.setattr(module, "PART_BYTES", 5 << 20)  # the least that S3 takes
    output, storage = s3.prefix(), s3.storage()
    write_run(output, storage)
    profiles = ("coco", "yolo-seg", "semantic-png", "parquet")
    written = merged(output, *profiles, store=storage, info={"description": "x" * (11 << 20)})
    assert written["coco"].files["annotations.json"].size > 10 << 20
    assert _problems(output, storage, written) == []
    storage.publish_bytes(f"{output}/yolo/labels/deep/er/img 1.txt", b"0 0 0\n")
    assert _problems(output, storage, written) == [("merged file edited", "yolo/labels/")]


def test_digests_do_not_depend_on_how_the_work_is_divided(tmp_path, monkeypatch):
    write_run(str(tmp_path))
    profiles = ("coco", "coco-polygon", "yolo-seg", "labelstudio", "semantic-png")
    before = merged(tmp_path, *profiles)
    monkeypatch.setattr("ntt_ray.merge.fragments.FRAGMENT_BYTES", 1)
    monkeypatch.setattr("ntt_ray.merge.image_files._AT_ONCE", 1)
    assert merged(tmp_path, *profiles) == before
    assert _problems(str(tmp_path), Storage(), before) == []


SEALED = digests.sealed({"b": 0.1 + 0.2, "ids": {10: None, 9: [float("inf")]}, "text": "bölt"})
EDITED = {
    "a value": {**SEALED, "text": "bolt"},
    "a key more": {**SEALED, "more": 1},
    "a key less": {key: value for key, value in SEALED.items() if key != "text"},
    "another digest": {**SEALED, digests.SEAL: "0" * 64},
}


def test_a_sealed_file_is_as_it_was_written():
    text = digests.json_file(SEALED)
    assert digests.seal_problem(text, json.loads(text)) is None
    assert digests.sealed(SEALED) == SEALED
    assert digests.seal_problem(text + b"\n", json.loads(text)) is not None
    assert digests.seal_problem(b"[]", []) == "is no JSON object"


@pytest.mark.parametrize("case", EDITED)
def test_a_sealed_file_that_was_edited(case):
    text = digests.json_file(EDITED[case])
    found = digests.seal_problem(text, json.loads(text))
    assert found == "is not as it was written, by its SHA-256"


def test_a_file_without_a_seal_says_nothing():
    assert digests.seal_problem(b"{}", {}) is None
