"""An S3 store for tests: moto's server in a process of its own, or any S3 endpoint you name.

To run the same tests against a store of your own (MinIO, Ceph, a bucket at a provider), set

    NTT_RAY_TEST_S3_ENDPOINT=http://127.0.0.1:9000   NTT_RAY_TEST_S3_BUCKET=scratch
    AWS_ACCESS_KEY_ID=...   AWS_SECRET_ACCESS_KEY=...

The bucket must exist. Each test works below a prefix of its own and leaves it there; the tests that
put a hostile proxy before the store need a plain ``http://`` endpoint that takes bucket names in
the path.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from ntt_ray.storage import Storage
from tests.support.paths import ROOT

# what fails in a test shall be tried again at once, and by one layer
QUICK: dict[str, Any] = {"attempts": 8, "first_delay_s": 0.01}
SECRET = "test-secret-7Jq2vXw"


@dataclass(frozen=True)
class S3Store:
    """A bucket to test with.

    Attributes:
        endpoint: of the server, ``http://host:port``.
        bucket: exists.
        credentials: for the test server; of any other endpoint they are in the environment.
    """

    endpoint: str
    bucket: str
    credentials: dict[str, str]

    def prefix(self) -> str:
        """A new prefix in the bucket."""
        return f"s3://{self.bucket}/ntt-ray-tests/{uuid.uuid4().hex[:12]}"

    def options(self, endpoint: str | None = None, **config: Any) -> dict[str, Any]:
        """What a config's `storage_options` says of this store.

        Args:
            endpoint: of a proxy before the store.
            config: botocore's settings, e.g. ``read_timeout``.
        """
        config = {"retries": {"total_max_attempts": 1}, "s3": {"addressing_style": "path"}} | config
        s3 = {"endpoint_url": endpoint or self.endpoint, "config_kwargs": config}
        return {"s3": s3 | self.credentials, "retries": QUICK}

    def storage(self, **options: Any) -> Storage:
        """Access to it."""
        return Storage(self.options(**options))


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Store]:
    """The store of this test session."""
    endpoint = os.environ.get("NTT_RAY_TEST_S3_ENDPOINT")
    if endpoint:
        yield S3Store(endpoint, os.environ["NTT_RAY_TEST_S3_BUCKET"], {})
        return
    with own_s3() as store:
        yield store


@contextlib.contextmanager
def own_s3() -> Iterator[S3Store]:
    """A store of this process, in another one, with an empty bucket."""
    with own_process("tests.support.s3_store") as port:
        credentials = {"key": "test-key", "secret": SECRET}
        store = S3Store(f"http://127.0.0.1:{port}", "scratch", credentials)
        fs, _ = store.storage()._open_fs("s3://scratch")
        fs.call_s3("create_bucket", Bucket="scratch")
        yield store


@contextlib.contextmanager
def own_process(module: str, *arguments: str) -> Iterator[int]:
    """Run a server module that prints its port, and leaves when its standard input closes."""
    server = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        yield json.loads(server.stdout.readline())["port"]
    finally:
        server.stdin.close()
        try:
            server.wait(timeout=10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _serve() -> None:
    """The server's process: S3 on a free port of loopback, until standard input closes."""
    import logging
    import threading

    from moto.moto_server.werkzeug_app import MotoRequestHandler, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    # moto's own command finds out for each request which service is meant: two fifths of its time
    app = create_backend_app("s3")
    # moto looks whether an object is there, and writes it a moment later: S3 does both in one step
    one_at_a_time, backend = threading.Lock(), app.wsgi_app

    def conditional(environ: dict[str, Any], start_response: Any) -> Any:
        is_conditional = {"HTTP_IF_NONE_MATCH", "HTTP_IF_MATCH"} & environ.keys()
        with one_at_a_time if is_conditional else contextlib.nullcontext():
            return backend(environ, start_response)

    app.wsgi_app = conditional
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=MotoRequestHandler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    print(json.dumps({"port": server.server_port}), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    _serve()
