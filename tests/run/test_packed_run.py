"""The whole job on a Parquet file with images in it: what its shards and tables carry."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ntt_ray.config import build_config
from ntt_ray.errors import OutputMismatchError
from ntt_ray.merge import job as merge_job
from ntt_ray.run.label import label
from ntt_ray.verify.problems import Findings
from ntt_ray.verify.verify import verify
from tests.support.golden import GOLDEN

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def _run(data, *overrides) -> int:
    """Label and merge; gives how many units were worked on."""
    config, units = build_config(data, overrides), []
    label(config, lambda unit, done, total: units.append(unit))
    merge_job.merge(config)
    return len(units)


def test_images_in_parquet_give_the_labels_of_loose_ones_and_carry_their_columns(
    golden_config, tmp_path
):
    pictures = sorted((GOLDEN / "targets").glob("*.png"))
    rows = [{"bytes": path.read_bytes(), "path": path.name} for path in pictures]
    columns = {
        "image": pa.array([*rows, {"bytes": None, "path": "zz.png"}, None], STRUCT),
        "key": [*(path.stem for path in pictures), None, "none"],
        "caption": pa.array([*range(len(pictures)), None, -1], pa.int8()),
    }
    packed = tmp_path / "train-00000.parquet"
    pq.write_table(pa.table(columns), packed, row_group_size=3)
    loose, output = Path(golden_config["output"]), tmp_path / "packed"
    _run(golden_config, f"images={pictures[0].parent}")
    there = [f"images={packed}", f"output={output}", "columns.keep=[caption]"]
    profiles = "merge.profiles=[coco, coco-results, parquet]"
    assert _run(golden_config, *there, profiles) == 4  # one unit is tried again

    # the labels of the loose images, with a row for each that has no bytes
    wanted = json.loads((loose / "results.json").read_text())
    assert json.loads((output / "results.json").read_text()) == wanted
    table = pq.read_table(sorted((output / "labels").glob("*.parquet")))
    names = [f"train-00000.parquet/{n:06}" for n in range(6)]
    names = [name + ".png" * (n < 5) for n, name in enumerate(names)]
    assert table["file_name"].to_pylist() == names  # one has no path
    assert table["key"].to_pylist() == columns["key"]
    assert set(table["source"].to_pylist()) == {"train-00000.parquet"}
    assert table["caption"].to_pylist() == columns["caption"].to_pylist()
    assert table["caption"].type == pa.int8()
    failed = table.select(["error", "failure"]).to_pylist()[4:]
    assert failed == [
        {"error": "there is no such file", "failure": "access"},
        {"error": "column image is null here", "failure": "content"},
    ]
    instances = pq.read_table(output / "instances")
    assert instances["caption"].to_pylist() == [i - 1 for i in instances["image_id"].to_pylist()]

    # a shard that is lost comes again with the same bytes, and the file that is there by now
    first = sorted((output / "labels").glob("*.parquet"))[0]
    before = first.read_bytes()
    first.unlink()
    with pytest.raises(OutputMismatchError, match=r"columns: .*caption"):
        _run(golden_config, *there[:2])
    (tmp_path / "zz.png").write_bytes(pictures[0].read_bytes())
    assert _run(golden_config, *there) == 2
    assert first.read_bytes() == before
    verdict = verify(build_config(golden_config, there), Findings())
    assert (verdict.findings.kept, verdict.units_done) == ([], 3)
