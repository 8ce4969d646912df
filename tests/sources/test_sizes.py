"""Sizes of images, as far as what lists them knows them."""

import io
import json
import os
import tarfile
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ntt_ray.sources.image_list import image_pieces
from ntt_ray.storage import Storage

DATA = {"a.jpg": b"x" * 10, "b/c.png": b"yz" * 500, "d.jpg": b""}


def _sizes(images, store=None, **options):
    found = {}
    for piece in image_pieces(str(images), None, store or Storage(), **options):
        names = piece.images["file_name"].to_pylist()
        found |= zip(names, piece.sizes.to_pylist(), strict=True)
    return found


WANTED = {name: len(data) for name, data in DATA.items()}


def test_of_a_folder(tmp_path):
    for name, data in DATA.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    assert _sizes(tmp_path) == WANTED


def test_of_a_bucket(s3):
    store, prefix = s3.storage(), s3.prefix()
    for name, data in DATA.items():
        store.publish_bytes(f"{prefix}/{name}", data)
    assert _sizes(prefix, store) == WANTED


def test_of_an_archive_unpacked(tmp_path):
    with (
        tarfile.open(tmp_path / "a.tar", "w") as tar,
        zipfile.ZipFile(tmp_path / "a.zip", "w") as z,
    ):
        for name, data in DATA.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
            z.writestr(name, data, zipfile.ZIP_DEFLATED)
    assert _sizes(tmp_path / "a.tar") == WANTED
    assert _sizes(tmp_path / "a.zip") == WANTED


def test_of_cells_the_mean_of_their_row_group(tmp_path):
    table = pa.table({"image": [os.urandom(1000), os.urandom(3000), os.urandom(9000)]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=2, write_statistics=False)
    first, second, third = _sizes(tmp_path / "a.parquet").values()
    assert first == second
    assert 2000 <= first < 3000 < 9000 <= third


ROWS = [7, None, -1, "12", "many", 2**60, 3.5, True]
TEXT_SIZES = [7, None, None, 12, None, None, None, None]


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_of_a_text_table_where_they_are_whole_numbers(tmp_path, suffix):
    rows = [{"uri": f"{n}.jpg", "size": size} for n, size in enumerate(ROWS)]
    lines = [json.dumps(row) for row in rows]
    if suffix == "csv":
        lines = ["uri,size", *(f"{row['uri']},{row['size']}" for row in rows)]
    path = tmp_path / f"t.{suffix}"
    path.write_text("\n".join(lines))
    assert list(_sizes(path).values()) == TEXT_SIZES


@pytest.mark.parametrize(
    ("sizes", "wanted"),
    [
        (pa.array([5, None, -3, 2**50], pa.int64()), [5, None, None, None]),
        (pa.array([1, 2, 3, 4], pa.uint8()), [1, 2, 3, 4]),
        (pa.array([1.0, 2.0, 3.0, 4.0]), [None] * 4),
        (pa.array(["S", "M", "L", "XL"]), [None] * 4),
    ],
    ids=["numbers", "small numbers", "fractions", "words"],
)
def test_of_a_parquet_table(tmp_path, sizes, wanted):
    pq.write_table(pa.table({"uri": list("abcd"), "size": sizes}), tmp_path / "t.parquet")
    assert list(_sizes(tmp_path / "t.parquet").values()) == wanted


def test_of_a_coco_file_nothing_is_known(tmp_path):
    images = [{"id": 3, "file_name": "a.jpg"}, {"id": 1, "file_name": "b.jpg"}]
    (tmp_path / "t.json").write_text(json.dumps({"images": images}))
    assert _sizes(tmp_path / "t.json") == {"b.jpg": None, "a.jpg": None}
