"""What an image asks of a GPU does not rise unnoticed, and is counted as the page says."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.budget import budget
from benchmarks.device_costs import GPUS, LAUNCH_S, SYNC_S, Cost, cost_of
from benchmarks.device_queue import DeviceQueue, Event, on_fake_device
from ntt_ray.plan.predictions import PREDICTED_MS

H100 = GPUS["h100"]
SLOW = Cost(flops=0, dtype=torch.float32, bytes=3e12)  # a second of an H100's memory


@pytest.mark.slow
def test_an_image_asks_no_more_of_a_gpu_than_before():
    found = budget("ts")["per_image"]
    assert found["launches"] <= 374
    assert found["gb"] <= 16.6
    assert sum(part["copied_mb"] for part in found["parts"].values()) <= 3.5
    waits = [line.split(":")[0] for part in found["parts"].values() for line in part["syncs"]]
    assert waits == ["models/sam2/decoder/run.py", "method/suppression.py"]
    assert found["syncs"] == 2
    assert found["ms"]["h100"] <= 14
    assert found["parts"]["transform"]["launches"] <= 70
    assert found["parts"]["upscale"]["launches"] <= 2
    predicted = PREDICTED_MS["dinov2_vits14", "sam2.1_hiera_t"]
    assert found["ms"] == pytest.approx({k.lower(): ms for k, ms in predicted.items()}, rel=0.01)


class Answers:
    def rows(self, part, name, given):
        return 3

    def values(self, part, asked):
        return [7] * asked.numel()


def _counted(function):
    queue = DeviceQueue({"part": [function]}, Answers())
    with on_fake_device(queue, FakeTensorMode(allow_non_fake_inputs=True)):
        function()
    return queue


def test_operations_copies_and_waits_are_counted_in_their_part():
    def work():
        on_device = torch.ones(100, 4).to("cuda")
        product = on_device @ on_device.T
        found = torch.nonzero(product[0] > 0)
        assert found.shape == (3, 1)
        assert found[:, 0].cpu().tolist() == [7, 7, 7]

    (part,) = _counted(work).parts().values()
    assert part.flops["float32"] == 2 * 100 * 4 * 100
    assert part.copied == 4 * 400 + 8 * 3
    assert [name.split()[-1] for name in part.syncs] == ["_to_copy", "nonzero"]
    assert sum(part.syncs.values()) == 3  # both copies, and the number of elements
    assert part.launches == 1 + 1 + 4  # product, comparison, and what nonzero launches


def test_what_nobody_assumed_is_an_error():
    with pytest.raises(NotImplementedError, match="a number is asked"):
        _counted(lambda: int(torch.ones(1, device="cuda")))


@pytest.mark.parametrize(
    ("events", "seconds"),
    [
        ([], 0),
        ([Event("a", "x", SLOW)], LAUNCH_S + 1),
        ([Event("a", "x", SLOW), Event("a", "y", SLOW)], LAUNCH_S + 2),
        ([Event("a", "x", SLOW), Event("a", "wait", waits=True)], 1 + LAUNCH_S + SYNC_S),
        ([Event("a", "x", SLOW), Event("a", "wait", waits=True, elsewhere=True)], 1 + LAUNCH_S),
        ([Event("a", "copy", copied=int(H100.host_link))], 1),
    ],
    ids=["nothing", "one", "host ahead", "wait", "another thread waits", "copy"],
)
def test_a_wait_stops_the_host_and_nothing_else_does(events, seconds):
    queue = DeviceQueue({}, Answers())
    queue.events = events
    assert queue.seconds(H100) == pytest.approx(seconds, abs=1e-5)


def test_the_longer_of_arithmetic_and_memory_counts():
    assert Cost(350e12, torch.bfloat16, 3e12).seconds(H100) == 1
    assert Cost(1400e12, torch.bfloat16, 3e12).seconds(H100) == 2
    assert Cost(350e12, torch.bfloat16, 0, share=0.5, vector=50e12).seconds(H100) == 2
    assert Cost(0, torch.bfloat16, 0, kernels=3).seconds(H100) == 6e-6


def test_what_is_only_expanded_is_read_once():
    row = torch.ones(1, 8)
    add, rows = torch.ops.aten.add.Tensor, row.expand(5, 8)
    assert cost_of("add", add, (rows, rows), {}, torch.ones(5, 8)).bytes == 4 * (8 + 8 + 40)
