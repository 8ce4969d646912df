"""A proposer without a grid of points: it looks at whole images and proposes what is coloured."""

from __future__ import annotations

import torch

from ntt_ray.models.interfaces import Proposals


class ColourProposer:
    """Proposes what is red and what is green, at the size of its input; notes how many it got."""

    image_size = 32
    device = torch.device("cpu")

    def __init__(self) -> None:
        self.batches: list[int] = []

    def propose(self, images, min_predicted_iou, wanted=None) -> list[Proposals]:
        self.batches.append(len(images))
        positions = range(len(images)) if wanted is None else wanted
        return [self._of(images[position], min_predicted_iou) for position in positions]

    def _of(self, image: torch.Tensor, min_predicted_iou: float) -> Proposals:
        found = Proposals((image[:2] - 0.5) * 20, torch.tensor([0.9, 0.8]), torch.arange(2))
        return found.select(found.predicted_iou > min_predicted_iou)

    def halve_step(self) -> bool:
        return False
