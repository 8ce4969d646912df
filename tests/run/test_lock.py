import json
import os
import socket
import subprocess
import sys
import threading
import time

import pytest

from ntt_ray.errors import OutputLockedError
from ntt_ray.run import lock as lock_module
from ntt_ray.run.layout import LOCK_FILE
from ntt_ray.run.lock import RunLock
from ntt_ray.storage import Storage


def _write(tmp_path, **holder):
    record = {"token": "x", "host": "elsewhere", "pid": 1, "heartbeat": time.time(), **holder}
    (tmp_path / LOCK_FILE).write_text(json.dumps(record))


def test_a_second_driver_is_refused_and_told_who_holds_it(tmp_path):
    with (
        RunLock(str(tmp_path), Storage()),
        pytest.raises(OutputLockedError, match=rf"process {os.getpid()} on"),
    ):
        RunLock(str(tmp_path), Storage()).__enter__()
    assert not (tmp_path / LOCK_FILE).exists()
    with RunLock(str(tmp_path), Storage()):
        pass


def test_it_is_given_back_after_an_error(tmp_path):
    with pytest.raises(RuntimeError), RunLock(str(tmp_path), Storage()):
        raise RuntimeError
    assert not (tmp_path / LOCK_FILE).exists()


def _dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_stale_locks_are_taken_over(tmp_path):
    stale = [
        {"heartbeat": time.time() - lock_module.STALE_S - 1},
        {"host": socket.gethostname(), "pid": _dead_pid()},
    ]
    for holder in stale:
        _write(tmp_path, **holder)
        with RunLock(str(tmp_path), Storage()) as lock:
            assert json.loads((tmp_path / LOCK_FILE).read_text())["token"] == lock.token


def test_a_claim_left_by_a_dead_driver_is_no_obstacle(tmp_path):
    dead = {"host": socket.gethostname(), "pid": _dead_pid()}
    _write(tmp_path, **dead)
    os.link(tmp_path / LOCK_FILE, tmp_path / f"{LOCK_FILE}.claim")
    with RunLock(str(tmp_path), Storage()) as lock:
        assert json.loads((tmp_path / LOCK_FILE).read_text())["token"] == lock.token
    assert not list(tmp_path.iterdir())


def test_who_found_a_lock_stale_too_late_is_refused(tmp_path):
    stale = {"token": "dead", "heartbeat": 0}
    _write(tmp_path, token="quicker")
    with pytest.raises(OutputLockedError, match="at the same moment"):
        RunLock(str(tmp_path), Storage())._take_over(stale)
    assert json.loads((tmp_path / LOCK_FILE).read_text())["token"] == "quicker"


class _WritesOver(Storage):
    """A store without conditional writes."""

    def publish_new(self, uri, data):
        self.publish_bytes(uri, data)
        return True


@pytest.mark.parametrize("stale", [False, True], ids=["fresh", "stale"])
@pytest.mark.parametrize(
    "store",
    [Storage(), pytest.param(_WritesOver(), marks=pytest.mark.slow)],
    ids=["conditional", "writes over"],
)
def test_one_of_many_drivers_wins(tmp_path, monkeypatch, store, stale):
    monkeypatch.setattr(lock_module, "SETTLE_S", 0.3)
    monkeypatch.setattr(lock_module, "_is_stale", lambda holder: holder["host"] == "elsewhere")
    for number in range(5):
        folder = tmp_path / str(number)
        folder.mkdir()
        if stale:
            _write(folder)
        won, barrier = [], threading.Barrier(8)

        def drive(folder=folder, won=won, barrier=barrier):
            lock = RunLock(str(folder), store)
            barrier.wait()
            try:
                with lock:
                    won.append(lock.token)
                    barrier.wait()  # held until every other one was refused
            except OutputLockedError:
                barrier.wait()

        drivers = [threading.Thread(target=drive) for _ in range(8)]
        for driver in drivers:
            driver.start()
        for driver in drivers:
            driver.join()
        assert len(won) == 1
        assert not list(folder.iterdir())


def test_a_fresh_lock_of_another_machine_is_respected(tmp_path):
    _write(tmp_path, pid=_dead_pid())
    with pytest.raises(OutputLockedError, match="elsewhere"):
        RunLock(str(tmp_path), Storage()).__enter__()


def test_the_heartbeat_goes_on_and_notices_a_takeover(tmp_path, monkeypatch):
    monkeypatch.setattr(lock_module, "HEARTBEAT_S", 0.05)
    with RunLock(str(tmp_path), Storage()) as lock:
        first = json.loads((tmp_path / LOCK_FILE).read_text())["heartbeat"]
        deadline = time.monotonic() + 10
        while json.loads((tmp_path / LOCK_FILE).read_text())["heartbeat"] == first:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        lock.check()
        # written twice: a beat that was under way may overwrite the first one
        while not lock.lost.is_set():
            assert time.monotonic() < deadline
            _write(tmp_path, token="other")
            time.sleep(0.1)
        with pytest.raises(OutputLockedError, match="took over"):
            lock.check()
    assert json.loads((tmp_path / LOCK_FILE).read_text())["token"] == "other"
