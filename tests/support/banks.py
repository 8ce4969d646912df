"""A small bank of two classes, the second with two references."""

import torch

from ntt_ray.bank.memory import MemoryBank
from ntt_ray.records import ClassLabel

CLASSES = (ClassLabel(2, "nut"), ClassLabel(5, "bölt <b>"))
ENCODER = {"name": "vit", "image_size": 56, "checkpoint": "abc"}


def make_bank() -> MemoryBank:
    means = [
        [(torch.tensor([3.0, 0.0]), 4.0)],
        [(torch.tensor([0.0, 1.0]), 2.0), (torch.tensor([0.0, 3.0]), 8.0)],
    ]
    return MemoryBank.from_means(CLASSES, means, encoder=ENCODER, reference_digest="d")
