"""Images to labels, in the paper's order, on one page.

`Labeler.begin` is the whole way; the methods below it are its steps, in their order. The models
come by protocol (`models.interfaces`), the mathematics is in the modules beside this one, and
`METHOD.md` specifies both. This module does not know files, shards, the config or Ray.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ntt_ray.bank.memory import MemoryBank
from ntt_ray.images import RgbImage, resize_square
from ntt_ray.method.candidates import Candidates, Merged
from ntt_ray.method.detections import BestMasks, nothing_found
from ntt_ray.method.host import Host
from ntt_ray.method.masks_at_size import StripMasks, masks_at_size
from ntt_ray.method.merging import decayed_at_once, merged_scores, weighted_scores
from ntt_ray.method.options.averaging import averaged_masks
from ntt_ray.method.options.boxes import BoxPrompting
from ntt_ray.method.options.correspondence import Correspondence
from ntt_ray.method.options.prompting import Prompting
from ntt_ray.method.options.prototypes import clustered_prototypes
from ntt_ray.method.pooling import pooled_features
from ntt_ray.method.scoring import best_class, similarities
from ntt_ray.method.suppression import inclusive_boxes, nms_at_once, nms_order, ranking
from ntt_ray.models.inputs import InputRing, to_input
from ntt_ray.models.interfaces import Encoder, Proposals, Proposer, encoded
from ntt_ray.records import Detection, ImageBoxes, PromptWork
from ntt_ray.settings import BoxSettings, MethodSettings

MERGE_FACTOR = 8  # METHOD 32: masks that enter soft merging, per detection wanted


class Labeler:
    """Both models, the prototypes of a memory bank and the method's settings.

    Attributes:
        takes_whole_images: whether `begin` wants images at their own size, not at the proposer's.
        strips: how masks are made at the image's size (see `method.masks_at_size`): True in strips
            on the device, False as run lengths on the CPU, None by where the models run.
        host: a thread for what needs no device, or waits for it.
        ring: the way of images to the device; None on the CPU.

    Raises:
        ConfigError: when built with settings that the proposer cannot follow.
        InputError: when built with settings that need more of the references than the bank has.
    """

    takes_whole_images = False
    strips: bool | None = None

    def __init__(
        self,
        encoder: Encoder,
        proposer: Proposer,
        bank: MemoryBank,
        settings: MethodSettings | None = None,
        *,
        boxes: BoxSettings | None = None,
        grid: bool = True,
    ) -> None:
        """Join both models and the bank.

        Args:
            encoder: makes patch features.
            proposer: proposes masks.
            bank: the classes.
            settings: the settings of the method; None: the paper's.
            boxes: how the proposer is asked with the boxes that images come with; None: not.
            grid: with `boxes`, whether it is asked for all that an image shows, too.
        """
        self.encoder, self.proposer = encoder, proposer
        self.settings = settings or MethodSettings()
        self.category_ids = [label.category_id for label in bank.classes]
        prototypes, negatives = bank.targets()
        if self.settings.prototypes is not None:
            prototypes = clustered_prototypes(bank, self.settings.prototypes)
        self.prototypes = prototypes.to(proposer.device)
        self.negatives = None if negatives is None else negatives.to(proposer.device)
        checked = self.settings.correspondence
        self._correspondence = (
            None if checked is None else Correspondence(bank, checked, proposer.device)
        )
        prompts = self.settings.prompts
        self._prompting = None if prompts is None else Prompting(proposer, prompts)
        self._boxes = None if boxes is None else BoxPrompting(proposer, boxes, grid=grid)
        self.host, self.ring = Host(), InputRing.to(proposer.device)

    def label(
        self, images_rgb: Sequence[RgbImage], boxes: Sequence[ImageBoxes | None] = ()
    ) -> list[tuple[Detection, ...]]:
        """Label a batch of decoded images.

        Args:
            images_rgb: uint8 ``(height, width, 3)`` each, of any sizes.
            boxes: what a detector found in each, cut to it, for a labeller that asks with boxes.

        Returns:
            For each image its detections by falling score; none is a normal result.
        """
        resized = [resize_square(image, self.proposer.image_size) for image in images_rgb]
        sizes_hw = [(image.shape[0], image.shape[1]) for image in images_rgb]
        return [found.result() for found in self.begin(resized, sizes_hw, boxes)]

    @torch.inference_mode()
    def begin(
        self,
        resized_rgb: Sequence[RgbImage],
        sizes_hw: Sequence[tuple[int, int] | None],
        boxes: Sequence[ImageBoxes | None] = (),
    ) -> list[Future[tuple[Detection, ...]]]:
        """Do the device's part of labelling; a thread waits for it and makes the RLE strings.

        Args:
            resized_rgb: uint8 ``(S, S, 3)`` each, images at the proposer's size S.
            sizes_hw: height and width of each original image; None, or a missing one at the end,
                marks a place that only keeps the batch full, and gives no detections.
            boxes: what a detector found in each original image, cut to it; see `label`.

        Returns:
            For each of `sizes_hw` what will be its detections, by falling score; none is a normal
            result.
        """
        inputs = to_input(resized_rgb, self.ring)
        features = encoded(self.encoder, inputs, sizes_hw)
        wanted = [position for position, size in enumerate(sizes_hw) if size is not None]
        if self._boxes is None:
            proposals = self.propose(inputs, features, wanted)
        else:
            threshold = self.settings.min_predicted_iou
            proposals = self._boxes.propose(inputs, threshold, wanted, boxes, sizes_hw)
        found = [nothing_found()] * len(sizes_hw)
        for position, proposed in zip(wanted, proposals, strict=True):
            size_hw = sizes_hw[position]
            assert size_hw is not None
            best = self.best(features[position], proposed, size_hw)
            found[position] = self.host.submit(inputs.device, best.detections, self.category_ids)
        return found

    def propose(
        self, inputs: Tensor, features: Tensor | Sequence[Tensor], wanted: Sequence[int]
    ) -> list[Proposals]:
        """Masks of each wanted image of a batch, which have their features at the same positions.

        Where points are chosen by what the image shows, images go to the proposer one by one, so
        that what one gets does not depend on how many others have any.
        """
        threshold = self.settings.min_predicted_iou
        if self._prompting is None:
            return self.proposer.propose(inputs, threshold, wanted)
        found = []
        for position in wanted:
            own = features[position]
            patches = F.normalize(own.flatten(0, 1), dim=1)
            similarity = self.similarity(patches).view(*own.shape[:2], -1)
            found.append(self._prompting.propose(inputs[position], similarity, threshold))
        return found

    def best(self, features: Tensor, proposals: Proposals, size_hw: tuple[int, int]) -> BestMasks:
        """Match, suppress, merge and rank the proposals of one image; all stays on the device.

        Args:
            features: ``(h, w, C)`` patch features.
            proposals: masks above the predicted IoU threshold.
            size_hw: height and width of the image.
        """
        limit, power = self.settings.max_detections, self.settings.iou_power
        box_power = None if self._boxes is None else self._boxes.score_power
        as_merged = power is None and box_power is None  # the order after merging is the last one
        candidates = self.confirm(features, self.suppress(self.match(features, proposals)))
        merged = self.merge(candidates, size_hw, limit if as_merged else None)
        kept = merged.candidates
        scores = weighted_scores(merged.scores, kept.proposals.predicted_iou, power)
        if kept.proposals.objectness is not None:
            scores = weighted_scores(scores, kept.proposals.objectness, box_power)
        best = ranking(scores, kept.proposals.index, limit)
        masks, labels = merged.masks.select(best), kept.labels[best]
        predicted_iou, parts = kept.proposals.predicted_iou[best], self.settings.largest_component
        return BestMasks(size_hw, masks, labels, scores[best], predicted_iou, parts)

    def match(self, features: Tensor, proposals: Proposals) -> Candidates:
        """Pool features in each mask and take the most similar class; an empty mask scores 0."""
        pooled = pooled_features(features, proposals.logits > 0)
        return Candidates(proposals, pooled, *best_class(self.similarity(pooled)))

    def similarity(self, features: Tensor) -> Tensor:
        """Similarity of features ``(N, C)`` of length 1 to every class: ``(N, K)`` float32."""
        several = self.settings.prototypes
        temperature = None if several is None else several.temperature
        return similarities(features, self.prototypes, self.negatives, temperature)

    def suppress(self, candidates: Candidates) -> Candidates:
        """NMS, the cut, and only then the scores above 0 (METHOD 31, 32).

        Empty masks come last, so that they take no place of others. Where near doubles are
        averaged, that comes first.
        """
        candidates = self.average(candidates)
        logits, labels, scores = candidates.proposals.logits, candidates.labels, candidates.scores
        masks = logits > 0
        boxes, max_iou = inclusive_boxes(masks), self.settings.nms_iou
        iou = torch.where(masks.flatten(1).any(dim=1), candidates.proposals.predicted_iou, -1.0)
        limit = MERGE_FACTOR * self.settings.max_detections
        if self.in_strips(logits):
            kept = nms_at_once(boxes, iou, labels, max_iou, limit, scores > 0)
        else:
            kept = nms_order(boxes, iou, labels, max_iou)[:limit]
            kept = kept[scores[kept] > 0]
        return candidates.select(kept)

    def average(self, candidates: Candidates) -> Candidates:
        """Near doubles of a class as one, where the settings say so.

        It has the mean of their logits; all else is of the one with the highest predicted IoU.
        """
        if self.settings.averaging is None:
            return candidates
        proposals, min_iou = candidates.proposals, self.settings.averaging.min_iou
        kept, logits = averaged_masks(
            proposals.logits, proposals.predicted_iou, candidates.labels, min_iou
        )
        candidates = candidates.select(kept)
        return candidates._replace(proposals=replace(candidates.proposals, logits=logits))

    def confirm(self, features: Tensor, candidates: Candidates) -> Candidates:
        """Scores by what leads back to the references, where the settings say so.

        Suppression and its cut go by predicted IoU, so it is the same before and after them; after
        them there are fewer masks and classes to look at. What then has a score of 0 is left out,
        as it is there.
        """
        if self._correspondence is None:
            return candidates
        masks = candidates.proposals.logits > 0
        scores = self._correspondence.weighed(features, masks, candidates.labels, candidates.scores)
        return candidates._replace(scores=scores).select(torch.nonzero(scores > 0).squeeze(1))

    def merge(
        self, candidates: Candidates, size_hw: tuple[int, int], wanted: int | None = None
    ) -> Merged:
        """Soft merging at the image's size (METHOD 33, 34).

        A mask without a pixel at the image's size decays nobody. On the CPU it is dropped before;
        on a device, where looking would wait for it, its score becomes -1.

        Args:
            candidates: the candidates of the image, in NMS order.
            size_hw: height and width of the image.
            wanted: how many of the best are needed; None works out all scores.
        """
        logits = candidates.proposals.logits
        masks = masks_at_size(logits, size_hw, self.in_strips(logits))
        if isinstance(masks, StripMasks):
            return self._merged_on_device(candidates, masks)
        filled = torch.nonzero(masks.areas > 0).squeeze(1)
        candidates, masks = candidates.select(filled), masks.select(filled)
        _, features, scores, labels = candidates
        diffusion = self.settings.diffusion
        scores = merged_scores(scores, labels, features, masks.shares, diffusion, wanted)
        return Merged(candidates, masks, scores)

    def _merged_on_device(self, candidates: Candidates, masks: StripMasks) -> Merged:
        _, features, scores, labels = candidates
        if (diffusion := self.settings.diffusion) is None:
            scores = decayed_at_once(scores, labels, features, masks.all_shares())
        else:
            scores = merged_scores(scores, labels, features, masks.shares, diffusion)
        return Merged(candidates, masks, torch.where(masks.areas > 0, scores, -1.0))

    def in_strips(self, logits: Tensor) -> bool:
        """Whether masks are made in strips on the device; see `strips`."""
        return logits.is_cuda if self.strips is None else self.strips

    def take_work(self) -> PromptWork:
        """What choosing points has saved since this was asked last."""
        return PromptWork() if self._prompting is None else self._prompting.take_work()
