"""A server of the Internet cannot make us read what lies in our own network."""

import asyncio
import contextlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from yarl import URL

from ntt_ray.errors import StorageError
from ntt_ray.records import ImageEntry
from ntt_ray.run.fetch import fetch_images
from ntt_ray.storage import Storage, web

QUICK = {"retries": {"attempts": 1}}
SECRET = b"token-of-the-metadata-service"
ADDRESSES = {
    "http://127.0.0.1:9000/": True,
    "http://localhost/": True,
    "http://2130706433/": True,  # 127.0.0.1 as a number
    "http://[::1]/": True,
    "http://0.0.0.0/": True,
    "http://10.1.2.3/": True,
    "http://172.16.0.1/": True,
    "http://192.168.1.1/": True,
    "http://100.64.0.1/": True,  # shared by a carrier's customers
    "http://169.254.169.254/latest/meta-data": True,
    "http://[fe80::1%25lo]/": True,
    "http://[fd00::1]/": True,
    "http://[::ffff:10.0.0.1]/": True,
    "http://8.8.8.8/": False,
    "https://[2001:4860:4860::8888]/": False,
    "http://[::ffff:8.8.8.8]/": False,
    "http://there-is-no-such-host.invalid/": False,  # a proxy may know it
}


@pytest.mark.parametrize(("url", "private"), ADDRESSES.items(), ids=ADDRESSES.keys())
def test_private_addresses(url, private):
    assert asyncio.run(web._is_private(URL(url))) is private


@contextlib.contextmanager
def _server(answer):
    """A web server on loopback; `answer` gives status, headers and body of a path."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            status, headers, body = answer(self.path)
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815 the library's name

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def inside():
    """A server of the private network, and the paths that it was asked for."""
    with _server(lambda path: (200, {}, SECRET)) as server:
        yield server


@pytest.fixture
def outside(inside, monkeypatch):
    """A server of the Internet: it redirects to the path it is asked for, or to the private one."""

    def answer(path):
        to = {"/in": f"{inside[0]}/x", "/near": "/x", "/round": "/in"}.get(path)
        return (302, {"Location": to}, b"") if to else (200, {}, b"public")

    with _server(answer) as (url, asked):

        async def is_private(checked):
            return checked.port != URL(url).port

        monkeypatch.setattr(web, "_is_private", is_private)
        yield url, asked


@pytest.mark.parametrize("path", ["/in", "/round"])
def test_a_redirect_into_a_private_network_is_refused(inside, outside, path):
    store = Storage(QUICK)
    with pytest.raises(StorageError, match=r"redirects to 127\.0\.0\.1, an address of a private"):
        store.read_bytes(outside[0] + path)
    assert not store.exists(outside[0] + path)
    with pytest.raises(FileNotFoundError):
        store.size(outside[0] + path)
    (image,) = fetch_images([ImageEntry(1, "x", outside[0] + path)], store.read_bytes, 60)
    assert image.data is None
    assert "private network" in image.error
    assert inside[1] == []


def test_other_redirects_are_followed(outside):
    assert Storage(QUICK).read_bytes(f"{outside[0]}/near") == b"public"


def test_who_lists_a_private_address_may_be_redirected_there(inside):
    with _server(lambda path: (307, {"Location": f"{inside[0]}/x"}, b"")) as (url, _):
        assert Storage(QUICK).read_bytes(f"{url}/x") == SECRET


def test_requests_share_one_session():
    first = Storage(QUICK)._open_fs("http://127.0.0.1/x")[0]
    assert Storage(QUICK)._open_fs("http://127.0.0.1/y")[0] is first
