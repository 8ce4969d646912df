"""How a run is: done, pace, failures, driver; and what the command says of it."""

import json
import os
import socket
import time

import pytest
from typer.testing import CliRunner

from ntt_ray.cli import app
from ntt_ray.errors import ConfigError, InputError, RunIncompleteError
from ntt_ray.records import ClassLabel, ImageEntry, ImageLabels
from ntt_ray.run import record, status
from ntt_ray.run.failures import Allowed
from ntt_ray.run.layout import LOCK_FILE, shard_uri
from ntt_ray.run.lock import RunLock
from ntt_ray.run.shard import labels_to_table, table_to_bytes
from ntt_ray.run.status import check_labelled, read_status
from ntt_ray.storage import Storage
from tests.support.verify_run import identity

IMAGES, PER_UNIT = 10, 4
UNITS = {0: 4, 1: 4, 2: 2}  # images of each
MISSING = "there is no such file"
STORE = Storage()


def _start(output: str, allowed: float = 0.01) -> None:
    recorded = record.make_record(
        identity=identity(b"no manifest: nobody reads it here", b"no bank", PER_UNIT),
        config={"job": {"max_failed_fraction": allowed}},
        classes=(ClassLabel(1, "cat"),),
        units=3,
        images=IMAGES,
    )
    record.write_record(output, recorded, STORE)


def _shard(
    output: str,
    unit: int,
    errors: dict[int, str] | None = None,
    failure: str = "content",
    rows: int = PER_UNIT,
) -> None:
    numbers = range(unit * PER_UNIT, min(IMAGES, (unit + 1) * PER_UNIT))[:rows]
    labels = []
    for number in numbers:
        entry = ImageEntry(number + 1, f"{number}.jpg", "")
        error = (errors or {}).get(number)
        row = ImageLabels.labelled(entry, (1, 1), ())
        if error:
            row = ImageLabels.failed(entry, error, failure)
        labels.append(row)
    data = table_to_bytes(labels_to_table(labels), {})
    STORE.publish_bytes(shard_uri(output, unit), data)


def _lock(output: str, *, age_s: float = 3.0, pid: int | None = None, **more) -> None:
    holder = {
        "token": "t",
        "host": socket.gethostname(),
        "pid": os.getpid() if pid is None else pid,
        "heartbeat": time.time() - age_s,
        **more,
    }
    STORE.publish_bytes(f"{output}/{LOCK_FILE}", json.dumps(holder).encode())


@pytest.fixture
def output(tmp_path):
    path = str(tmp_path / "run")
    _start(path)
    return path


def test_nothing_there(tmp_path):
    with pytest.raises(InputError, match="there is no run here yet; label first"):
        read_status(str(tmp_path), STORE)
    _lock(str(tmp_path))
    with pytest.raises(InputError, match="a driver is preparing one"):
        read_status(str(tmp_path), STORE)


def test_a_run_that_has_begun(output):
    found = read_status(output, STORE)
    assert (found.images, found.images_done, found.units, found.units_done) == (10, 0, 3, 0)
    assert (found.failed, found.driver, found.left_s) == (0, None, None)
    assert found.problem == "3 of 3 units are not done"


def test_a_run_at_work(output):
    _shard(output, 0)
    _shard(output, 2)
    _lock(output, progress={"images_done": 6, "images_per_s": 2.0})
    found = read_status(output, STORE)
    assert (found.units_done, found.images_done) == (2, 6)
    assert found.driver.alive
    assert found.driver.pid == os.getpid()
    assert 3.0 <= found.driver.heard_s < 60.0
    assert (found.images_per_s, found.left_s) == (2.0, 2.0)
    quick = read_status(output, STORE, footers=False)
    assert (quick.images_done, quick.failures) == (None, None)
    assert quick.left_s == pytest.approx(10 / 3 / 2.0)


def test_many_shards_are_listed_and_not_looked_into_unless_asked(output, monkeypatch):
    for unit in range(3):
        _shard(output, unit)
    monkeypatch.setattr(status, "FEW", 2)
    found = read_status(output, STORE)
    assert (found.units_done, found.images_done, found.failures) == (3, None, None)
    assert read_status(output, STORE, footers=True).images_done == 10
    assert "--full counts their images" in _said(output).stderr
    assert "10 of 10 images" in _said(output, "--full").stderr
    check_labelled(output, UNITS, Allowed(), STORE)  # the exit status of labelling never guesses
    _shard(output, 2, {9: MISSING, 10: MISSING})
    with pytest.raises(RunIncompleteError):
        check_labelled(output, UNITS, Allowed(), STORE)


DEAD = {
    "no heartbeat for long": {"age_s": 1000.0},
    "a process that is gone": {"pid": 2**22 + 1},
    "a damaged lock": {"heartbeat": "x"},
}


@pytest.mark.parametrize("case", DEAD)
def test_a_driver_that_died(output, case):
    _lock(output, **DEAD[case], progress={"images_per_s": 2.0})
    found = read_status(output, STORE)
    assert not found.driver.alive
    assert found.images_per_s is None


def test_failures_by_reason(output):
    _shard(output, 0, {1: MISSING, 2: "timeout: not read within 60 s"})
    _shard(output, 1, {4: MISSING})
    _shard(output, 2)
    found = read_status(output, STORE)
    assert {reason: failures.images for reason, failures in found.failures.items()} == {
        MISSING: 2,
        "timeout: not read within N s": 1,
    }
    assert found.failures[MISSING].examples == [
        "shard-000000.parquet: 1.jpg",
        "shard-000001.parquet: 4.jpg",
    ]
    assert found.problem.startswith("3 of 10 images failed, more than job.max_failed_fraction 0.01")
    check_labelled(output, UNITS, Allowed(failed=0.3), STORE)
    with pytest.raises(RunIncompleteError, match="3 of 10 images failed"):
        check_labelled(output, UNITS, Allowed(failed=0.2), STORE)


def test_images_to_be_tried_again_count_on_their_own(output):
    """`max_failed_fraction` is about what no image comes of; the rest may come yet."""
    _shard(output, 0, {1: MISSING, 2: MISSING}, failure="access")
    _shard(output, 1, {4: "ended its worker"}, failure="worker")
    _shard(output, 2)
    found = read_status(output, STORE)
    assert found.problem.startswith("3 of 10 images are to be tried again, more than job.max_unr")
    assert f"2 could not be read, 2 of them: {MISSING} (mend the access" in found.problem
    assert "1 ended their workers, 1 of them: ended its worker (the same command" in found.problem
    check_labelled(output, UNITS, Allowed(unreachable=0.3), STORE)


def test_rows_that_are_missing(output):
    """Never exit status 0 with fewer rows than the plan has images."""
    for unit in range(3):
        _shard(output, unit)
    _shard(output, 2, rows=1)
    assert read_status(output, STORE).problem.startswith("the shards have 9 rows for 10 images")
    with pytest.raises(RunIncompleteError, match="the shards have 9 rows for 10 images"):
        check_labelled(output, UNITS, Allowed(failed=1.0), STORE)


def test_labelling_a_part_answers_for_its_own_units(output):
    part = {0: 4, 2: 2}
    _shard(output, 0)
    with pytest.raises(RunIncompleteError, match="1 of 2 units are not done"):
        check_labelled(output, part, Allowed(), STORE)
    _shard(output, 2)
    check_labelled(output, part, Allowed(), STORE)
    _shard(output, 1, {4: MISSING})  # of another part
    check_labelled(output, part, Allowed(), STORE)
    with pytest.raises(RunIncompleteError, match="1 of 10 images failed"):
        check_labelled(output, UNITS, Allowed(), STORE)


def test_only_shards_of_the_plan_count(output):
    for unit in range(3):
        _shard(output, unit)
    STORE.publish_bytes(shard_uri(output, 7), b"stray")
    found = read_status(output, STORE)
    assert (found.units_done, found.images_done, found.problem) == (3, 10, None)


def test_a_damaged_shard_is_named(output):
    STORE.publish_bytes(shard_uri(output, 1), b"PAR1 but no more")
    with pytest.raises(InputError, match=r"shard-000001\.parquet: damaged shard"):
        read_status(output, STORE)
    assert read_status(output, STORE, footers=False).units_done == 1


def test_the_lock_carries_the_progress(output, monkeypatch):
    monkeypatch.setattr("ntt_ray.run.lock.HEARTBEAT_S", 0.02)
    with RunLock(output, STORE) as lock:
        lock.progress = {"images_done": 5, "images_per_s": 1.25}
        deadline = time.monotonic() + 30
        while not (found := read_status(output, STORE)).images_per_s:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert (found.images_per_s, found.driver.alive) == (1.25, True)
    assert read_status(output, STORE).driver is None


def _said(*arguments: str):
    return CliRunner().invoke(app, ["status", *arguments])


def test_the_command(output):
    _shard(output, 0, {1: MISSING})
    _lock(output, progress={"images_per_s": 0.5})
    result = _said(output)
    assert isinstance(result.exception, RunIncompleteError)  # more failed than may
    said = result.stderr
    assert "1 of 3 units done, 4 of 10 images, 1 of them failed" in said
    assert f"a driver is at work: process {os.getpid()} on" in said
    assert "0.50 images/s, 0:00:12 left to label" in said
    assert f"1 failed (content): {MISSING}; shard-000000.parquet: 1.jpg" in said


HEALTH = {
    "nobody at work": ({}, "content", None, False),
    "at work": ({}, "content", {}, True),
    "its driver died": ({}, "content", {"pid": 2**22 + 1}, False),
    "at work, but too many failed": ({1: MISSING}, "content", {}, False),
    "at work, one to be tried again": ({1: MISSING}, "access", {}, True),
}


@pytest.mark.parametrize(("failed", "kind", "lock", "healthy"), HEALTH.values(), ids=HEALTH.keys())
def test_a_run_at_work_is_no_error(output, failed, kind, lock, healthy):
    _shard(output, 0, failed, kind)
    if lock is not None:
        _lock(output, **lock)
    result = _said(output)
    assert (result.exit_code == 0) == healthy, result.stderr
    found = json.loads(_said(output, "--json").stdout)
    assert (found["healthy"], found["done"]) == (healthy, False)


def test_a_run_that_is_being_prepared_is_no_error(tmp_path):
    _lock(str(tmp_path))
    result = _said(str(tmp_path))
    assert result.exit_code == 0
    assert "a driver is preparing the run" in result.stderr
    found = json.loads(_said(str(tmp_path), "--json").stdout)
    assert (found["healthy"], found["done"], found["driver"]["pid"]) == (True, False, os.getpid())
    _lock(str(tmp_path), pid=2**22 + 1)
    assert isinstance(_said(str(tmp_path)).exception, InputError)


def test_the_command_as_json(output):
    result = _said(output, "--json")
    assert isinstance(result.exception, RunIncompleteError)
    found = json.loads(result.stdout)
    assert (found["units_done"], found["done"], found["driver"]) == (0, False, None)
    for unit in range(3):
        _shard(output, unit)
    result = _said(output, "--json")
    assert (result.exit_code, json.loads(result.stdout)["done"]) == (0, True)
    assert _said(output, "--quick").exit_code == 0


def test_a_misspelt_store_is_refused(output):
    result = _said(output, "--set", "storage_option.s3.endpoint_url=http://127.0.0.1:1")
    assert isinstance(result.exception, ConfigError)
    assert "storage_option: unknown key; did you mean storage_options?" in str(result.exception)
