"""Another merge of a run, written beside the first: where it may go, and that both stay whole."""

import json

import pytest

from ntt_ray.errors import InputError
from ntt_ray.merge.job import merge
from ntt_ray.verify.problems import Findings
from ntt_ray.verify.verify import verify
from tests.support.verify_run import STORE, Run

ALL = ("coco", "coco-results", "coco-polygon", "labelstudio", "parquet", "yolo-seg", "semantic-png")


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path, profiles=ALL).merge()


def _problems(config, to):
    return verify(config, Findings(), to=to).findings.kept


@pytest.mark.parametrize("where", ["run/merged/nuts", "elsewhere", "memory://another/nuts"])
def test_the_first_files_stay_and_both_are_whole(run, tmp_path, where):
    to = where if "://" in where else str(tmp_path / where)
    before = run.files()
    other = run.configured(classes=["nut"], profiles=["yolo-seg", "coco", "parquet"])
    merge(other, to=to)
    assert {name: data for name, data in run.files().items() if name in before} == before
    assert not run.problems()
    assert not _problems(other, to)
    found = json.loads(STORE.read_bytes(f"{to}/annotations.json"))
    assert [c["name"] for c in found["categories"]] == ["nut"]
    assert STORE.exists(f"{to}/yolo/data.yaml")


def test_merging_there_again_removes_what_that_merge_wrote(run, tmp_path):
    to = tmp_path / "run" / "mine"
    merge(run.config, to=str(to))
    before = run.files()
    other = run.configured(profiles=["coco"])
    merge(other, to=str(to))
    found = {path.name for path in to.rglob("*") if path.is_file()}
    assert found == {"annotations.json", "merge.json"}
    outside = {name: data for name, data in before.items() if not name.startswith("mine/")}
    assert {n: d for n, d in run.files().items() if not n.startswith("mine/")} == outside
    assert not _problems(other, str(to))


def test_damage_there_is_found_there_alone(run, tmp_path):
    to = tmp_path / "mine"
    merge(run.config, to=str(to))
    (to / "results.json").write_text("[]")
    assert not run.problems()
    assert [problem.where for problem in _problems(run.config, str(to))] == ["results.json"]


@pytest.mark.parametrize(
    ("to", "said"),
    [
        ("run", "the output itself"),
        ("run/", "the output itself"),
        ("run/sub/..", "the output itself"),
        ("run/labels", "labels in the output holds files of the run"),
        ("run/yolo/mine", "yolo in the output"),
        ("other", "is the output of a run"),
        ("theirs", r"holds annotations\.json, which no merge\.json"),
    ],
)
def test_what_is_refused(run, tmp_path, to, said):
    Run(tmp_path / "more").output.rename(tmp_path / "other")
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "annotations.json").write_text("mine")
    before = run.files()
    with pytest.raises(InputError, match=said):
        merge(run.config, to=str(tmp_path / to))
    assert run.files() == before
    assert (tmp_path / "theirs" / "annotations.json").read_text() == "mine"


def test_files_of_another_run_are_not_replaced(run, tmp_path):
    to = tmp_path / "mine"
    other = Run(tmp_path / "more", per_unit=2)
    merge(other.config, to=str(to))
    with pytest.raises(InputError, match="merged files of another run"):
        merge(run.config, to=str(to))
