"""Images to labels, in the paper's order, on one page.

The models come by protocol; the mathematics is in `matching`. It does not know files, shards,
config or Ray.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ntt_ray.images import RgbImage, resize_square
from ntt_ray.masks import Rle, encode_masks, overlap_shares, rle_area, rle_bbox_xywh
from ntt_ray.matching.memory import MemoryBank
from ntt_ray.matching.pooling import pooled_features
from ntt_ray.matching.scoring import best_class, similarities
from ntt_ray.matching.suppression import inclusive_boxes, nms_order, ranking, soft_merge_decay
from ntt_ray.models.protocols import Encoder, Proposals, Proposer
from ntt_ray.records import Detection

MERGE_FACTOR = 8  # METHOD 32: masks that enter soft merging, per detection wanted
PIXELS_PER_STEP = 64 << 20  # of full-size logits held at once while masks are resized


@dataclass(frozen=True)
class MatchSettings:
    """The method's thresholds; defaults are the paper's.

    Attributes:
        min_predicted_iou: SAM2 masks must be above it, strictly. Lower finds more, costs time.
        nms_iou: boxes of a class above this IoU are duplicates. Higher keeps more of a crowd.
        max_detections: detections per image.
    """

    min_predicted_iou: float = 0.4
    nms_iou: float = 0.5
    max_detections: int = 100


@dataclass(frozen=True)
class Candidates:
    """Masks with their class, in NMS order once `Labeler.suppress` has run.

    Attributes:
        proposals: the masks, N of them.
        features: ``(N, C)`` float32, pooled, of length 1.
        similarity: ``(N, K)`` float32 to every class.
        scores: ``(N,)`` float32, similarity to the best class.
        labels: ``(N,)`` int64, index of the best class.
    """

    proposals: Proposals
    features: Tensor
    similarity: Tensor
    scores: Tensor
    labels: Tensor

    def select(self, index: Tensor) -> Candidates:
        """Keep some candidates, all fields alike."""
        return Candidates(
            self.proposals.select(index),
            self.features[index],
            self.similarity[index],
            self.scores[index],
            self.labels[index],
        )


@dataclass(frozen=True)
class Merged:
    """What soft merging makes of the candidates whose mask has a pixel at the image's size.

    Attributes:
        candidates: M of them, in NMS order.
        rles: their masks at the image's size.
        decay: ``(M,)`` float32 factors on the scores.
        scores: ``(M,)`` float32, decayed.
    """

    candidates: Candidates
    rles: tuple[Rle, ...]
    decay: Tensor
    scores: Tensor


class Labeler:
    """Both models, the prototypes of a memory bank and the thresholds."""

    def __init__(
        self,
        encoder: Encoder,
        proposer: Proposer,
        bank: MemoryBank,
        settings: MatchSettings | None = None,
    ) -> None:
        self.encoder, self.proposer = encoder, proposer
        self.settings = settings or MatchSettings()
        self.category_ids = [label.category_id for label in bank.classes]
        self.prototypes = bank.prototypes()

    @torch.inference_mode()
    def label(self, images_rgb: Sequence[RgbImage]) -> list[tuple[Detection, ...]]:
        """Label a batch of decoded images.

        Args:
            images_rgb: uint8 ``(height, width, 3)`` each, of any sizes.

        Returns:
            For each image its detections by falling score; none is a normal result.
        """
        inputs = to_input(images_rgb, self.proposer.image_size)
        features = self.encoder.encode(inputs)
        proposals = self.proposer.propose(inputs, self.settings.min_predicted_iou)
        return [
            self.detections(feats, props, (image.shape[0], image.shape[1]))
            for feats, props, image in zip(features, proposals, images_rgb, strict=True)
        ]

    def detections(
        self, features: Tensor, proposals: Proposals, size_hw: tuple[int, int]
    ) -> tuple[Detection, ...]:
        """Match, suppress, merge and rank the proposals of one image.

        Args:
            features: ``(h, w, C)`` patch features.
            proposals: masks above the predicted IoU threshold.
            size_hw: height and width of the image.
        """
        candidates = self.suppress(self.match(features, proposals))
        merged = self.merge(candidates, size_hw)
        point_index = merged.candidates.proposals.point_index
        best = ranking(merged.scores, point_index, self.settings.max_detections)
        return tuple(self._detection(merged, position) for position in best.tolist())

    def match(self, features: Tensor, proposals: Proposals) -> Candidates:
        """Pool features in each mask and take the most similar class; empty masks are dropped."""
        masks = proposals.logits > 0
        filled = masks.flatten(1).any(dim=1)
        proposals, masks = proposals.select(filled), masks[filled]
        pooled = pooled_features(features, masks)
        similarity = similarities(pooled, self.prototypes.to(pooled.device))
        return Candidates(proposals, pooled, similarity, *best_class(similarity))

    def suppress(self, candidates: Candidates) -> Candidates:
        """NMS, the cut, and only then the scores above 0 (METHOD 31, 32)."""
        proposals = candidates.proposals
        boxes = inclusive_boxes(proposals.logits > 0)
        kept = nms_order(boxes, proposals.predicted_iou, candidates.labels, self.settings.nms_iou)
        kept = kept[: MERGE_FACTOR * self.settings.max_detections]
        return candidates.select(kept[candidates.scores[kept] > 0])

    def merge(self, candidates: Candidates, size_hw: tuple[int, int]) -> Merged:
        """Masks at the image's size and soft merging (METHOD 33, 34).

        A mask without a pixel at the image's size is dropped before and decays nobody.
        """
        rles = full_size_rles(candidates.proposals.logits, size_hw)
        filled = [position for position, rle in enumerate(rles) if rle_area(rle) > 0]
        candidates = candidates.select(torch.tensor(filled, dtype=torch.int64))
        rles = [rles[position] for position in filled]
        shares = torch.zeros(len(rles), len(rles), dtype=torch.float64)
        for label in sorted(set(candidates.labels.tolist())):
            members = torch.nonzero(candidates.labels == label).squeeze(1)
            own = overlap_shares([rles[i] for i in members.tolist()])
            shares[members[:, None], members[None, :]] = torch.from_numpy(own)
        decay = soft_merge_decay(
            shares.to(candidates.features.device), candidates.features, candidates.labels
        )
        return Merged(candidates, tuple(rles), decay, candidates.scores * decay)

    def _detection(self, merged: Merged, position: int) -> Detection:
        rle = merged.rles[position]
        x, y, width, height = rle_bbox_xywh(rle)
        return Detection(
            category_id=self.category_ids[int(merged.candidates.labels[position])],
            score=min(1.0, float(merged.scores[position])),
            predicted_iou=float(merged.candidates.proposals.predicted_iou[position]),
            bbox_xywh=(x, y, width, height),
            area=rle_area(rle),
            rle=rle,
        )


def to_input(images_rgb: Sequence[RgbImage], side: int) -> Tensor:
    """Decoded images to the tensor both models start from (METHOD 16).

    Returns:
        ``(B, 3, side, side)`` float32 in [0, 1].
    """
    stacked = np.stack([resize_square(image, side) for image in images_rgb])
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).float() / 255


def full_size_rles(logits: Tensor, size_hw: tuple[int, int]) -> list[Rle]:
    """Resize logits ``(N, h, w)`` straight to the image's size, threshold, encode (METHOD 33)."""
    step = max(1, PIXELS_PER_STEP // (size_hw[0] * size_hw[1]))
    rles: list[Rle] = []
    for start in range(0, len(logits), step):
        resized = F.interpolate(
            logits[None, start : start + step],
            size=size_hw,
            mode="bilinear",
            align_corners=False,
            antialias=True,
        )
        rles += encode_masks((resized[0] > 0).cpu().numpy())
    return rles
