"""Models that find many overlapping things in any image, by what it shows; without weights."""

from __future__ import annotations

import torch

from ntt_ray.bank.memory import MemoryBank
from ntt_ray.models.interfaces import Proposals
from ntt_ray.records import ClassLabel

SIDE, CHANNELS, CLASSES = 64, 24, 5
NAMES = tuple(f"class {number}" for number in range(CLASSES))


def bank_of(*chosen: int, negatives: bool = False, shots: int = 4) -> MemoryBank:
    """Some of the classes that there are; the features of each are the same in any bank."""
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(CLASSES, shots, CHANNELS, generator=generator)
    features += 2 * torch.randn(CLASSES, 1, CHANNELS, generator=generator)
    wrong = torch.randn(CLASSES, 2, CHANNELS, generator=generator)
    return MemoryBank.from_means(
        [ClassLabel(number + 1, NAMES[number]) for number in chosen],
        [[(row, 1.0 + k) for k, row in enumerate(features[number])] for number in chosen],
        encoder={},
        reference_digest="",
        negatives=[[(row, 1.0) for row in wrong[number]] for number in chosen] if negatives else (),
    )


class RandomEncoder:
    """Each patch has the features that its mean colour drew."""

    name, image_size, patch_size, feature_dim = "random", SIDE, 8, CHANNELS

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        generator = torch.Generator().manual_seed(5)
        drawn = torch.randn(3, CHANNELS, generator=generator)
        grid = torch.nn.functional.adaptive_avg_pool2d(images, 8)
        return (8 * (grid - 0.5)).permute(0, 2, 3, 1).contiguous() @ drawn + 0.1


class RandomProposer:
    """Ellipses at places that the image's sum of pixels draws: some twice, one empty, one a dot."""

    image_size = SIDE
    device = torch.device("cpu")

    def __init__(self, count: int = 40) -> None:
        self._count = count

    def propose(self, images, min_predicted_iou, wanted=None) -> list[Proposals]:
        positions = range(len(images)) if wanted is None else wanted
        return [self._of(images[position], min_predicted_iou) for position in positions]

    def _of(self, image: torch.Tensor, min_predicted_iou: float) -> Proposals:
        generator = torch.Generator().manual_seed(int(1000 * float(image.sum())))
        count, side = self._count, SIDE // 2
        places = torch.rand(count, 2, generator=generator) * side
        radii = torch.rand(count, 2, generator=generator) * side / 3 + 1
        places[1::4], radii[1::4] = places[::4], radii[::4] * 1.02  # near doubles
        ticks = torch.arange(float(side))
        y = ((ticks - places[:, :1]) / radii[:, :1]).square()
        x = ((ticks - places[:, 1:]) / radii[:, 1:]).square()
        logits = 6 - 6 * (y[:, :, None] + x[:, None, :])
        logits[2], logits[3] = -1.0, -1.0
        logits[3, 7, 9] = 1e-3
        iou = torch.rand(count, generator=generator)
        iou[5] = iou[6] = iou[4]
        found = Proposals(logits, iou, torch.arange(count))
        return found.select(found.predicted_iou > min_predicted_iou)

    def halve_step(self) -> bool:
        return False
