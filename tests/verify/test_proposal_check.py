import pytest

from ntt_ray.proposals.table import to_table
from ntt_ray.run.layout import RECORD_FILE, proposals_uri
from ntt_ray.run.proposal_shard import metadata_of, to_bytes, unit_metadata
from ntt_ray.run.record import Identity, read_record, write_record
from tests.support.kept_rows import CHANNELS, proposals_of
from tests.support.verify_run import STORE, Run


@pytest.fixture
def run(tmp_path) -> Run:
    """A run that keeps its proposals."""
    made = Run(tmp_path)
    plain = made.identity.plain() | {"proposals": {"keep": True, "max_iou": 0.95}}
    made.identity = Identity.model_validate(plain)
    record = read_record(str(made.output), STORE)
    digest = made.identity.digest()
    record = record.model_copy(update={"identity": made.identity, "labels_hash": digest})
    write_record(str(made.output), record, STORE)
    for unit, labels in enumerate(made.units):
        made.write_shard(unit)
        _keep(made, unit, [proposals_of(item) for item in labels])
    return made.merge()


def _keep(run, unit, rows, **said):
    table = to_table(rows, CHANNELS)
    metadata = {**metadata_of(run.identity), **unit_metadata(unit, table), **said}
    STORE.publish_bytes(proposals_uri(str(run.output), unit), to_bytes(table, metadata))


def _path(run, unit):
    return run.output / "proposals" / f"shard-{unit:06d}.parquet"


def _lose(run):
    _path(run, 1).unlink()


def _truncate(run):
    path = _path(run, 1)
    path.write_bytes(path.read_bytes()[:-20])


def _edit(run):
    path = _path(run, 1)
    data = bytearray(path.read_bytes())
    data[20] ^= 1  # of the first column
    path.write_bytes(bytes(data))


def _exchange(run):
    _path(run, 1).write_bytes(_path(run, 0).read_bytes())


def _shorten(run):
    _keep(run, 1, [proposals_of(item) for item in run.units[1][:-1]])


def _of_another_run(run):
    rows = [proposals_of(item) for item in run.units[1]]
    _keep(run, 1, rows, proposals_hash="0")


def _stray(run):
    _path(run, 9).write_bytes(b"x")


DAMAGES = {
    _lose: ("proposals missing", "labels and no proposals"),
    _truncate: ("proposals damaged", "damaged proposals"),
    _edit: ("proposals damaged", "."),
    _exchange: ("proposals damaged", "they are the proposals of unit 0"),
    _shorten: ("proposals damaged", "2 rows are not those of the unit"),
    _of_another_run: ("proposals damaged", "proposals of another run"),
    _stray: ("stray file", "no proposal shard"),
}


def test_a_whole_run_has_no_problem(run):
    assert run.problems() == []


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_wrong_with_proposals_is_said(run, damage):
    damage(run)
    kind, text = DAMAGES[damage]
    (problem,) = run.problems()
    assert problem.kind == kind
    assert text in problem.text


def test_a_run_that_matched_again_has_none_of_its_own(run):
    run.edit_json(RECORD_FILE, lambda record: record.update(rematched_from="/other"))
    assert {problem.kind for problem in run.problems()} >= {"stray file"}
    for unit in range(len(run.units)):
        _path(run, unit).unlink()
    assert "stray file" not in {problem.kind for problem in run.problems()}
