"""A small bank of two classes, the second with two references, and banks of given features."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ntt_ray.bank.file import BankFile
from ntt_ray.bank.memory import MemoryBank
from ntt_ray.bank.patches import Patches
from ntt_ray.models.published import file_digest
from ntt_ray.records import ClassLabel
from tests.support.golden import GOLDEN_MODELS

CLASSES = (ClassLabel(2, "nut"), ClassLabel(5, "bölt <b>"))
ENCODER = {"name": "vit", "image_size": 56, "checkpoint": "abc"}


def make_bank() -> MemoryBank:
    means = [
        [(torch.tensor([3.0, 0.0]), 4.0)],
        [(torch.tensor([0.0, 1.0]), 2.0), (torch.tensor([0.0, 3.0]), 8.0)],
    ]
    return MemoryBank.from_means(CLASSES, means, encoder=ENCODER, reference_digest="d")


def with_patches(bank: MemoryBank) -> MemoryBank:
    """The bank with three patches of each reference, the first two of them inside."""
    random, count = torch.Generator().manual_seed(0), int(bank.shots.sum())
    features = torch.randn(count, 3, bank.features.shape[2], generator=random)
    inside = torch.tensor([True, True, False]).expand(count, 3).clone()
    patches = Patches(torch.nn.functional.normalize(features, dim=2).half(), inside)
    return replace(bank, patches=patches)


def file_of(
    classes: Sequence[ClassLabel],
    features: Sequence[np.ndarray],
    negatives: Sequence[np.ndarray] = (),
    **fields,
) -> BankFile:
    """The file of a bank with the mean features ``(shots, dim)`` of each class."""
    means, wrong = (
        [[(torch.from_numpy(row.copy()), 1.0) for row in rows] for rows in part]
        for part in (features, negatives)
    )
    fields = {"encoder": ENCODER, "reference_digest": "d"} | fields
    bank = MemoryBank.from_means(classes, means, negatives=wrong, **fields)
    return BankFile.from_bytes(bank.to_bytes(), "bank")


def golden_bank(classes: Sequence[ClassLabel], digest: str = "d", **encoder: Any) -> BankFile:
    """A bank that the golden case's encoder made, but for what is said of the encoder."""
    settings = GOLDEN_MODELS["encoder"]
    made_by = {
        "name": settings["name"],
        "image_size": settings["image_size"],
        "checkpoint": file_digest(Path(settings["checkpoint"])),
        "architecture": {**settings["architecture"], "patch_size": 14},
        **encoder,
    }
    features = [np.ones((1, 4), np.float32) for _ in classes]
    return file_of(classes, features, encoder=made_by, reference_digest=digest)
