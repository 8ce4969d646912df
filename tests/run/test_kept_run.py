"""Runs that keep their proposals, and what is matched again of them, through Ray."""

from pathlib import Path

import pytest

from ntt_ray.config import build_config
from ntt_ray.run.label import label
from ntt_ray.run.proposal_shard import open_proposals
from ntt_ray.storage import Storage

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]
KEEP = {"proposals": {"keep": True}}


def labelled(data, *overrides):
    config = build_config(data, overrides)
    units = []
    label(config, lambda unit, done, total: units.append(unit))
    return units


def shards(output, folder="labels") -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((Path(output) / folder).iterdir())}


def test_a_run_keeps_its_proposals(golden_config):
    output = Path(golden_config["output"])
    data = {**golden_config, **KEEP}
    units = labelled(data)
    assert sum(unit.detections for unit in units) > 10
    names = ["shard-000000.parquet", "shard-000001.parquet"]
    kept, found = shards(output, "proposals"), shards(output)
    assert list(kept) == list(found) == names
    with open_proposals(str(output), 0, Storage()) as file:
        assert file.metadata.num_rows == 2

    # a lost shard of labels is made again, and its proposals, with the same bytes
    (output / "labels" / names[1]).unlink()
    (output / "proposals" / names[1]).unlink()
    assert [unit.shard_id for unit in labelled(data)] == [1]
    assert (shards(output, "proposals"), shards(output)) == (kept, found)
