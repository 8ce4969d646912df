"""The end of the method, on the host: the best masks of an image become its detections."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import torch
from torch import Tensor

from ntt_ray.method.masks_at_size import RleMasks, StripMasks, as_rles
from ntt_ray.method.options.components import without_small_parts
from ntt_ray.records import Detection
from ntt_ray.settings import ComponentSettings


@dataclass(frozen=True)
class BestMasks:
    """The masks that become detections, on the device still.

    Attributes:
        size_hw: height and width of the image.
        masks: F masks at that size.
        labels: ``(F,)`` int64 class indices.
        scores: ``(F,)`` float32, falling; those below 0 are no detections.
        predicted_iou: ``(F,)`` float32.
        parts: which parts of the masks stay; None: all.
        features: ``(F, C)`` float32 or float64 of length 1, which the detections get as their
            embeddings; None: they get none.
    """

    size_hw: tuple[int, int]
    masks: RleMasks | StripMasks
    labels: Tensor
    scores: Tensor
    predicted_iou: Tensor
    parts: ComponentSettings | None = None
    features: Tensor | None = None

    def detections(self, category_ids: Sequence[int]) -> tuple[Detection, ...]:
        """Fetch, encode and measure; waits for the device. None of the masks found may be empty."""
        encoded = self.masks.encoded()
        if self.parts is None:
            masks = as_rles(encoded, self.size_hw)
        else:
            masks = without_small_parts(encoded, self.size_hw, self.parts)
        scores, ious = torch.stack((self.scores, self.predicted_iou)).tolist()  # one copy
        boxes, areas = masks.boxes_xywh.astype(float).tolist(), masks.areas.tolist()
        features = self.features
        embeddings = [None] * len(boxes) if features is None else features.float().cpu().numpy()
        return tuple(
            Detection(
                category_id=category_ids[label],
                score=min(1.0, score),
                predicted_iou=predicted_iou,
                bbox_xywh=tuple(box),
                area=area,
                rle=rle,
                embedding=embedding,
            )
            for label, score, predicted_iou, box, area, rle, embedding in zip(
                *(self.labels.tolist(), scores, ious, boxes, areas, masks.rles, embeddings),
                strict=True,
            )
            if score >= 0
        )


def nothing_found() -> Future[tuple[Detection, ...]]:
    """What an image without detections gives at once."""
    found: Future[tuple[Detection, ...]] = Future()
    found.set_result(())
    return found
