"""The end of the method, on the host: the best masks of an image become its detections."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import torch
from torch import Tensor

from ntt_ray.masks import Rle, rle_area, rle_bbox_xywh
from ntt_ray.method.masks_at_size import RleMasks, StripMasks, as_rle
from ntt_ray.records import Detection


@dataclass(frozen=True)
class BestMasks:
    """The masks that become detections, on the device still.

    Attributes:
        size_hw: height and width of the image.
        masks: F masks at that size.
        labels: ``(F,)`` int64 class indices.
        scores: ``(F,)`` float32, falling; those below 0 are no detections.
        predicted_iou: ``(F,)`` float32.
    """

    size_hw: tuple[int, int]
    masks: RleMasks | StripMasks
    labels: Tensor
    scores: Tensor
    predicted_iou: Tensor

    def detections(self, category_ids: Sequence[int]) -> tuple[Detection, ...]:
        """Fetch, encode and measure; waits for the device. None of the masks found may be empty."""
        masks = self.masks.encoded()
        values = torch.stack((self.scores, self.predicted_iou)).tolist()  # one copy
        found = zip(masks, self.labels.tolist(), *values, strict=True)
        return tuple(
            _detection(as_rle(mask, self.size_hw), category_ids[label], score, predicted_iou)
            for mask, label, score, predicted_iou in found
            if score >= 0
        )


def _detection(rle: Rle, category_id: int, score: float, predicted_iou: float) -> Detection:
    x, y, width, height = rle_bbox_xywh(rle)
    return Detection(
        category_id=category_id,
        score=min(1.0, score),
        predicted_iou=predicted_iou,
        bbox_xywh=(x, y, width, height),
        area=rle_area(rle),
        rle=rle,
    )


def nothing_found() -> Future[tuple[Detection, ...]]:
    """What an image without detections gives at once."""
    found: Future[tuple[Detection, ...]] = Future()
    found.set_result(())
    return found
