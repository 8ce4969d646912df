"""Images to labels, in the paper's order, on one page.

The models come by protocol; the mathematics is in `matching`. It does not know files, shards,
config or Ray.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from ntt_ray.bank.memory import MemoryBank
from ntt_ray.images import RgbImage, resize_square
from ntt_ray.masks import Rle, rle_area, rle_bbox_xywh, runs_to_rle
from ntt_ray.method.merging import (
    full_size_rles,
    merged_scores,
    rle_shares,
    strip_areas,
    strip_runs,
    strip_shares,
)
from ntt_ray.method.options.prompting import promising_points
from ntt_ray.method.options.prototypes import clustered_prototypes
from ntt_ray.method.pooling import pooled_features
from ntt_ray.method.scoring import best_class, similarities
from ntt_ray.method.suppression import inclusive_boxes, nms_order, ranking
from ntt_ray.models.interfaces import Encoder, Proposals, Proposer
from ntt_ray.records import Detection, PromptWork
from ntt_ray.settings import MethodSettings

# an RLE, or, off the device, the positions where a mask changes (see `strip_runs`)
EncodedMask = Rle | npt.NDArray[np.int64]
MERGE_FACTOR = 8  # METHOD 32: masks that enter soft merging, per detection wanted


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
        areas: ``(M,)`` int64, pixels at the image's size.
        scores: ``(M,)`` float32, decayed; -1 where a mask cannot be among those wanted.
        rles: their masks at the image's size, where these were needed on the way.
    """

    candidates: Candidates
    areas: Tensor
    scores: Tensor
    rles: tuple[Rle, ...] | None


@dataclass(frozen=True)
class BestMasks:
    """The masks that become detections, on the host: all that a device had to do is done.

    Attributes:
        size_hw: height and width of the image.
        masks: F of them.
        labels: F class indices.
        figures: F pairs of score and predicted IoU, by falling score.
    """

    size_hw: tuple[int, int]
    masks: tuple[EncodedMask, ...]
    labels: list[int]
    figures: list[list[float]]

    def detections(self, category_ids: Sequence[int]) -> tuple[Detection, ...]:
        """Encode what is not encoded yet, and measure."""
        return tuple(
            to_detection(as_rle(mask, self.size_hw), category_ids[label], *figure)
            for mask, label, figure in zip(self.masks, self.labels, self.figures, strict=True)
        )


class Labeler:
    """Both models, the prototypes of a memory bank and the thresholds.

    Attributes:
        takes_whole_images: `begin` wants images at the proposer's size, not at their own.
        strips: how masks are merged (see `matching.merging`): True in strips on the device, False
            as run lengths on the CPU, None by where the models run.
        host: a thread for what needs no device.
    """

    takes_whole_images = False
    strips: bool | None = None

    def __init__(
        self,
        encoder: Encoder,
        proposer: Proposer,
        bank: MemoryBank,
        settings: MethodSettings | None = None,
    ) -> None:
        self.encoder, self.proposer = encoder, proposer
        self.settings = settings or MethodSettings()
        self.category_ids = [label.category_id for label in bank.classes]
        self.prototypes, self.negatives = bank.targets()
        if self.settings.prototypes is not None:
            self.prototypes = clustered_prototypes(bank, self.settings.prototypes)
        self.host = ThreadPoolExecutor(1, thread_name_prefix="rle")
        self._work = PromptWork()

    def label(self, images_rgb: Sequence[RgbImage]) -> list[tuple[Detection, ...]]:
        """Label a batch of decoded images.

        Args:
            images_rgb: uint8 ``(height, width, 3)`` each, of any sizes.

        Returns:
            For each image its detections by falling score; none is a normal result.
        """
        resized = [resize_square(image, self.proposer.image_size) for image in images_rgb]
        return self.label_inputs(resized, [(i.shape[0], i.shape[1]) for i in images_rgb])

    def label_inputs(
        self, resized_rgb: Sequence[RgbImage], sizes_hw: Sequence[tuple[int, int] | None]
    ) -> list[tuple[Detection, ...]]:
        """Label images that were brought to the proposer's size already; see `begin`."""
        return [found.result() for found in self.begin(resized_rgb, sizes_hw)]

    @torch.inference_mode()
    def begin(
        self, resized_rgb: Sequence[RgbImage], sizes_hw: Sequence[tuple[int, int] | None]
    ) -> list[Future[tuple[Detection, ...]]]:
        """Do the device's part of labelling; a thread makes the RLE strings meanwhile.

        Args:
            resized_rgb: uint8 ``(S, S, 3)`` each.
            sizes_hw: height and width of each original image; None, or a missing one at the end,
                marks a place that only keeps the batch full, and gives no detections.

        Returns:
            For each of `sizes_hw` what will be its detections, by falling score; none is a normal
            result.
        """
        inputs = to_input(resized_rgb, self.proposer.device)
        features = self.encoder.encode(inputs)
        wanted = [position for position, size in enumerate(sizes_hw) if size is not None]
        proposals = self.propose(inputs, features, wanted)
        found = [nothing_found()] * len(sizes_hw)
        for position, proposed in zip(wanted, proposals, strict=True):
            size_hw = sizes_hw[position]
            assert size_hw is not None
            best = self.best(features[position], proposed, size_hw)
            found[position] = self.host.submit(best.detections, self.category_ids)
        return found

    def propose(self, inputs: Tensor, features: Tensor, wanted: Sequence[int]) -> list[Proposals]:
        """Masks of each wanted image of a batch.

        Where points are chosen by what the image shows, images go to the proposer one by one, so
        that what one gets does not depend on how many others have any.
        """
        threshold, prompts = self.settings.min_predicted_iou, self.settings.prompts
        if prompts is None:
            return self.proposer.propose(inputs, threshold, wanted)
        grid, side = self.proposer.points, self.proposer.image_size
        found = []
        for position in wanted:
            patches = F.normalize(features[position].flatten(0, 1), dim=1)
            similarity = self._similarity(patches).view(*features.shape[1:3], -1)
            points = promising_points(similarity, grid, side, prompts.min_similarity)
            self._work = self._work.plus(len(grid), len(points))
            found += self.proposer.propose(inputs[position][None], threshold, points=points)
        return found

    def take_work(self) -> PromptWork:
        """What choosing points has saved since this was asked last."""
        done, self._work = self._work, PromptWork()
        return done

    def best(self, features: Tensor, proposals: Proposals, size_hw: tuple[int, int]) -> BestMasks:
        """Match, suppress, merge and rank the proposals of one image.

        Args:
            features: ``(h, w, C)`` patch features.
            proposals: masks above the predicted IoU threshold.
            size_hw: height and width of the image.
        """
        merged = self.merge(
            self.suppress(self.match(features, proposals)), size_hw, self.settings.max_detections
        )
        kept = merged.candidates.proposals
        best = ranking(merged.scores, kept.point_index, self.settings.max_detections)
        masks: tuple[EncodedMask, ...]
        if merged.rles is None:
            masks = strip_runs(kept.logits[best], size_hw)
        else:
            masks = tuple(merged.rles[position] for position in best.tolist())
        return BestMasks(
            size_hw=size_hw,
            masks=masks,
            labels=merged.candidates.labels[best].tolist(),
            figures=torch.stack((merged.scores[best], kept.predicted_iou[best]), dim=1).tolist(),
        )

    def match(self, features: Tensor, proposals: Proposals) -> Candidates:
        """Pool features in each mask and take the most similar class; empty masks are dropped."""
        masks = proposals.logits > 0
        filled = masks.flatten(1).any(dim=1)
        proposals, masks = proposals.select(filled), masks[filled]
        pooled = pooled_features(features, masks)
        similarity = self._similarity(pooled)
        return Candidates(proposals, pooled, similarity, *best_class(similarity))

    def _similarity(self, features: Tensor) -> Tensor:
        """Of features ``(N, C)`` of length 1 to every class."""
        device, several = features.device, self.settings.prototypes
        negatives = None if self.negatives is None else self.negatives.to(device)
        temperature = None if several is None else several.temperature
        return similarities(features, self.prototypes.to(device), negatives, temperature)

    def suppress(self, candidates: Candidates) -> Candidates:
        """NMS, the cut, and only then the scores above 0 (METHOD 31, 32)."""
        proposals = candidates.proposals
        boxes = inclusive_boxes(proposals.logits > 0)
        kept = nms_order(boxes, proposals.predicted_iou, candidates.labels, self.settings.nms_iou)
        kept = kept[: MERGE_FACTOR * self.settings.max_detections]
        return candidates.select(kept[candidates.scores[kept] > 0])

    def merge(
        self, candidates: Candidates, size_hw: tuple[int, int], wanted: int | None = None
    ) -> Merged:
        """Soft merging at the image's size (METHOD 33, 34); see `matching.merging`.

        A mask without a pixel at the image's size is dropped before and decays nobody.

        Args:
            candidates: in NMS order.
            size_hw: height and width of the image.
            wanted: how many of the best are needed; None works out all scores.
        """
        logits = candidates.proposals.logits
        rles = None if self._in_strips(logits) else full_size_rles(logits, size_hw)
        if rles is None:
            areas = strip_areas(logits, size_hw)
        else:
            areas = torch.tensor([rle_area(rle) for rle in rles], dtype=torch.int64)
        filled = torch.nonzero(areas > 0).squeeze(1)
        candidates, areas = candidates.select(filled), areas[filled]
        if rles is None:
            shares = strip_shares(candidates.proposals.logits, size_hw, areas)
        else:
            rles = [rles[position] for position in filled.tolist()]
            shares = rle_shares(rles)
        scores = merged_scores(
            candidates.scores,
            candidates.labels,
            candidates.features,
            shares,
            self.settings.diffusion,
            wanted,
        )
        return Merged(candidates, areas, scores, None if rles is None else tuple(rles))

    def encoded(self, logits: Tensor, size_hw: tuple[int, int]) -> tuple[EncodedMask, ...]:
        """Masks at the image's size, in a form the host can finish; see `BestMasks`."""
        if self._in_strips(logits):
            return strip_runs(logits, size_hw)
        return tuple(full_size_rles(logits, size_hw))

    def _in_strips(self, logits: Tensor) -> bool:
        return logits.is_cuda if self.strips is None else self.strips


def nothing_found() -> Future[tuple[Detection, ...]]:
    """What an image without detections gives at once."""
    found: Future[tuple[Detection, ...]] = Future()
    found.set_result(())
    return found


def as_rle(mask: EncodedMask, size_hw: tuple[int, int]) -> Rle:
    """Finish a mask that a device began."""
    return runs_to_rle(mask, *size_hw) if isinstance(mask, np.ndarray) else mask


def to_detection(rle: Rle, category_id: int, score: float, predicted_iou: float) -> Detection:
    """A detection of a mask that is not empty."""
    x, y, width, height = rle_bbox_xywh(rle)
    return Detection(
        category_id=category_id,
        score=min(1.0, score),
        predicted_iou=predicted_iou,
        bbox_xywh=(x, y, width, height),
        area=rle_area(rle),
        rle=rle,
    )


def to_input(resized_rgb: Sequence[RgbImage], device: torch.device | None = None) -> Tensor:
    """Images at the proposer's size to the tensor both models start from (METHOD 16).

    The bytes travel to the device, a quarter of what the float values would be.

    Returns:
        ``(B, 3, S, S)`` float32 in [0, 1].
    """
    stacked = torch.from_numpy(np.stack(resized_rgb))
    if device is not None and device.type == "cuda":
        stacked = stacked.pin_memory().to(device, non_blocking=True)
    return stacked.permute(0, 3, 1, 2).contiguous().float() / 255
