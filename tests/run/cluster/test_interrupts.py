"""A task that was ended in its middle leaves nothing behind that stops the next one."""

import logging
import threading

import pytest

from ntt_ray.records import ImageEntry
from ntt_ray.run.cluster.interrupts import release_logging
from ntt_ray.run.cluster.tasks import _call
from ntt_ray.run.fetch import fetch_images
from ntt_ray.storage import Storage


def speaks(logger: logging.Logger) -> bool:
    """Whether another thread can log."""
    logging.Logger.manager._clear_cache()  # what a logger remembers it need not ask for
    thread = threading.Thread(target=logger.error, args=("said",), daemon=True)
    thread.start()
    thread.join(0.5)
    return not thread.is_alive()


@pytest.fixture
def logger():
    logger, handler = logging.Logger("tried"), logging.StreamHandler(open("/dev/null", "w"))  # noqa: SIM115
    logger.addHandler(handler)
    yield logger
    release_logging()
    handler.stream.close()


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("which", ["of the module", "of a handler"])
def test_locks_that_stayed_taken_are_released(logger, which, times):
    lock = logging._lock if which == "of the module" else logger.handlers[0].lock
    for _ in range(times):
        lock.acquire()
    assert not speaks(logger)
    release_logging()
    assert speaks(logger)


def test_a_lock_of_another_thread_stays_taken(logger):
    taken, enough = threading.Event(), threading.Event()

    def hold():
        with logger.handlers[0].lock:
            taken.set()
            enough.wait(10)

    holder = threading.Thread(target=hold)
    holder.start()
    taken.wait(10)
    release_logging()
    assert not speaks(logger)
    enough.set()
    holder.join()
    assert speaks(logger)


def test_images_are_read_after_a_task_that_was_ended(tmp_path):
    (tmp_path / "a.png").write_bytes(b"bytes")
    entries = [ImageEntry(1, "a.png", str(tmp_path / "a.png"))]

    def read():
        logging.Logger.manager._clear_cache()
        return fetch_images(entries, Storage().read_bytes, timeout_s=1.0)[0].error

    try:
        logging._lock.acquire()
        assert read() == "timeout: not read within 1 s"
        assert _call(read) is None
    finally:
        release_logging()
