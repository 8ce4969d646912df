"""Large images by views: each is labelled like an image, and their masks are merged.

Which views there are is in `method.tiles`, what is done to each in `method.labeler`. An image with
one view gets the labels that it gets without tiles. This module does not know files, config or Ray.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ntt_ray.bank.memory import MemoryBank
from ntt_ray.images import RgbImage, resize_square
from ntt_ray.masks import Rle, placed_rles, rle_bbox_xywh
from ntt_ray.method.detections import BestMasks, nothing_found
from ntt_ray.method.labeler import MERGE_FACTOR, Labeler
from ntt_ray.method.masks_at_size import (
    EncodedMask,
    RleMasks,
    UncountedMasks,
    as_rles,
    masks_to_encode,
)
from ntt_ray.method.merging import merged_scores, weighted_scores
from ntt_ray.method.suppression import nms_order, ranking
from ntt_ray.method.tiles import DUPLICATES_IOU, cut_off, seen_finer, views_of
from ntt_ray.models.inputs import to_input
from ntt_ray.models.interfaces import Encoder, Proposer, encoded
from ntt_ray.records import Detection, PromptWork, View
from ntt_ray.settings import MethodSettings, TileSettings


class MaskValues(NamedTuple):
    """What merging has to know of N masks.

    Attributes:
        scores: ``(N,)`` float32, similarity to the best class.
        labels: ``(N,)`` int64, index of the best class.
        features: ``(N, C)`` float32 of length 1.
        predicted_iou: ``(N,)`` float32.
    """

    scores: Tensor
    labels: Tensor
    features: Tensor
    predicted_iou: Tensor

    def select(self, index: Tensor) -> MaskValues:
        """The values at the positions `index`, int64."""
        return MaskValues(*(field[index] for field in self))


@dataclass(frozen=True)
class ViewMasks:
    """What was found in one view, on the host.

    Attributes:
        view: where the view lies in the image.
        masks: N masks at the view's size; they may be empty there.
        found: what is known of each of them.
    """

    view: View
    masks: tuple[EncodedMask, ...]
    found: MaskValues

    @classmethod
    def of(cls, view: View, masks: RleMasks | UncountedMasks, found: MaskValues) -> ViewMasks:
        """Encode the masks and copy the values to the host, which waits for them."""
        return cls(view, masks.encoded(), MaskValues(*(field.cpu() for field in found)))

    def placed(self, size_hw: tuple[int, int]) -> tuple[list[Rle], MaskValues]:
        """The masks with a pixel as masks of the whole image, and what is known of them."""
        masks = as_rles(self.masks, self.view.size_hw)
        filled = np.flatnonzero(masks.areas)
        rles = [masks.rles[n] for n in filled]
        placed = placed_rles(rles, self.view.left, self.view.top, *size_hw)
        return placed, self.found.select(torch.from_numpy(filled))


class TiledLabeler:
    """A labeller for images at their own size, which are looked at view by view."""

    takes_whole_images = True

    def __init__(self, labeler: Labeler, settings: TileSettings) -> None:
        self.labeler, self.proposer = labeler, labeler.proposer
        self._side = settings.side or labeler.proposer.image_size
        self._overlap = settings.overlap

    def take_work(self) -> PromptWork:
        """See `Labeler.take_work`; each view counts."""
        return self.labeler.take_work()

    def label(self, images_rgb: Sequence[RgbImage]) -> list[tuple[Detection, ...]]:
        """Label decoded images of any sizes; see `Labeler.label`."""
        sizes_hw = [(image.shape[0], image.shape[1]) for image in images_rgb]
        return [found.result() for found in self.begin(images_rgb, sizes_hw)]

    @torch.inference_mode()
    def begin(
        self, images_rgb: Sequence[RgbImage], sizes_hw: Sequence[tuple[int, int] | None]
    ) -> list[Future[tuple[Detection, ...]]]:
        """Do the device's part of labelling; see `Labeler.begin`.

        As many views go through the models at once as there are images here, always.

        Args:
            images_rgb: uint8 ``(height, width, 3)`` each.
            sizes_hw: height and width of each image; None, or a missing one at the end, marks one
                that only keeps the batch full.
        """
        places = len(images_rgb)
        return [
            nothing_found() if size is None else self._begin(image, size, places)
            for image, size in zip(images_rgb, sizes_hw)
        ]

    def _begin(
        self, image_rgb: RgbImage, size_hw: tuple[int, int], places: int
    ) -> Future[tuple[Detection, ...]]:
        views = views_of(size_hw, self._side, self._overlap)
        if len(views) == 1:
            squares = view_squares(image_rgb, views, self.proposer.image_size, places)
            return self.labeler.begin(squares, [size_hw])[0]
        parts = [views[start : start + places] for start in range(0, len(views), places)]
        found = [m for part in parts for m in self._label_views(image_rgb, part, size_hw, places)]
        ids, device = self.labeler.category_ids, self.proposer.device
        return self.labeler.host.submit(
            device, _merged_in_turn, found, size_hw, self.labeler.settings, ids
        )

    def _label_views(
        self, image_rgb: RgbImage, views: Sequence[View], size_hw: tuple[int, int], places: int
    ) -> Iterator[Future[ViewMasks]]:
        """Propose, match and suppress in some views; what their borders cut is left out."""
        device, host = self.proposer.device, self.labeler.host
        inputs = to_input(
            view_squares(image_rgb, views, self.proposer.image_size, places), self.labeler.ring
        )
        features = encoded(self.labeler.encoder, inputs, [view.size_hw for view in views])
        proposals = self.labeler.propose(inputs, features, range(len(views)))
        for view, own, proposed in zip(views, features, proposals):
            candidates = self.labeler.match(own, proposed)
            whole = ~cut_off(candidates.proposals.logits > 0, view, size_hw)
            kept = self.labeler.confirm(own, self.labeler.suppress(candidates.select(whole)))
            logits = kept.proposals.logits
            masks = masks_to_encode(logits, view.size_hw, self.labeler.in_strips(logits))
            values = kept.scores, kept.labels, kept.features, kept.proposals.predicted_iou
            yield host.submit(device, ViewMasks.of, view, masks, MaskValues(*values))


def view_squares(
    image_rgb: RgbImage, views: Sequence[View], side: int, places: int
) -> list[RgbImage]:
    """Views at the models' input size, filled up with black to so many places.

    Args:
        image_rgb: uint8 ``(height, width, 3)``.
        views: rectangles of the image.
        side: side of the models' input in pixels.
        places: how many squares are wanted.
    """
    cut = [image_rgb[v.top : v.top + v.height, v.left : v.left + v.width] for v in views]
    black = np.zeros((side, side, 3), dtype=np.uint8)
    return [resize_square(part, side) for part in cut] + [black] * (places - len(cut))


def _merged_in_turn(
    found: Sequence[Future[ViewMasks]],
    size_hw: tuple[int, int],
    settings: MethodSettings,
    category_ids: Sequence[int],
) -> tuple[Detection, ...]:
    """See `merged_views`; the views were made before, in the thread of this call."""
    return merged_views([masks.result() for masks in found], size_hw, settings, category_ids)


def merged_views(
    views: Sequence[ViewMasks],
    size_hw: tuple[int, int],
    settings: MethodSettings,
    category_ids: Sequence[int],
    *,
    embeddings: bool = False,
) -> tuple[Detection, ...]:
    """NMS, the cut, merging and ranking of all views' masks, at the image's size.

    Before it, the finest of the views that show an object whole is chosen.

    Args:
        views: what was found in each view of the image.
        size_hw: height and width of the image.
        settings: the settings of the method.
        category_ids: the category id of each class, by its index.
        embeddings: whether detections get the features of their masks.
    """
    limit = settings.max_detections
    placed, values = zip(*(masks.placed(size_hw) for masks in views))
    rles = [rle for own in placed for rle in own]
    every = MaskValues(*(torch.cat(field) for field in zip(*values)))
    boxes = _inclusive_boxes(rles)
    view_of = torch.repeat_interleave(torch.tensor([len(own) for own in placed]))
    rectangles = [masks.view for masks in views]
    max_iou = settings.nms_iou
    duplicates = DUPLICATES_IOU if max_iou is None else max_iou
    finer = seen_finer(boxes, every.labels, view_of, rectangles, duplicates)
    left = torch.nonzero(~finer).squeeze(1)
    _, dense = torch.unique(every.labels[left], return_inverse=True)  # small: boxes stay exact
    order = nms_order(boxes[left], every.predicted_iou[left], dense, max_iou)
    order = left[order[: MERGE_FACTOR * limit]]
    masks, kept = RleMasks(tuple(rles)).select(order), every.select(order)
    power, wanted = settings.iou_power, limit if settings.iou_power is None else None
    scores = merged_scores(
        kept.scores, kept.labels, kept.features, masks.shares, settings.diffusion, wanted
    )
    scores = weighted_scores(scores, kept.predicted_iou, power)
    best = ranking(scores, order, limit)
    chosen = BestMasks(
        size_hw,
        masks.select(best),
        kept.labels[best],
        scores[best],
        kept.predicted_iou[best],
        settings.largest_component,
        kept.features[best] if embeddings else None,
    )
    return chosen.detections(category_ids)


def make_labeler(
    encoder: Encoder, proposer: Proposer, bank: MemoryBank, settings: MethodSettings
) -> Labeler | TiledLabeler:
    """The labeller that the settings ask for."""
    labeler = Labeler(encoder, proposer, bank, settings)
    return labeler if settings.tiles is None else TiledLabeler(labeler, settings.tiles)


def _inclusive_boxes(rles: Sequence[Rle]) -> Tensor:
    """Boxes ``(N, 4)`` float32 xyxy in pixels of the image, inclusive, as in METHOD 31."""
    boxes = torch.tensor([rle_bbox_xywh(rle) for rle in rles], dtype=torch.float32).view(-1, 4)
    return torch.cat((boxes[:, :2], boxes[:, :2] + boxes[:, 2:] - 1), dim=1)
