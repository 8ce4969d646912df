"""Prompts only where an image resembles a class: fewer points are asked, and time is saved.

The similarity is that of patches to the same prototypes that masks are compared with. A point
counts the patches around it too, since an object's middle may lie beside its clearest part.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ntt_ray.errors import ConfigError
from ntt_ray.models.interfaces import PromptableProposer, Proposals, Proposer
from ntt_ray.records import PromptWork
from ntt_ray.settings import PromptSettings

NEIGHBOURHOOD = 3  # side in patches of the square around a point that counts


class Prompting:
    """Asks a proposer at promising points only, and counts what that saves.

    Raises:
        ConfigError: when built with a proposer that cannot be asked at points.
    """

    def __init__(self, proposer: Proposer, settings: PromptSettings) -> None:
        if not isinstance(proposer, PromptableProposer):
            raise ConfigError(
                "the proposer does not fit the settings:",
                [
                    f"method.prompts: {type(proposer).__name__} looks at whole images and cannot "
                    "be asked at points; set method.prompts to null, or take another proposer"
                ],
            )
        self._proposer = proposer
        self._min_similarity = settings.min_similarity
        self._work = PromptWork()

    def propose(self, image: Tensor, similarity: Tensor, min_predicted_iou: float) -> Proposals:
        """Proposals at the promising points of one image.

        Args:
            image: ``(3, S, S)`` float32 in about [0, 1].
            similarity: ``(h, w, K)``, similarity of each of its patches to each class, 0 to 1.
            min_predicted_iou: proposals have a predicted IoU above it, strictly.
        """
        grid, side = self._proposer.points, self._proposer.image_size
        points = promising_points(similarity, grid, side, self._min_similarity)
        self._work = self._work.plus(len(grid), len(points))
        return self._proposer.propose_at(image, min_predicted_iou, points)

    def take_work(self) -> PromptWork:
        """What choosing points has saved since this was asked last."""
        done, self._work = self._work, PromptWork()
        return done


def promising_points(
    similarity: Tensor, points: Tensor, image_size: int, min_similarity: float
) -> Tensor:
    """Points near a patch that resembles a class.

    Args:
        similarity: ``(h, w, K)``, similarity of each patch to each class, 0 to 1.
        points: ``(P, 2)`` float32 (x, y) in pixels of a square input.
        image_size: side of that input in pixels.
        min_similarity: similarity that the best of the patches around a point must have at least.

    Returns:
        Positions of those points, int64, rising.
    """
    height, width = similarity.shape[:2]
    best = similarity.amax(dim=2)[None, None]
    around = F.max_pool2d(best, NEIGHBOURHOOD, stride=1, padding=NEIGHBOURHOOD // 2)[0, 0]
    column = (points[:, 0] * (width / image_size)).long().clamp(0, width - 1)
    row = (points[:, 1] * (height / image_size)).long().clamp(0, height - 1)
    return torch.nonzero(around[row, column] >= min_similarity).squeeze(1)
