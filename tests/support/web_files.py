"""A web server with one file, on loopback, that counts how often it is asked and can misbehave."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class WebFile:
    """What the server does and saw.

    Attributes:
        url: of the file.
        data: its content.
        faults: taken from the left, one for each GET: ``cut`` closes the connection in the middle,
            ``hang`` and ``slow`` stop there until `release` is set, and then close it or go on.
            None left: all is well.
        gets: how many GET requests came, of any name.
        half_sent: set when an answer stopped in the middle.
        release: ends hanging answers.
    """

    def __init__(self, data: bytes) -> None:
        self.url, self.data = "", data
        self.faults: list[str] = []
        self.gets = 0
        self.half_sent, self.release = threading.Event(), threading.Event()
        self._lock = threading.Lock()

    def next_fault(self) -> str | None:
        with self._lock:
            self.gets += 1
            return self.faults.pop(0) if self.faults else None


@contextlib.contextmanager
def web_file(name: str, data: bytes) -> Iterator[WebFile]:
    """Serve ``/NAME``; everything else is not found."""
    file = WebFile(data)

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._head()

        def do_GET(self) -> None:
            fault = file.next_fault()
            if not self._head():
                return
            half = len(file.data) // 2
            if fault is None:
                self.wfile.write(file.data)
                return
            self.wfile.write(file.data[:half])
            self.wfile.flush()
            file.half_sent.set()
            if fault in ("hang", "slow"):
                file.release.wait(60)
            if fault == "slow":
                self.wfile.write(file.data[half:])
            else:
                self.close_connection = True

        def _head(self) -> bool:
            found = self.path == f"/{name}"
            self.send_response(200 if found else 404)
            self.send_header("Content-Length", str(len(file.data) if found else 0))
            self.end_headers()
            return found

        def log_message(self, *_arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    file.url = f"http://127.0.0.1:{server.server_address[1]}/{name}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield file
    finally:
        file.release.set()
        server.shutdown()
        server.server_close()
        thread.join()
