"""The way of images to the models; a GPU is played by events that know what is still on its way."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ntt_ray.models import inputs
from ntt_ray.models.inputs import InputRing, to_input


def _images(count: int, seed: int, side: int = 5) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), np.uint8))


@pytest.fixture
def ring(monkeypatch):
    """A ring of two buffers to a device that is the CPU, and the events of its copies."""
    events = []

    class Event:
        """Until it is waited for, its buffer must stay as it was when the copy was asked for."""

        def __init__(self) -> None:
            self.buffer = None
            events.append(self)

        def record(self, stream) -> None:
            assert self.buffer is None
            self.buffer = buffers[events.index(self)]
            self.copied = self.buffer.clone()

        def synchronize(self) -> None:
            if self.buffer is not None:
                assert torch.equal(self.buffer, self.copied)
                self.buffer = None

    buffers = []

    def pinned(shape):
        buffers.append(torch.empty(shape, dtype=torch.uint8))
        return buffers[-1]

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    monkeypatch.setattr(inputs, "_pinned", pinned)
    return InputRing(torch.device("cpu"), buffers=2), buffers, events


def test_values_are_those_of_the_bytes():
    images = _images(2, seed=0)
    found = to_input(images)
    assert found.shape == (2, 3, 5, 5)
    assert found.is_contiguous()
    np.testing.assert_array_equal(found[1, 2].numpy(), images[1][..., 2].astype(np.float32) / 255)


def test_the_ring_gives_what_the_plain_way_gives(ring):
    ring, buffers, _ = ring
    found = [(seed, to_input(_images(3, seed), ring)) for seed in range(5)]
    assert len(buffers) == 2  # used in turn, and not made anew
    for seed, values in found:
        assert torch.equal(values, to_input(_images(3, seed)))


def test_a_buffer_is_not_filled_before_its_copy_is_done(ring):
    ring, buffers, events = ring
    for seed in range(2):
        ring.copy(_images(3, seed))
    on_their_way = [event.buffer for event in events]
    assert on_their_way == buffers
    ring.copy(_images(3, 2))  # waits for the first copy, or the event tells
    np.testing.assert_array_equal(buffers[0].numpy(), _images(3, 2))
    np.testing.assert_array_equal(buffers[1].numpy(), _images(3, 1))


def test_a_buffer_fits_its_batch(ring):
    ring, _, _ = ring
    for count, side in ((4, 5), (4, 5), (2, 5), (2, 7)):
        found = ring.copy(_images(count, 0, side))
        np.testing.assert_array_equal(found.numpy(), _images(count, 0, side))


def test_there_is_no_way_to_go_on_a_cpu():
    assert InputRing.to(torch.device("cpu")) is None
    assert isinstance(InputRing.to(torch.device("cuda")), InputRing)
