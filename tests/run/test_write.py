"""What the shard of a labelled unit says of its GPU, and carries of the manifest.

The rest is tested with the whole job.
"""

from __future__ import annotations

import pyarrow as pa
import pytest

from ntt_ray.config import ModelsConfig
from ntt_ray.models.spec import ModelSpec
from ntt_ray.records import ImageEntry, ImageLabels
from ntt_ray.run.job import LABELLED, LabelJob
from ntt_ray.run.layout import MANIFEST_FILE
from ntt_ray.run.manifest import manifest_digest
from ntt_ray.run.manifest_writer import manifest_bytes
from ntt_ray.run.shard import accelerators_of, kept_columns, labels_to_row, read_shard
from ntt_ray.run.write import write_units
from ntt_ray.settings import DecodeSettings, MethodSettings
from ntt_ray.sources.schema import packed_schema
from ntt_ray.storage import Storage


def _written(
    output: str,
    accelerator: str | None,
    image_ids: list[int],
    again: bool,
    manifest: bytes | None = None,
) -> pa.Table:
    job = LabelJob(
        output=output,
        store=Storage(),
        manifest_digest="" if manifest is None else manifest_digest(manifest),
        carries=manifest is not None,
        models=ModelSpec(ModelsConfig()),
        method=MethodSettings(),
        decode=DecodeSettings(),
        image_timeout_s=10,
        patience_s=0,
        hang_s=300,
        decoders=1,
        unit_bytes=1 << 20,
        run_token="run",
        provenance={"labels_hash": "0"},
    )
    rows = [
        labels_to_row(ImageLabels.failed(ImageEntry(i, f"{i}.png", ""), "not there", "access"))
        for i in image_ids
    ]
    unit = {"shard_id": 0, "again": again, "accelerator": accelerator, "rows": rows}
    return write_units(pa.Table.from_pylist([unit], schema=LABELLED), job)


@pytest.mark.parametrize(
    ("first", "second", "named"),
    [
        (None, None, set()),
        ("NVIDIA L4", "NVIDIA L4", {"NVIDIA L4"}),
        ("NVIDIA L4", "NVIDIA H100", {"NVIDIA H100", "NVIDIA L4"}),
        (None, "NVIDIA L4", {"NVIDIA L4"}),
    ],
)
def test_a_shard_names_the_gpus_of_all_its_rows(tmp_path, first, second, named):
    output = str(tmp_path)
    _written(output, first, [1, 2], again=False)
    assert accelerators_of(read_shard(output, 0, Storage()).schema) == ({first} - {None})
    for _ in range(2):
        done = _written(output, second, [2], again=True)
        assert done["accelerator"].to_pylist() == [second]
        assert accelerators_of(read_shard(output, 0, Storage()).schema) == named


def test_a_shard_carries_the_columns_of_packed_images_also_when_some_are_done_again(tmp_path):
    rows = [
        {"image_id": n, "file_name": f"{n}.png", "uri": "/x", "key": f"k{n}", "source": "a.tar"}
        | {"caption": None if n == 1 else f"of {n}"}
        for n in (1, 2, 3)
    ]
    schema = packed_schema((pa.field("caption", pa.string()),))
    manifest = manifest_bytes(pa.Table.from_pylist(rows, schema=schema), 3)
    Storage().publish_bytes(str(tmp_path / MANIFEST_FILE), manifest)
    _written(str(tmp_path), None, [1, 2, 3], again=False, manifest=manifest)
    first = (tmp_path / "labels" / "shard-000000.parquet").read_bytes()
    _written(str(tmp_path), None, [2], again=True, manifest=manifest)
    assert (tmp_path / "labels" / "shard-000000.parquet").read_bytes() == first
    table = read_shard(str(tmp_path), 0, Storage())
    wanted = [{name: row[name] for name in ("key", "source", "caption")} for row in rows]
    assert table.select(["key", "source", "caption"]).to_pylist() == wanted
    assert kept_columns(table.schema) == ["caption"]
