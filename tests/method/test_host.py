"""The thread that waits for the device; a GPU is played by fakes that write down what is asked."""

from __future__ import annotations

import threading
from contextlib import contextmanager

import pytest
import torch

from ntt_ray.method.host import Host

CPU = torch.device("cpu")
WAIT_S = 60.0


def test_the_caller_does_not_wait():
    host, release = Host(), threading.Event()
    found = host.submit(CPU, lambda: release.wait(WAIT_S))
    behind = host.submit(CPU, int, "7")
    assert not behind.done()
    release.set()
    assert found.result(WAIT_S)
    assert behind.result(WAIT_S) == 7


def test_it_computes_as_its_caller_does():
    host = Host()
    assert host.submit(CPU, torch.is_inference_mode_enabled).result(WAIT_S)
    with pytest.raises(ZeroDivisionError):
        host.submit(CPU, divmod, 1, 0).result(WAIT_S)


class _Gpu:
    """Stands for `torch.cuda`."""

    def __init__(self, events) -> None:
        class Event:
            def record(self, stream):
                events.append(("recorded", stream))

        class Stream:
            def __init__(self, device) -> None:
                events.append(("stream made", device.type))

            def wait_event(self, event):
                events.append(("waits for", type(event).__name__))

        @contextmanager
        def stream(stream):
            events.append("on its stream")
            yield
            events.append("off its stream")

        self.Event, self.Stream, self.stream = Event, Stream, stream
        self.current_stream = lambda device: "the caller's stream"


def test_on_a_gpu_it_works_beside_its_caller_and_after_what_that_asked_for(monkeypatch):
    events = []
    monkeypatch.setattr(torch, "cuda", _Gpu(events))
    host, held = Host(), threading.Event()
    host.submit(CPU, held.wait, WAIT_S)
    found = host.submit(torch.device("cuda"), lambda: events.append("called"))
    assert events == [("recorded", "the caller's stream")]
    held.set()
    found.result(WAIT_S)
    working = [
        "on its stream",
        ("waits for", "Event"),
        "called",
        "off its stream",
    ]
    assert events[1:] == [("stream made", "cuda"), *working]
    host.submit(torch.device("cuda"), lambda: events.append("called")).result(WAIT_S)
    assert events[6:] == [("recorded", "the caller's stream"), *working]  # the same stream
