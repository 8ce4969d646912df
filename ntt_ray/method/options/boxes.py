"""Boxes of a detector as prompts: SAM2 is asked what lies in them, besides or instead of a grid.

A box of an image at its own size becomes one of the square that SAM2 sees, and the score of the box
goes along with its mask. Which mask a box gets is the proposer's matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ntt_ray.errors import ConfigError
from ntt_ray.models.interfaces import BoxedProposer, Proposals, Proposer
from ntt_ray.records import ImageBoxes
from ntt_ray.settings import BoxSettings

NO_BOXES = ImageBoxes(np.zeros((0, 4), np.float32), np.zeros(0, np.float32))


class BoxPrompting:
    """Asks a proposer with boxes.

    Raises:
        ConfigError: when built with a proposer that cannot be asked with boxes.
    """

    def __init__(self, proposer: Proposer, settings: BoxSettings, *, grid: bool) -> None:
        """Ask nothing yet; `grid`: whether all of each image is looked at too."""
        if not isinstance(proposer, BoxedProposer):
            raise ConfigError(
                "the proposer does not fit the settings:",
                [
                    f"proposals.boxes: {type(proposer).__name__} cannot be asked with boxes; set "
                    "proposals.boxes to null, or take another proposer"
                ],
            )
        self._proposer, self._settings, self._grid = proposer, settings, grid
        self.score_power = settings.score_power

    def propose(
        self,
        inputs: Tensor,
        min_predicted_iou: float,
        wanted: Sequence[int],
        boxes: Sequence[ImageBoxes | None],
        sizes_hw: Sequence[tuple[int, int] | None],
    ) -> list[Proposals]:
        """Masks of each wanted image of a batch.

        Args:
            inputs: ``(B, 3, S, S)`` float32 in about [0, 1].
            min_predicted_iou: proposals have a predicted IoU above it, strictly.
            wanted: positions in the batch.
            boxes: by position in the batch; None and what is missing at the end is no box.
            sizes_hw: height and width of each original image, by position in the batch.
        """
        own = [(boxes[n] if n < len(boxes) else None) or NO_BOXES for n in wanted]
        side = self._proposer.image_size
        asked = [
            boxes_on_square(found, sizes_hw[n], side) for n, found in zip(wanted, own, strict=True)
        ]
        proposals = self._proposer.propose_in_boxes(
            inputs,
            min_predicted_iou,
            wanted,
            asked,
            prompt=self._settings.prompt,
            everywhere=self._grid,
        )
        if self.score_power is None:
            return proposals
        return [_with_scores(*pair) for pair in zip(proposals, own, strict=True)]


def boxes_on_square(boxes: ImageBoxes, size_hw: tuple[int, int] | None, side: int) -> Tensor:
    """Boxes of an image in pixels of the square that it is resized to: ``(N, 4)`` float32.

    >>> boxes = ImageBoxes(np.array([[0, 30, 20, 60]], np.float32), np.ones(1, np.float32))
    >>> boxes_on_square(boxes, (60, 40), 120).tolist()
    [[0.0, 60.0, 60.0, 120.0]]
    """
    height, width = size_hw or (side, side)
    scale = torch.tensor([side / width, side / height]).repeat(2)
    return torch.from_numpy(boxes.boxes_xyxy) * scale


def _with_scores(proposals: Proposals, boxes: ImageBoxes) -> Proposals:
    """Proposals of boxes alone, with the score of the box of each."""
    scores = torch.from_numpy(boxes.scores).to(proposals.index.device)
    return replace(proposals, objectness=scores[proposals.index])
