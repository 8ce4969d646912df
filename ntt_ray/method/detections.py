"""The end of the method, on the host: the best masks of an image become its detections."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import torch
from torch import Tensor

from ntt_ray.masks import rle_area, rle_bbox_xywh
from ntt_ray.method.masks_at_size import EncodedMask, as_rle
from ntt_ray.records import Detection


@dataclass(frozen=True)
class BestMasks:
    """The masks that become detections; all that a device had to do is done.

    Attributes:
        size_hw: height and width of the image.
        masks: F masks at that size.
        labels: F class indices.
        scores: F scores, falling.
        predicted_iou: F predicted IoUs.
    """

    size_hw: tuple[int, int]
    masks: tuple[EncodedMask, ...]
    labels: list[int]
    scores: list[float]
    predicted_iou: list[float]

    @classmethod
    def of(
        cls,
        size_hw: tuple[int, int],
        masks: tuple[EncodedMask, ...],
        labels: Tensor,
        scores: Tensor,
        predicted_iou: Tensor,
    ) -> BestMasks:
        """Copy the values of the masks, ``(F,)`` each, to the host; scores below 0 are left out."""
        numbers = torch.stack((scores, predicted_iou))  # one copy, which waits for the device
        on_host, ious = numbers.tolist()
        found = sum(score >= 0 for score in on_host)
        return cls(size_hw, masks[:found], labels.tolist()[:found], on_host[:found], ious[:found])

    def detections(self, category_ids: Sequence[int]) -> tuple[Detection, ...]:
        """Encode what is not encoded yet, and measure; none of the masks may be empty."""
        return tuple(self._detection(n, category_ids[label]) for n, label in enumerate(self.labels))

    def _detection(self, position: int, category_id: int) -> Detection:
        rle = as_rle(self.masks[position], self.size_hw)
        x, y, width, height = rle_bbox_xywh(rle)
        return Detection(
            category_id=category_id,
            score=min(1.0, self.scores[position]),
            predicted_iou=self.predicted_iou[position],
            bbox_xywh=(x, y, width, height),
            area=rle_area(rle),
            rle=rle,
        )


def nothing_found() -> Future[tuple[Detection, ...]]:
    """What an image without detections gives at once."""
    found: Future[tuple[Detection, ...]] = Future()
    found.set_result(())
    return found
