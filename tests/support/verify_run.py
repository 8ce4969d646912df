"""A small whole run on disk for the tests of `verify`, written without models or Ray."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa

from ntt_ray.config import Config, build_config
from ntt_ray.merge.job import merge
from ntt_ray.records import ClassLabel, ImageEntry, ImageLabels
from ntt_ray.run import manifest as manifest_file
from ntt_ray.run import manifest_writer
from ntt_ray.run.layout import BANK_FILE, MANIFEST_FILE, shard_uri
from ntt_ray.run.record import Identity, make_record, write_record
from ntt_ray.run.shard import labels_to_table, table_to_bytes
from ntt_ray.storage import Storage
from ntt_ray.verify.problems import Findings, Problem
from ntt_ray.verify.verify import Verdict, verify
from tests.support.run_files import make_labels, manifest_table

UNIT = 3
CLASSES = (ClassLabel(1, "nut"), ClassLabel(2, "bölt"))
BANK = b"stands for a memory bank: only its digest is looked at"
STORE = Storage()


class Run:
    """A run below a folder: 8 images in 3 units, one of them failed, one empty; merged."""

    def __init__(
        self,
        folder: Path,
        *,
        units: range | None = None,
        images: int = 8,
        per_unit: int = UNIT,
        bank: bytes = BANK,
        **merge_settings: Any,
    ) -> None:
        self.output = folder / "run"
        self.config = self.configured(**merge_settings)
        numbers = range(1, images + 1)
        labels = [make_labels(number, (0.75, 0.5, 0.25)[: number % 4]) for number in numbers]
        labels = [relabelled(item) for item in labels]
        labels[4] = ImageLabels.failed(labels[4].entry, "not an image")
        self.units = [labels[i : i + per_unit] for i in range(0, len(labels), per_unit)]
        entries = [ImageEntry(i.entry.image_id, i.entry.file_name, "/x") for i in labels]
        manifest = manifest_writer.manifest_bytes(manifest_table(entries), per_unit)
        self.identity = identity(manifest, bank, per_unit)
        self.publish(MANIFEST_FILE, manifest)
        self.publish(BANK_FILE, bank)
        record = make_record(
            identity=self.identity,
            config=self.config.resolved(),
            classes=CLASSES,
            units=len(self.units),
            images=len(labels),
        )
        write_record(str(self.output), record, STORE)
        for unit in range(len(self.units)) if units is None else units:
            self.write_shard(unit)

    def configured(self, **merge_settings: Any) -> Config:
        data = {"images": "/data", "output": str(self.output), "bank": "/data/bank"}
        usual = {"min_score": 0.4, "profiles": ["coco", "coco-results"]}
        return build_config({**data, "merge": {**usual, **merge_settings}})

    def copied(self, folder: Path) -> Run:
        """The same run with files of its own, below another folder."""
        other = copy.copy(self)
        other.output = folder / "run"
        shutil.copytree(self.output, other.output)
        other.config = self.config.model_copy(update={"output": str(other.output)})
        return other

    def files(self) -> dict[str, bytes]:
        """Every file of the output, by its name."""
        paths = [path for path in self.output.rglob("*") if path.is_file()]
        return {path.relative_to(self.output).as_posix(): path.read_bytes() for path in paths}

    def publish(self, name: str, data: bytes) -> None:
        STORE.publish_bytes(str(self.output / name), data)

    def write_shard(
        self, unit: int, rows: list[dict[str, Any]] | None = None, **provenance: str
    ) -> None:
        """A shard of its labels, or of other rows."""
        table = labels_to_table(self.units[unit])
        if rows is not None:
            table = pa.Table.from_pylist(rows, schema=table.schema)
        data = table_to_bytes(table, {**self.identity.provenance(), **provenance})
        STORE.publish_bytes(shard_uri(str(self.output), unit), data)

    def rows(self, unit: int) -> list[dict[str, Any]]:
        """The rows of a unit as plain data, to be changed and written again."""
        rows: list[dict[str, Any]] = labels_to_table(self.units[unit]).to_pylist()
        return rows

    def merge(self, **options: Any) -> Run:
        merge(self.config, **options)
        return self

    def edit(self, name: str, old: str, new: str, count: int = 1) -> None:
        """Change the text of a file."""
        path = self.output / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, count))

    def edit_json(self, name: str, change: Any) -> None:
        """Change a JSON file by a function that edits the data in place."""
        path = self.output / name
        data = json.loads(path.read_text())
        change(data)
        path.write_text(json.dumps(data))

    def verify(self, **merge_settings: Any) -> Verdict:
        config = self.configured(**merge_settings) if merge_settings else self.config
        return verify(config, Findings())

    def problems(self, **merge_settings: Any) -> list[Problem]:
        return self.verify(**merge_settings).findings.kept


def relabelled(labels: ImageLabels) -> ImageLabels:
    """With classes of the run only."""
    from dataclasses import replace

    found = tuple(replace(d, category_id=min(d.category_id, 2)) for d in labels.detections)
    return replace(labels, detections=found)


def identity(manifest: bytes, bank: bytes, per_unit: int) -> Identity:
    return Identity.model_validate(
        {
            "images": "/data",
            "manifest": manifest_file.manifest_digest(manifest),
            "bank": hashlib.sha256(bank).hexdigest(),
            "models": {
                "encoder": {"name": "e", "image_size": 14, "checkpoint": "e" * 64},
                "proposer": {"name": "p", "image_size": 64, "checkpoint": "f" * 64},
                "precision": "fp32",
            },
            "method": {"nms_iou": 0.5},
            "job": {"images_per_unit": per_unit},
        }
    )
