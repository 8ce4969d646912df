"""The create-only PUT in the dialects of S3 that stores speak, against a server for each."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from ntt_ray.errors import StorageError
from ntt_ray.storage import Storage

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
}


@contextmanager
def _store(status: int, body: str, *, knows: bool = True, first: int = 200) -> Iterator[Storage]:
    """A store of one dialect; one that does not know the condition refuses or ignores it."""
    kept: dict[str, bytes] = {}
    answers = [first]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_PUT(self):
            data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            conditional = self.headers.get("If-None-Match") == "*"
            if conditional and not knows:
                self._answer(status, body)
            elif answers and answers[0] != 200:
                self._answer(answers.pop(), ERROR.format("ConditionalRequestConflict", "", ""))
            elif conditional and self.path in kept:
                self._answer(status, body)
            else:
                kept[self.path] = data
                self._answer(200, "")

        def do_GET(self):
            self._answer(200, kept[self.path.split("?")[0]].decode())

        def _answer(self, status: int, text: str) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_arguments) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
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


def test_a_conflict_of_two_writers_passes():
    with _store(412, "", first=409) as store:
        assert store.publish_new("s3://bucket/lock", b"first")


def test_another_refusal_is_an_error():
    body = ERROR.format("AccessDenied", "Access Denied", "")
    with _store(403, body, knows=False) as store, pytest.raises(StorageError, match="Denied"):
        store.publish_new("s3://bucket/lock", b"first")
