"""The create-only PUT in the dialects of S3 that stores speak, against a server for each."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from ntt_ray.errors import StorageError
from ntt_ray.storage import Storage

pytestmark = pytest.mark.slow  # a client of S3 takes half a second to make

ERROR = (
    "<?xml version='1.0' encoding='UTF-8'?><Error><Code>{}</Code><Message>{}</Message>{}</Error>"
)
TEXT = "At least one of the pre-conditions you specified did not hold"
THERE = {  # how a store says that something is there: status and body
    "AWS": (412, ERROR.format("PreconditionFailed", TEXT, "<Condition>If-None-Match</Condition>")),
    "MinIO, without the condition": (412, ERROR.format("PreconditionFailed", TEXT, "")),
    "Ceph, another code": (412, ERROR.format("412", "", "")),
    "R2, no text": (412, ERROR.format("PreconditionFailed", "", "")),
    "no body at all": (412, ""),
    "JSON": (412, '{"code": "precondition_failed"}'),
    "a page of a gateway": (412, "<!doctype html><title>412 Precondition Failed</title>"),
    "XML that ends early": (412, ERROR.format("PreconditionFailed", TEXT, "")[:60]),
    "a code that says something else": (412, ERROR.format("InternalError", "", "")),
    "a code of another condition": (412, ERROR.format("ConditionNotMet", TEXT, "")),
    "409 for what is there": (409, ERROR.format("ObjectAlreadyExists", "", "")),
    "409 without a body": (409, ""),
}
CONFLICTS = {  # how a store says that another writer is at work at this moment
    "AWS": ERROR.format("ConditionalRequestConflict", "", "<Condition>If-None-Match</Condition>"),
    "another code": ERROR.format("OperationAborted", "", ""),
    "no body at all": "",
}


@contextmanager
def _store(
    status: int, body: str, *, knows: bool = True, conflict: str | None = None, early: bool = False
) -> Iterator[Storage]:
    """A store of one dialect.

    Args:
        status: HTTP status of the answer where something is there.
        body: the text that this answer has.
        knows: whether it knows the condition; else every conditional request gets that answer.
        conflict: body of the 409 that the first request gets; None: it gets none.
        early: whether a refused request is answered before its body came, and then hung up on.
    """
    kept: dict[str, bytes] = {}
    conflicts, lock = [] if conflict is None else [conflict], threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_expect_100(self):
            return early or super().handle_expect_100()  # `early` gives leave after it has looked

        def do_PUT(self):
            with lock:
                refused = self._refused()
                if early and refused:
                    self.close_connection = True
                    self._answer(*refused)
                    return
                if early and self.headers.get("Expect"):
                    self.send_response_only(100)
                    self.end_headers()
                data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if not refused:
                    kept[self.path] = data
            self._answer(*(refused or (200, "")))

        def _refused(self) -> tuple[int, str] | None:
            if self.headers.get("If-None-Match") != "*":
                return None
            if conflicts:
                return 409, conflicts.pop()
            return (status, body) if not knows or self.path in kept else None

        def do_GET(self):
            self._answer(200, kept[self.path.split("?")[0]].decode())

        def do_HEAD(self):
            found = self.path.split("?")[0] in kept
            self._answer(200 if found else 404, "")

        def _answer(self, status: int, text: str) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_arguments) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    s3 = {
        "endpoint_url": f"http://127.0.0.1:{server.server_address[1]}",
        "key": "key",
        "secret": "secret",
        "config_kwargs": {
            "retries": {"total_max_attempts": 1},
            "s3": {"addressing_style": "path"},
            "request_checksum_calculation": "when_required",
        },
    }
    try:
        yield Storage({"s3": s3, "retries": {"attempts": 3, "first_delay_s": 0.01}})
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("dialect", THERE)
def test_the_second_writer_hears_of_the_first(dialect):
    with _store(*THERE[dialect]) as store:
        assert store.publish_new("s3://bucket/lock", b"first")
        assert not store.publish_new("s3://bucket/lock", b"second")
        assert store.read_bytes("s3://bucket/lock") == b"first"


@pytest.mark.parametrize("body", ["", ERROR.format("NotImplemented", "If-None-Match", "")])
def test_a_store_that_refuses_the_condition(body):
    """It writes without it, and the lock is read again (docs/reliability.md)."""
    with _store(501, body, knows=False) as store:
        assert store.publish_new("s3://bucket/lock", b"first")
        assert store.read_bytes("s3://bucket/lock") == b"first"


@pytest.mark.parametrize("dialect", CONFLICTS)
def test_a_conflict_of_two_writers_passes(dialect):
    with _store(412, "", conflict=CONFLICTS[dialect]) as store:
        assert store.publish_new("s3://bucket/lock", b"first")
        assert store.read_bytes("s3://bucket/lock") == b"first"


def test_an_answer_before_the_body_came():
    """The client waits for leave to send what it has, and gets the refusal in its place."""
    with _store(412, "", early=True) as store:
        assert store.publish_new("s3://bucket/lock", b"first")
        assert not store.publish_new("s3://bucket/lock", b"second" * 10_000)
        assert store.read_bytes("s3://bucket/lock") == b"first"


def test_one_of_many_writers_wins():
    with _store(412, "") as store, ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda i: store.publish_new("s3://bucket/x", b"%d" % i), range(8)))
        assert won.count(True) == 1
        assert store.read_bytes("s3://bucket/x") == b"%d" % won.index(True)


def test_another_refusal_is_an_error():
    body = ERROR.format("AccessDenied", "Access Denied", "")
    with _store(403, body, knows=False) as store, pytest.raises(StorageError, match="Denied"):
        store.publish_new("s3://bucket/lock", b"first")
