import io
import json
import os
import socket

import pytest
from PIL import Image

from ntt_ray.run import decoder
from ntt_ray.run.decoder import Limits

LIMITS = Limits("stored", 10**6, 60.0, 2**40, "high_byte", None)


def _answers(*requests):
    """What a decoder says that runs in this process, to requests that were sent before."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        for message, *files in requests:
            socket.send_fds(ours, [json.dumps(message).encode()], files)
        ours.shutdown(socket.SHUT_WR)
        decoder._serve(decoder._Link(theirs), LIMITS)
        theirs.shutdown(socket.SHUT_WR)
        return [json.loads(answer) for answer in iter(lambda: ours.recv(10_000), b"")]


@pytest.fixture
def file():
    opened = os.memfd_create("image")
    sink = io.BytesIO()
    Image.new("RGB", (6, 4), (1, 2, 3)).save(sink, "PNG")
    os.write(opened, sink.getvalue())
    yield opened
    os.close(opened)


def test_pixels_take_the_place_of_the_file(file):
    answers = _answers([{"side": None}, file], [{}])
    assert answers == [
        {"ready": True},
        {"pixels": 24},
        {"shape": [4, 6], "size_hw": [4, 6], "notes": [], "last": False},
    ]
    assert os.pread(file, 1000, 0) == b"\1\2\3" * 24


def test_it_ends_when_images_have_left_too_much_memory_behind(file, monkeypatch):
    monkeypatch.setattr(decoder, "_MAY_STAY", -1.0)
    answers = _answers([{"side": 5}, file], [{}], [{"side": 5}, file])
    assert answers[2:] == [{"shape": [5, 5], "size_hw": [4, 6], "notes": [], "last": True}]


def test_it_ends_when_nobody_answers(file):
    with pytest.raises(SystemExit):
        _answers([{"side": 5}, file])
