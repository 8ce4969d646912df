"""Whatever an image list or a file of a run holds: it is used, or there is one clean error."""

import csv
import io
import json
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntt_ray.bank.memory import MemoryBank
from ntt_ray.errors import InputError, NttRayError
from ntt_ray.merge.job import merge
from ntt_ray.records import ImageEntry
from ntt_ray.run import manifest as manifest_file
from ntt_ray.run import manifest_writer
from ntt_ray.run.layout import MANIFEST_FILE
from ntt_ray.run.shard import iter_labels, labels_to_table, read_shard, table_to_bytes
from ntt_ray.sources.image_list import list_images
from ntt_ray.storage import Storage
from ntt_ray.verify.problems import Findings
from ntt_ray.verify.verify import verify
from tests.support.fuzzing import changed, damaged, fuzz, tried
from tests.support.run_files import make_labels, manifest_table
from tests.support.verify_run import CLASSES, Run

URIS = ["a/1.jpg", "/data/b/2.jpg", "s3://bucket/x/3.jpg", "ü 4.jpg", "5.png"]
ROWS = [{"uri": uri, "file_name": f"n{number}.jpg"} for number, uri in enumerate(URIS)]
COCO = {"images": [{"id": number, "file_name": uri} for number, uri in enumerate(URIS[3:], 1)]}


def _csv(rows):
    text = io.StringIO()
    writer = csv.DictWriter(text, ["uri", "file_name"])
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode("utf-8", "surrogatepass")


def _jsonl(rows):
    return "\n".join(json.dumps(row) for row in rows).encode()


def _parquet(rows):
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue()


def listed(name: str, data: bytes) -> bytes | None:
    """The manifest made of an image list, or None where it was refused cleanly."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        images = tried(lambda: list_images(str(path), None, Storage()), InputError)
        if images is None:
            return None
        made = manifest_writer.manifest_bytes(images, 2)
    assert sum(manifest_file.unit_sizes(made)) == len(images)
    assert set(manifest_file.file_names(made)) == set(images["image_id"].to_pylist())
    return made


TABLES = {"list.csv": _csv(ROWS), "list.jsonl": _jsonl(ROWS), "list.parquet": _parquet(ROWS)}
TABLES["list.json"] = json.dumps(COCO).encode()
PIECES = [
    b"\0", b"\xff", b'"', b",", b"\n", b"\r", b"{", b"[" * 3000, b"9" * 5000, b"..", b"../" * 3,
    b"://", b"null", b"NaN", b"\xed\xa0\x80", b'"\\ud800"', b"\\u0000", b"uri", b"a" * 200_000,
]  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_the_examples_are_valid(name):
    assert listed(name, TABLES[name]) is not None


@fuzz(250)
@given(
    st.sampled_from(sorted(TABLES)).flatmap(
        lambda n: st.tuples(st.just(n), damaged(TABLES[n], PIECES))
    )
)
def test_damaged_lists(name_and_data):
    listed(*name_and_data)


@fuzz(150)
@given(changed(ROWS))
def test_rows_of_json(rows):
    listed("list.jsonl", _jsonl(rows if isinstance(rows, list) else [rows]))


@fuzz(150)
@given(changed(COCO))
def test_coco_lists(coco):
    listed("list.json", json.dumps(coco).encode())


COLUMNS = st.sampled_from(
    [
        pa.array(URIS),
        pa.array([*URIS[:4], None]),
        pa.array([URIS[0]] * 5),
        pa.array(range(5)),
        pa.array([b"\xff"] * 5),
        pa.array([None] * 5),
        pa.array([[1]] * 5),
        pa.array(["a\0b", "..", "", " ", "/"]),
        pa.array(URIS).dictionary_encode(),
        pa.array(URIS, pa.large_string()),
        pa.Array.from_buffers(
            pa.string(),
            5,
            [None, pa.array(range(6), pa.int32()).buffers()[1], pa.py_buffer(b"\xff" * 5)],
        ),
    ]
)


@fuzz(80)
@given(st.dictionaries(st.sampled_from(["uri", "file_name", "URI", "x"]), COLUMNS))
def test_columns_of_parquet(columns):
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    listed("list.parquet", sink.getvalue())


ENTRIES = [ImageEntry(number, f"{number}.jpg", f"/x/{number}.jpg") for number in range(1, 6)]
MANIFEST = manifest_writer.manifest_bytes(manifest_table(ENTRIES), 2)
SHARD = table_to_bytes(labels_to_table([make_labels(1), make_labels(2, ())]), {"labels_hash": "h"})


@fuzz(120)
@given(damaged(MANIFEST))
def test_damaged_manifests(data):
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / MANIFEST_FILE).write_bytes(data)

        def use():
            read = manifest_file.read_manifest(folder, Storage())
            manifest_file.file_names(read)
            digest = manifest_file.manifest_digest(read)
            for unit, size in enumerate(manifest_file.unit_sizes(read)):
                assert len(manifest_file.read_unit(folder, unit, digest, Storage())) == size

        tried(use, InputError)


@fuzz(150)
@given(damaged(SHARD))
def test_damaged_shards(data):
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "labels").mkdir()
        (Path(folder) / "labels" / "shard-000000.parquet").write_bytes(data)
        tried(lambda: list(iter_labels(read_shard(folder, 0, Storage()))), InputError)


def _bank():
    import torch

    means = [[(torch.ones(4), 1.0)], [(torch.ones(4), 2.0)]]
    return MemoryBank.from_means(
        CLASSES, means, encoder={"name": "e"}, reference_digest="d"
    ).to_bytes()


BANK = _bank()


@fuzz(120)
@given(damaged(BANK, [b"NaN", b"{", b'"', b"[", b"null", b"\\ud800", b"9" * 20]))
def test_damaged_banks(data):
    tried(lambda: MemoryBank.from_bytes(data, "bank"), InputError)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return Run(tmp_path_factory.mktemp("fuzz")).merge()


def _used(run, name, data):
    """Do with a run what reads its own files, with one of them changed."""
    files = [path for path in run.output.rglob("*") if path.is_file()]
    before = {path: path.read_bytes() for path in files}
    (run.output / name).write_bytes(data)
    try:
        tried(lambda: verify(run.config, Findings()), NttRayError)
        if name == "run.json":
            tried(lambda: merge(run.config, partial=True), NttRayError)
    finally:
        for path, content in before.items():
            path.write_bytes(content)


RUN_FILES = ["run.json", "merge.json", "annotations.json", "results.json"]


@fuzz(120)
@given(name=st.sampled_from(RUN_FILES), data=st.data())
def test_changed_files_of_a_run(run, name, data):
    tree = json.loads((run.output / name).read_bytes())
    _used(run, name, json.dumps(data.draw(changed(tree))).encode())


ALL_FILES = [*RUN_FILES, "manifest.parquet", "bank.safetensors", "labels/shard-000001.parquet"]


@fuzz(150)
@given(name=st.sampled_from(ALL_FILES), data=st.data())
def test_damaged_files_of_a_run(run, name, data):
    before = (run.output / name).read_bytes()
    changed_bytes = data.draw(damaged(before, PIECES[:-1]))
    _used(run, name, changed_bytes)
