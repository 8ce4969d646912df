"""What the shard of a labelled unit says of its GPU; the rest is tested with the whole job."""

from __future__ import annotations

import pyarrow as pa
import pytest

from ntt_ray.config import ModelsConfig
from ntt_ray.models.spec import ModelSpec
from ntt_ray.records import ImageEntry, ImageLabels
from ntt_ray.run.job import LABELLED, LabelJob
from ntt_ray.run.shard import accelerators_of, labels_to_row, read_shard
from ntt_ray.run.write import write_units
from ntt_ray.settings import DecodeSettings, MethodSettings
from ntt_ray.storage import Storage


def _written(output: str, accelerator: str | None, image_ids: list[int], again: bool) -> pa.Table:
    job = LabelJob(
        output=output,
        store=Storage(),
        manifest_digest="",
        models=ModelSpec(ModelsConfig()),
        method=MethodSettings(),
        decode=DecodeSettings(),
        image_timeout_s=10,
        patience_s=0,
        hang_s=300,
        decoders=1,
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
