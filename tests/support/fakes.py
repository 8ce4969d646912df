"""Small hand-written stand-ins for the models, where a test is about something else."""

from __future__ import annotations

import time

import torch

from ntt_ray.bank.memory import MemoryBank
from ntt_ray.models.interfaces import Proposals
from ntt_ray.records import ClassLabel

# classes by the colours that the encoder sees
CLASSES = (ClassLabel(3, "red"), ClassLabel(8, "green"))
PROTOTYPES = [
    [(torch.tensor([1.0, 0.0, 0.0, 0.1]), 1.0)],
    [(torch.tensor([0.0, 1.0, 0.0, 0.1]), 1.0)],
]
BANK = MemoryBank.from_means(CLASSES, PROTOTYPES, encoder={}, reference_digest="")


class FakeEncoder:
    """Features are the mean colour of each patch, plus a constant channel."""

    name = "fake"
    image_size = 32
    patch_size = 8
    feature_dim = 4

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        grid = torch.nn.functional.adaptive_avg_pool2d(images, 4)
        ones = torch.ones_like(grid[:, :1]) * 0.1
        return torch.cat((grid, ones), dim=1).permute(0, 2, 3, 1).contiguous()


class FakeProposer:
    """Gives the proposals it was made with, for every image, in the seconds it was told."""

    image_size = 32
    device = torch.device("cpu")

    def __init__(self, proposals: Proposals, image_s: float = 0.0) -> None:
        self._proposals = proposals
        self._image_s = image_s

    def propose(self, images, min_predicted_iou, wanted=None) -> list[Proposals]:
        time.sleep(self._image_s * len(images))
        keep = self._proposals.predicted_iou > min_predicted_iou
        return [self._proposals.select(keep) for _ in (images if wanted is None else wanted)]

    def halve_step(self) -> bool:
        return False


def make_proposals(masks: torch.Tensor, predicted_iou: list[float]) -> Proposals:
    """Proposals from bool masks ``(N, h, w)``: logits of plus and minus 5."""
    logits = torch.where(masks, 5.0, -5.0)
    return Proposals(logits, torch.tensor(predicted_iou), torch.arange(len(masks)))
