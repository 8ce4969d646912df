"""A proposer of random masks."""

from __future__ import annotations

import torch

from ntt_ray.models.interfaces import Proposals
from tests.support.fakes import FakeProposer

SIDE = 32  # of the fake models' input


class Noise(FakeProposer):
    """Twelve random masks for each input; the same input gets the same ones."""

    def __init__(self) -> None:
        pass

    def propose(self, images, min_predicted_iou, wanted=None):
        positions = range(len(images)) if wanted is None else wanted
        return [noise_of(images[position]) for position in positions]


def noise_of(image: torch.Tensor) -> Proposals:
    seed = int(image.double().sum() * 1000)
    random = torch.Generator().manual_seed(seed)
    rough = torch.randn(12, 1, 5, 5, generator=random)
    rough[3:, :, [0, -1]] = rough[3:, :, :, [0, -1]] = -1.0  # these do not reach a border
    logits = torch.nn.functional.interpolate(rough, size=(SIDE, SIDE), mode="bilinear")[:, 0]
    iou = torch.rand(12, generator=random) * 0.6 + 0.4
    return Proposals(logits.contiguous(), iou, torch.arange(12))
