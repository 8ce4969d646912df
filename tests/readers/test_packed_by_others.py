"""Packed images that the real libraries wrote are listed and read: webdataset and datasets."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ntt_ray.errors import InputError
from ntt_ray.records import ImageEntry
from ntt_ray.settings import TableColumns
from ntt_ray.sources.image_list import list_images
from ntt_ray.sources.schema import entries_of
from ntt_ray.sources.stretches import Stretches
from ntt_ray.storage import Storage

COUNT = 7
STORE = Storage()


def picture(number: int) -> Image.Image:
    """Each of its own size."""
    return Image.fromarray(np.full((20 + number, 30, 3), 20 * number, np.uint8))


def encoded(number: int, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    picture(number).save(stream, kind)
    return stream.getvalue()


def listed(images: object, **columns: object) -> tuple[list[ImageEntry], list[bytes]]:
    """The entries, and what is read of each."""
    entries = entries_of(list_images(str(images), None, STORE, columns=TableColumns(**columns)))
    read = Stretches([entry.uri for entry in entries], STORE.read_bytes, STORE.read_cells)
    return entries, [read(entry.uri) for entry in entries]


@pytest.mark.parametrize("compress", [False, True], ids=["tar", "tar.gz"])
def test_shards_of_webdataset(tmp_path: Path, compress: bool) -> None:
    import webdataset

    ending = "tar.gz" if compress else "tar"
    pattern = str(tmp_path / f"s-%03d.{ending}")
    with webdataset.ShardWriter(pattern, maxcount=3, verbose=0, compress=compress) as writer:
        for number in range(COUNT):
            sample = {"png": encoded(number), "json": {"number": number}, "txt": "a nut"}
            writer.write({"__key__": f"day/{number:04d}", **sample})
    entries, data = listed(tmp_path)
    assert data == [encoded(number) for number in range(COUNT)]
    assert [entry.source for entry in entries] == [f"s-{n // 3:03d}.{ending}" for n in range(COUNT)]
    read = [
        sample["__key__"]
        for path in sorted(tmp_path.iterdir())
        for sample in webdataset.WebDataset(str(path), shardshuffle=False)
    ]
    assert [entry.key for entry in entries] == read


def test_several_images_of_a_sample(tmp_path: Path) -> None:
    import webdataset

    with webdataset.TarWriter(str(tmp_path / "a.tar"), encoder=False) as writer:
        writer.write({"__key__": "a", "left.png": encoded(1), "right.jpg": encoded(2, "JPEG")})
    entries, data = listed(tmp_path / "a.tar")
    assert [(entry.file_name, entry.key) for entry in entries] == [
        ("a.left.png", "a"),
        ("a.right.jpg", "a"),
    ]
    assert data == [encoded(1), encoded(2, "JPEG")]


def _dataset():
    import datasets

    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    rows = {"image": [picture(n) for n in range(COUNT)], "label": list(range(COUNT))}
    return datasets.Dataset.from_dict(rows, features=features)


def test_parquet_of_datasets(tmp_path: Path) -> None:
    found = _dataset()
    found.to_parquet(str(tmp_path / "a.parquet"), batch_size=3)
    entries, data = listed(tmp_path / "a.parquet", keep=("label",))
    assert {entry.source for entry in entries} == {"a.parquet"}
    sizes = [Image.open(io.BytesIO(item)).size for item in data]
    assert sizes == [picture(n).size for n in range(COUNT)]


def test_a_folder_of_parquet_files_as_datasets_are_pushed(tmp_path: Path) -> None:
    found = _dataset()
    (tmp_path / "data").mkdir()
    for part in range(2):
        shard = found.shard(num_shards=2, index=part, contiguous=True)
        shard.to_parquet(str(tmp_path / "data" / f"train-{part:05d}-of-00002.parquet"))
    (tmp_path / "README.md").write_text("---\nconfigs: []\n---\n")
    entries, data = listed(tmp_path)
    sizes = [Image.open(io.BytesIO(item)).size for item in data]
    assert sizes == [picture(n).size for n in range(COUNT)]
    assert entries[-1].source == "data/train-00001-of-00002.parquet"


def test_an_image_folder_that_datasets_reads_too(tmp_path: Path) -> None:
    import datasets

    (tmp_path / "train").mkdir()
    lines = []
    for number in range(COUNT):
        (tmp_path / "train" / f"{number}.png").write_bytes(encoded(number))
        lines.append(json.dumps({"file_name": f"{number}.png", "caption": f"nut {number}"}))
    (tmp_path / "train" / "metadata.jsonl").write_text("\n".join(lines))
    own = datasets.load_dataset(str(tmp_path), split="train", cache_dir=str(tmp_path / "cache"))
    entries, data = listed(tmp_path / "train", keep=("caption",))
    assert data == [encoded(number) for number in range(COUNT)]
    assert [row["image"].size for row in own] == [picture(n).size for n in range(COUNT)]
    assert [entry.file_name for entry in entries] == [f"{n}.png" for n in range(COUNT)]


def test_a_data_set_that_was_saved_to_disk_is_refused_with_the_way(tmp_path: Path) -> None:
    _dataset().save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(InputError, match="to_parquet"):
        listed(tmp_path / "saved")
