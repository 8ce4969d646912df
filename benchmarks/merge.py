"""Soft merging on a large image: peak memory and time of both ways to merge.

    python -m benchmarks.merge --size 4000x3000 --proposals 800

Run lengths are the way of the CPU, strips that of a GPU.
Masks are smooth random blobs of several sizes; classes and scores are random.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measure import machine, peak_memory, timed, write_json
from ntt_ray.bank.memory import MemoryBank
from ntt_ray.method.candidates import Candidates
from ntt_ray.method.labeler import Labeler
from ntt_ray.models.interfaces import Proposals
from ntt_ray.records import ClassLabel

LOW_RESOLUTION = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="4000x3000", help="width x height")
    parser.add_argument("--proposals", type=int, default=800)
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--wanted", type=int, default=100)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--strips", action="store_true", help="also on a CPU, where it is slow")
    parser.add_argument("--json", type=Path, default=None)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    width, height = (int(part) for part in arguments.size.split("x"))
    candidates = _candidates(arguments.proposals, arguments.classes, device)
    labeler = _merger(arguments.classes)
    result = {"benchmark": "merge", "image": arguments.size, "proposals": arguments.proposals}
    ways = {"run_lengths": False, "strips": True}
    for name, strips in ways.items():
        if strips and device.type == "cpu" and not arguments.strips:
            continue
        labeler.strips = strips
        with peak_memory(device) as peak, torch.inference_mode():
            seconds, _ = timed(
                lambda: labeler.merge(candidates, (height, width), arguments.wanted), device
            )
        result |= {f"{name}_s": seconds, f"{name}_peak_gb": peak.bytes / 1e9}
    result["machine"] = machine(device)
    for key, value in result.items():
        print(f"  {key}: {value:.4g}" if isinstance(value, float) else f"  {key}: {value}")
    if arguments.json:
        write_json(arguments.json, result)


def _candidates(count: int, classes: int, device: torch.device) -> Candidates:
    generator = torch.Generator().manual_seed(0)
    grid = torch.linspace(-1, 1, LOW_RESOLUTION)
    centre = torch.rand(count, 2, 1, generator=generator) * 2 - 1
    radius = 0.05 + 0.6 * torch.rand(count, 1, 1, generator=generator) ** 2
    distance = (grid[None, None] - centre) ** 2
    wobble = F.interpolate(
        torch.randn(count, 1, 8, 8, generator=generator), size=(LOW_RESOLUTION,) * 2
    )
    logits = radius**2 - distance[:, 1, :, None] - distance[:, 0, None, :]
    logits = (logits * 20 + 0.05 * wobble[:, 0]).contiguous()
    features = F.normalize(torch.randn(count, 32, generator=generator).abs(), dim=1)
    scores = torch.rand(count, generator=generator)
    labels = torch.randint(classes, (count,), generator=generator)
    falling = torch.linspace(1, 0.4, count)
    tensors: tuple[Tensor, ...] = (logits, falling, torch.arange(count))
    proposals = Proposals(*(tensor.to(device) for tensor in tensors))
    rest = (features, scores, labels)
    return Candidates(proposals, *(tensor.to(device) for tensor in rest))


def _merger(classes: int) -> Labeler:
    """A labeller without models: merging needs none."""
    labels = [ClassLabel(i + 1, f"class {i + 1}") for i in range(classes)]
    means = [[(torch.eye(32)[i % 32], 1.0)] for i in range(classes)]
    bank = MemoryBank.from_means(labels, means, encoder={}, reference_digest="")
    return Labeler(encoder=None, proposer=None, bank=bank)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
