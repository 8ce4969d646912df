"""Large images by views: each is labelled like an image, and their masks are merged.

Which views there are is in `matching.tiles`, what is done to each in `labeler`. An image with one
view gets the labels that it gets without tiles. This module does not know files, config or Ray.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ntt_ray.bank.memory import MemoryBank
from ntt_ray.images import RgbImage, resize_square
from ntt_ray.masks import Rle, placed_rles, rle_area, rle_bbox_xywh
from ntt_ray.method.labeler import (
    MERGE_FACTOR,
    EncodedMask,
    Labeler,
    as_rle,
    nothing_found,
    to_detection,
    to_input,
)
from ntt_ray.method.merging import merged_scores, rle_shares
from ntt_ray.method.suppression import nms_order, ranking
from ntt_ray.method.tiles import View, cut_off, views_of
from ntt_ray.models.interfaces import Encoder, Proposer
from ntt_ray.records import Detection, PromptWork
from ntt_ray.settings import MethodSettings, TileSettings


@dataclass(frozen=True)
class ViewMasks:
    """What was found in one view, on the host.

    Attributes:
        view: where it lies in the image.
        masks: N of them at the view's size; they may be empty there.
        features: ``(N, C)`` float32 of length 1.
        scores: ``(N,)`` float32, similarity to the best class.
        labels: ``(N,)`` int64, index of the best class.
        predicted_iou: ``(N,)`` float32.
    """

    view: View
    masks: tuple[EncodedMask, ...]
    features: Tensor
    scores: Tensor
    labels: Tensor
    predicted_iou: Tensor

    def filled(self, size_hw: tuple[int, int]) -> tuple[list[Rle], Tensor]:
        """Masks with a pixel as masks of the whole image, and which they are."""
        rles = [as_rle(mask, self.view.size_hw) for mask in self.masks]
        index = [n for n, rle in enumerate(rles) if rle_area(rle) > 0]
        placed = placed_rles([rles[n] for n in index], self.view.left, self.view.top, *size_hw)
        return placed, torch.tensor(index, dtype=torch.int64)


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
            squares = self._squares(image_rgb, views, places)
            return self.labeler.begin(squares, [size_hw])[0]
        found = [
            masks
            for start in range(0, len(views), places)
            for masks in self._label_views(
                image_rgb, views[start : start + places], size_hw, places
            )
        ]
        return self.labeler.host.submit(self._merge, found, size_hw)

    def _squares(self, image_rgb: RgbImage, views: Sequence[View], places: int) -> list[RgbImage]:
        """Views at the models' input size, filled up with black."""
        side = self.proposer.image_size
        cut = [image_rgb[v.top : v.top + v.height, v.left : v.left + v.width] for v in views]
        black = np.zeros((side, side, 3), dtype=np.uint8)
        return [resize_square(part, side) for part in cut] + [black] * (places - len(cut))

    def _label_views(
        self, image_rgb: RgbImage, views: Sequence[View], size_hw: tuple[int, int], places: int
    ) -> Iterator[ViewMasks]:
        """Propose, match and suppress in some views; what their borders cut is left out."""
        inputs = to_input(self._squares(image_rgb, views, places), self.proposer.device)
        features = self.labeler.encoder.encode(inputs)
        proposals = self.labeler.propose(inputs, features, range(len(views)))
        for view, own, proposed in zip(views, features, proposals):
            candidates = self.labeler.match(own, proposed)
            whole = ~cut_off(candidates.proposals.logits > 0, view, size_hw)
            kept = self.labeler.suppress(candidates.select(whole))
            yield ViewMasks(
                view,
                self.labeler.encoded(kept.proposals.logits, view.size_hw),
                kept.features.cpu(),
                kept.scores.cpu(),
                kept.labels.cpu(),
                kept.proposals.predicted_iou.cpu(),
            )

    @torch.inference_mode()
    def _merge(self, found: Sequence[ViewMasks], size_hw: tuple[int, int]) -> tuple[Detection, ...]:
        """NMS, the cut, merging and ranking of all views' masks, at the image's size."""
        settings = self.labeler.settings
        rles: list[Rle] = []
        kept: list[tuple[Tensor, ...]] = []
        for masks in found:
            placed, index = masks.filled(size_hw)
            rles += placed
            fields = masks.scores, masks.labels, masks.features, masks.predicted_iou
            kept.append(tuple(field[index] for field in fields))
        scores, labels, features, predicted_iou = (torch.cat(field) for field in zip(*kept))
        _, dense = torch.unique(labels, return_inverse=True)  # small ones keep boxes exact there
        order = nms_order(_inclusive_boxes(rles), predicted_iou, dense, settings.nms_iou)
        order = order[: MERGE_FACTOR * settings.max_detections]
        rles = [rles[position] for position in order.tolist()]
        scores, labels, features, predicted_iou = (
            field[order] for field in (scores, labels, features, predicted_iou)
        )
        scores = merged_scores(
            scores, labels, features, rle_shares(rles), settings.diffusion, settings.max_detections
        )
        best = ranking(scores, order, settings.max_detections).tolist()
        return tuple(
            to_detection(
                rles[n],
                self.labeler.category_ids[int(labels[n])],
                float(scores[n]),
                float(predicted_iou[n]),
            )
            for n in best
        )


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
