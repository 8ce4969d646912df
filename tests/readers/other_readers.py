"""Readers of Label Studio tasks, of tables, and of labels beside packed images."""

from __future__ import annotations

import io
import json
from pathlib import Path

from PIL import Image
from pycocotools import mask as coco_mask

from tests.readers.labelled import Found, Instance, Run


def label_studio(run: Run, name: str) -> Found:
    from label_studio_sdk.converter.brush import decode_rle
    from label_studio_sdk.label_interface import LabelInterface

    interface = LabelInterface((run.folder / "labelstudio.xml").read_text(encoding="utf-8"))
    found = {}
    for task in json.loads((run.folder / name).read_text()):
        (prediction,) = task["predictions"]
        assert interface.validate_prediction(prediction, return_errors=True) == []
        found[task["data"]["file_name"]] = [
            Instance(
                region["value"]["brushlabels"][0],
                decode_rle(region["value"]["rle"]).reshape(
                    region["original_height"], region["original_width"], 4
                )[..., 3]
                > 0,
                region["score"],
            )
            for region in prediction["result"]
        ]
    return found


def duckdb_table(run: Run, name: str) -> Found:
    import duckdb

    files = str(run.folder / name / "*.parquet")
    rows = duckdb.sql(
        "select file_name, category, score, height, width, counts "
        f"from read_parquet('{files}') order by instance_id"
    ).fetchall()
    return _rows_found(run, rows)


def hugging_face_table(run: Run, name: str) -> Found:
    import datasets

    files = str(run.folder / name / "*.parquet")
    cache = str(run.folder / "datasets")
    table = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=cache)
    columns = ("file_name", "category", "score", "height", "width", "counts")
    return _rows_found(run, [tuple(row[column] for column in columns) for row in table])


def hugging_face_dataset(run: Run, name: str) -> Found:
    """The folder by itself, with its features; keys are those of the images in their tars."""
    import datasets

    cache = str(run.folder / "datasets")
    table = datasets.load_dataset(str(run.folder / name), split="train", cache_dir=cache)
    categories = table.features["objects"]["category"].feature
    assert isinstance(categories, datasets.ClassLabel)
    found, keys = {}, []
    for row in table:
        keys.append((row["source"], row["key"]))
        if row["status"] == "failed":
            assert row["error"]
            continue
        objects = row["objects"]
        size = [row["height"], row["width"]]
        found[row["file_name"]] = [
            Instance(categories.int2str(category), _decoded(size, counts), score)
            for category, counts, score in zip(
                objects["category"], objects["counts"], objects["score"], strict=True
            )
        ]
    packed = [(tar, sample["__key__"]) for tar in run.packed for sample in _samples(run, tar)]
    assert keys == packed
    return found


def webdataset_beside_images(run: Run, name: str) -> Found:
    """Labels and images side by side, by one key each."""
    found = {}
    for tar in run.packed:
        labels = _samples(run, tar, run.folder / name)
        for image, label in zip(_samples(run, tar), labels, strict=True):
            assert image["__key__"] == label["__key__"]
            content = json.loads(label["json"])
            if content["status"] == "failed":
                assert content["error"]
                continue
            (ending,) = (key for key in image if not key.startswith("_"))
            with Image.open(io.BytesIO(image[ending])) as picture:
                assert [content["width"], content["height"]] == list(picture.size)
            names = {c["id"]: c["name"] for c in content["categories"]}
            found[content["file_name"]] = [
                Instance(
                    names[a["category_id"]],
                    coco_mask.decode(a["segmentation"]).astype(bool),
                    a["score"],
                )
                for a in content["annotations"]
            ]
    return found


def _samples(run: Run, tar: str, folder: Path | None = None) -> list[dict]:
    import webdataset

    path = (folder or run.images) / tar
    return list(webdataset.WebDataset(str(path), shardshuffle=False, empty_check=False))


def _decoded(size, counts):
    return coco_mask.decode({"size": size, "counts": counts.encode()}).astype(bool)


def _rows_found(run: Run, rows) -> Found:
    """What rows of the table say; an image without an instance has none."""
    found = {name: [] for name, instances in run.expected.items() if not instances}
    for file_name, category, score, height, width, counts in rows:
        instance = Instance(category, _decoded([height, width], counts), score)
        found.setdefault(file_name, []).append(instance)
    return found
