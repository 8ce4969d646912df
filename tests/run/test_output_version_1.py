"""An output of the first version, kept as it was written: read, verified, merged and resumed."""

import fcntl
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ntt_ray.config import Config, load_config
from ntt_ray.merge.job import merge
from ntt_ray.report.job import report_run
from ntt_ray.run.label import label
from ntt_ray.run.prepare import make_plan
from ntt_ray.run.record import recorded_run
from ntt_ray.run.shard import ADDED
from ntt_ray.run.status import read_status
from ntt_ray.storage import Storage
from ntt_ray.verify.problems import Findings
from ntt_ray.verify.verify import verify
from tests.support.golden import GOLDEN
from tests.support.output_files import unknown_files

KEPT = Path(__file__).parent / "output_version_1"
PLACE = Path("/tmp/ntt-ray-output-1")  # paths are a part of what a run is: it lay here


@pytest.fixture
def config() -> Iterator[Config]:
    """The config of the run, with its inputs and its output where they were."""
    with PLACE.with_suffix(".lock").open("w") as lock:  # for tests that run side by side
        fcntl.flock(lock, fcntl.LOCK_EX)
        shutil.rmtree(PLACE, ignore_errors=True)
        shutil.copytree(KEPT, PLACE)
        shutil.copytree(GOLDEN, PLACE / "in", ignore=shutil.ignore_patterns("golden"))
        yield load_config(str(PLACE / "config.yaml"))
        shutil.rmtree(PLACE)


def _files() -> dict[str, bytes]:
    root = PLACE / "run"
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_the_layout_names_all_its_files(config):
    assert not unknown_files(_files())


@pytest.mark.slow
def test_it_is_read(config):
    status = read_status(config.output, Storage())
    assert (status.images, status.units, status.units_done, status.failed) == (4, 2, 2, 0)
    assert status.images_done == 4
    plan = make_plan(config)
    assert (plan.images, plan.units, plan.units_done) == (4, 2, 2)
    names = [label.name for label in plan.classes]
    assert names == ["plate", "junk", "disc", "cone"]
    recorded = recorded_run(config.output, Storage())
    assert recorded.identity.digest() == recorded.labels_hash
    before = json.loads((PLACE / "run" / "report.json").read_text())
    after = report_run(config)
    assert {k: after[k] for k in ("images", "detections", "models", "labels_hash")} == {
        k: before[k] for k in ("images", "detections", "models", "labels_hash")
    }


@pytest.mark.slow
def test_it_is_verified(config):
    found = verify(config, Findings())
    assert (found.images, found.rows, found.detections) == (4, 4, 120)
    # its merge had no digests to compare with; with those of another merge nothing is wrong
    assert [problem.kind for problem in found.findings.kept] == ["merged files not checked"]
    merge(config)
    found = verify(config, Findings())
    assert found.whole, found.findings.kept
    (PLACE / "run" / "labels" / "shard-000001.parquet").unlink()
    assert not verify(config, Findings()).whole


@pytest.mark.slow
def test_it_is_merged_to_the_same_bytes(config):
    before = _files()
    merge(config)
    after = _files()
    assert after.keys() - before.keys() == {"yolo/train.txt", "yolo/val.txt"}
    assert before.keys() <= after.keys()
    changed = {name for name in before if after[name] != before[name]}
    # the merge record may say more today; YOLO's names lists of images, in the place of a folder
    assert changed <= {"merge.json", "yolo/data.yaml"}


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_it_is_resumed(config):
    before = _files()
    shard = PLACE / "run" / "labels" / "shard-000001.parquet"
    old = pq.read_table(shard)
    shard.unlink()
    units = []
    label(config, lambda unit, *_: units.append(unit.shard_id))
    assert units == [1]
    whole = pq.read_table(shard)
    assert set(whole.column_names) - set(old.column_names) == ADDED
    new = whole.select(old.column_names)
    assert new.schema.equals(old.schema)
    assert whole.schema.metadata.items() >= old.schema.metadata.items()  # more keys today
    if new.equals(old):
        others = {name for name, data in _files().items() if before.get(name) != data}
        assert others == {"labels/shard-000001.parquet"}
    else:  # another processor rounds otherwise
        for found, wanted in zip(new.to_pylist(), old.to_pylist(), strict=True):
            scores = [[item["score"] for item in row["annotations"]] for row in (found, wanted)]
            assert scores[0] == pytest.approx(scores[1], abs=1e-3)
