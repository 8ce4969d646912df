"""Readers of Label Studio tasks, of the table of instances and of class maps."""

from __future__ import annotations

import json

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


def _rows_found(run: Run, rows) -> Found:
    """What rows of the table say; an image without an instance has none."""
    found = {name: [] for name, instances in run.expected.items() if not instances}
    for file_name, category, score, height, width, counts in rows:
        mask = coco_mask.decode({"size": [height, width], "counts": counts.encode()})
        found.setdefault(file_name, []).append(Instance(category, mask.astype(bool), score))
    return found
