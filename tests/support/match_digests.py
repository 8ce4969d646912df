"""What proposals of noise become with all options, as digests: run again on other instruction sets.

python -m tests.support.match_digests       prints JSON: a digest by the name of the options
"""

from __future__ import annotations

import hashlib
import json

import numpy as np
import torch

from ntt_ray.bank.memory import MemoryBank
from ntt_ray.masks import encode_mask, rle_area
from ntt_ray.proposals.kept import KeptView
from ntt_ray.proposals.matching import Matcher
from ntt_ray.records import ClassLabel, View
from ntt_ray.settings import DiffusionSettings, MethodSettings, PrototypeSettings

CHANNELS, CLASSES, SIDE = 96, 7, 48
OPTIONS = {
    "paper": MethodSettings(),
    "thresholds": MethodSettings(min_predicted_iou=0.6, nms_iou=0.8, max_detections=20),
    "diffusion": MethodSettings(diffusion=DiffusionSettings()),
    "normalised diffusion": MethodSettings(
        diffusion=DiffusionSettings(form="normalised", power=0.7, alpha=0.6)
    ),
    "prototypes": MethodSettings(prototypes=PrototypeSettings(per_class=2)),
    "averaged prototypes": MethodSettings(
        prototypes=PrototypeSettings(per_class=3, temperature=0.07)
    ),
    "power": MethodSettings(iou_power=0.3),
    "no NMS": MethodSettings(nms_iou=None),
}


def noisy_bank(negatives: bool, classes: int = CLASSES) -> MemoryBank:
    """Four references of each class."""
    rng = np.random.default_rng(1)
    drawn = rng.normal(size=(CLASSES, 4, CHANNELS)) + rng.normal(size=(CLASSES, 1, CHANNELS))
    wrong = drawn[:, :2] + 1.5 * rng.normal(size=(CLASSES, 2, CHANNELS))
    means, others = (
        [[(torch.tensor(row, dtype=torch.float32), 1.5) for row in own] for own in part[:classes]]
        for part in (drawn, wrong)
    )
    labels = [ClassLabel(number + 1, f"class {number}") for number in range(classes)]
    return MemoryBank.from_means(
        labels, means, encoder={}, reference_digest="", negatives=others if negatives else ()
    )


def noisy_view(seed: int, count: int = 60) -> KeptView:
    """Rectangles that overlap, each with features near to a class."""
    rng = np.random.default_rng(seed)
    low = rng.integers(0, SIDE // 2, (count, 2))
    high = low + rng.integers(3, SIDE // 2, (count, 2))
    masks = np.zeros((count, SIDE, SIDE), dtype=bool)
    for mask, (x1, y1), (x2, y2) in zip(masks, low, high, strict=True):
        mask[y1 : y2 + 1, x1 : x2 + 1] = True
    rles = [encode_mask(mask) for mask in masks]
    near = noisy_bank(negatives=False).prototypes().numpy()[rng.integers(0, CLASSES, count)]
    features = near + 0.15 * rng.normal(size=(count, CHANNELS))
    features /= np.sqrt((features**2).sum(axis=1, keepdims=True))
    return KeptView(
        View(0, 0, SIDE, SIDE),
        np.concatenate((low, high), axis=1).astype(np.uint16),
        np.arange(count, dtype=np.int32),
        (0.4 + 0.6 * rng.random(count)).astype(np.float32),
        np.array([rle_area(rle) for rle in rles], dtype=np.int64),
        tuple(rle["counts"] for rle in rles),
        np.rint(features * 2**15).clip(-(2**15), 2**15 - 1).astype(np.int16),
    )


def digests(seeds: range = range(10)) -> dict[str, str]:
    """A digest of all detections by the name of the options, with negatives and without."""
    views = [noisy_view(seed) for seed in seeds]
    found = {}
    for negatives in (False, True):
        bank = noisy_bank(negatives)
        for name, settings in OPTIONS.items():
            matcher, digest = Matcher(bank, settings), hashlib.sha256()
            for view in views:
                own = matcher.detections((view,), (SIDE, SIDE))
                assert own
                digest.update(repr([(d, d.score.hex(), d.rle["counts"]) for d in own]).encode())
            found[f"{name}{', negatives' if negatives else ''}"] = digest.hexdigest()
    return found


def torchs_own() -> str:
    """A digest of what torch makes of the same functions."""
    numbers = torch.from_numpy(np.random.default_rng(0).random((200, 999)))
    parts = (numbers.exp(), numbers**0.3, numbers.sqrt(), numbers @ numbers.T, numbers.sum(dim=1))
    return hashlib.sha256(b"".join(part.numpy().tobytes() for part in parts)).hexdigest()


if __name__ == "__main__":
    capability = torch.backends.cpu.get_cpu_capability()
    print(json.dumps({"found": digests(), "torch": torchs_own(), "capability": capability}))
