"""An HTTP proxy before a store that damages what passes, in a process of its own.

What happens to a request is drawn from the seed, its name and how often it came: the order in
which threads ask changes nothing.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import re
import socket
import struct
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

from tests.support.s3_store import own_process

TELL = "/__what_happened__"
TELL_MOST = "/__most_at_once__"
DROPPED = {"connection", "keep-alive", "transfer-encoding", "content-length", "date", "server"}
ERROR = "<?xml version='1.0'?><Error><Code>{code}</Code><Message>{text}</Message></Error>"
FAULTS = {
    "error": "500 InternalError",
    "busy": "503 SlowDown",
    "reset": "the connection is reset before the store hears of the request",
    "cut": "half of the body goes to the store, then both connections are lost",
    "deaf": "the store does as asked, the connection is lost before its answer",
    "short": "half of the answer's body, then the connection is lost",
    "stall": "no answer at all",
    "trickle": "an answer whose head never ends, a byte at a time",
    "denied": "403 AccessDenied, as with a token that has expired",
    "gone": "404 NoSuchKey",
    "moved": "307 to a place that does not exist",
}


@dataclass(frozen=True)
class Hostility:
    """What a proxy does.

    Attributes:
        faults: kinds, see `FAULTS`; drawn evenly.
        rate: share of the requests that are hit.
        only: pattern of ``METHOD /path?query``; others pass.
        times: a request of the same name is hit at most so often; None: no end.
        delay_s: before every answer, also of requests that are not hit.
        stall_s: how long a stalled request is kept.
        seed: of the draws.
    """

    faults: Sequence[str] = ("error", "busy", "reset")
    rate: float = 0.2
    only: str = ""
    times: int | None = None
    delay_s: float = 0.0
    stall_s: float = 3600.0
    seed: int = 1


@dataclass(frozen=True)
class Proxy:
    """A running proxy."""

    endpoint: str

    def happened(self) -> dict[str, int]:
        """How many requests came, ``requests``, and how many of them met which fault."""
        return self._told(TELL)

    def most_at_once(self) -> int:
        """How many requests were being delayed at the same moment, at most."""
        return self._told(TELL_MOST)["most"]

    def _told(self, path: str) -> dict[str, int]:
        with urllib.request.urlopen(self.endpoint + path, timeout=10) as answer:
            return json.load(answer)


@contextlib.contextmanager
def hostile_proxy(endpoint: str, hostility: Hostility) -> Iterator[Proxy]:
    """Run a proxy before an ``http://`` endpoint."""
    settings = json.dumps(asdict(hostility))
    with own_process("tests.support.hostile_proxy", endpoint, settings) as port:
        yield Proxy(f"http://127.0.0.1:{port}")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hostility: Hostility
    upstream: tuple[str, int]
    counts: ClassVar[Counter[str]] = Counter()
    seen: ClassVar[Counter[str]] = Counter()
    at_once: ClassVar[Counter[str]] = Counter()
    lock = threading.Lock()

    def _pass(self) -> None:
        if self.path == TELL_MOST:
            self._answer(200, [], json.dumps({"most": self.at_once["most"]}).encode())
            return
        if self.path == TELL:
            self._answer(200, [], json.dumps(self.counts).encode())
            return
        fault = self._fault()
        self._delay()
        if fault is None or fault == "short":
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, headers, data = self._ask(body)
            if fault == "short" and len(data) > 1:
                self._answer(status, headers, data, sent=len(data) // 2)
                self._lose()
                return
            self._answer(status, headers, data)
            return
        getattr(self, f"_{fault}")()

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _pass  # noqa: N815 the library's names

    def _delay(self) -> None:
        with self.lock:
            self.at_once["now"] += 1
            self.at_once["most"] = max(self.at_once["most"], self.at_once["now"])
        time.sleep(self.hostility.delay_s)
        with self.lock:
            self.at_once["now"] -= 1

    def _fault(self) -> str | None:
        name, how = f"{self.command} {self.path}", self.hostility
        with self.lock:
            self.counts["requests"] += 1
            if not re.search(how.only, name):
                return None
            draw = random.Random(f"{how.seed} {name} {self.seen[name]}")
            self.seen[name] += 1
            if draw.random() >= how.rate or self.seen[name] > (how.times or sys.maxsize):
                return None
            fault = draw.choice(how.faults)
            self.counts[fault] += 1
            return fault

    def _error(self) -> None:
        self._refuse(500, "InternalError", "We encountered an internal error. Please try again.")

    def _busy(self) -> None:
        self._refuse(503, "SlowDown", "Please reduce your request rate.")

    def _denied(self) -> None:
        self._refuse(403, "AccessDenied", "Access Denied")

    def _gone(self) -> None:
        self._refuse(404, "NoSuchKey", "The specified key does not exist.")

    def _moved(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer(307, [("Location", "http://127.0.0.1:1/elsewhere")], b"")

    def _refuse(self, status: int, code: str, text: str) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b"" if self.command == "HEAD" else ERROR.format(code=code, text=text).encode()
        self._answer(status, [("Content-Type", "application/xml")], body)

    def _reset(self) -> None:
        self._lose()

    def _stall(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        time.sleep(self.hostility.stall_s)
        self._lose()

    def _trickle(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        until = time.monotonic() + self.hostility.stall_s
        while time.monotonic() < until:
            self.wfile.write(b"a")
            time.sleep(0.1)
        self._lose()

    def _deaf(self) -> None:
        self._ask(self.rfile.read(int(self.headers.get("Content-Length", 0))))
        self._lose()

    def _cut(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        half = self.rfile.read(length // 2)
        with socket.create_connection(self.upstream) as store:
            head = f"{self.command} {self.path} HTTP/1.1\r\n"
            head += "".join(f"{key}: {value}\r\n" for key, value in self._forwarded())
            store.sendall(f"{head}Content-Length: {length}\r\n\r\n".encode() + half)
        self._lose()

    def _forwarded(self) -> list[tuple[str, str]]:
        dropped = {"connection", "content-length", "expect"}
        return [(k, v) for k, v in self.headers.items() if k.lower() not in dropped]

    def _ask(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        store = http.client.HTTPConnection(*self.upstream)
        store.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for key, value in self._forwarded():
            store.putheader(key, value)
        store.putheader("Content-Length", str(len(body)))
        store.endheaders(body)
        answer = store.getresponse()
        data = answer.read()
        headers = [(k, v) for k, v in answer.getheaders() if k.lower() not in DROPPED]
        if self.command == "HEAD":
            headers.append(("Content-Length", answer.headers.get("Content-Length", "0")))
        store.close()
        return answer.status, headers, data

    def _answer(
        self, status: int, headers: list[tuple[str, str]], data: bytes, sent: int | None = None
    ) -> None:
        self.send_response(status)
        for key, value in headers:
            self.send_header(key, value)
        if self.command != "HEAD" or not any(k == "Content-Length" for k, _ in headers):
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[:sent])

    def _lose(self) -> None:
        """Reset the connection: what a router or a dying server does."""
        linger = struct.pack("ii", 1, 0)
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def shutdown_request(self, request) -> None:
        """Close at once: a shutdown in order would turn a reset into an end."""
        self.close_request(request)

    def handle_error(self, request, client_address) -> None:
        """A client that left is not worth a word."""


def _serve(endpoint: str, settings: str) -> None:
    host, _, port = endpoint.removeprefix("http://").partition(":")
    _Handler.upstream = (host, int(port or 80))
    _Handler.hostility = Hostility(**json.loads(settings))
    server = _Server(("127.0.0.1", 0), _Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    print(json.dumps({"port": server.server_address[1]}), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    _serve(*sys.argv[1:])
