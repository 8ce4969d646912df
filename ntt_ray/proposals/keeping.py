"""Images to proposals that are kept: the part of labelling that knows no class.

What the models say is pooled, thinned and encoded; `matching` makes labels of it, here or later.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ntt_ray.images import RgbImage, resize_square
from ntt_ray.method.host import Host
from ntt_ray.method.masks_at_size import EncodedMask, as_rles, masks_to_encode
from ntt_ray.method.pooling import mean_patch_feature, pooled_features
from ntt_ray.method.suppression import inclusive_boxes
from ntt_ray.method.tiles import cut_off, views_of
from ntt_ray.method.tiling import view_squares
from ntt_ray.models.inputs import InputRing, to_input
from ntt_ray.models.interfaces import Encoder, Proposals, Proposer, encoded
from ntt_ray.proposals.fixed_point import to_fixed
from ntt_ray.proposals.kept import KeptView
from ntt_ray.proposals.matching import Matcher
from ntt_ray.proposals.thinning import thinned
from ntt_ray.records import Detection, Embedding, PromptWork, View
from ntt_ray.settings import MethodSettings

# what the host does for each image beside the device: one thread waits for it, these make strings
ENCODING_THREADS = 2
Views = tuple[KeptView, ...]


class Keeper:
    """Both models and what is asked of them; no bank.

    Attributes:
        takes_whole_images: whether `begin` wants images at their own size, for their tiles.
        strips: as of `Labeler`.
        fixed: whether features become integers, see `fixed_point`; else they stay float32.
    """

    strips: bool | None = None

    def __init__(
        self,
        encoder: Encoder,
        proposer: Proposer,
        settings: MethodSettings,
        max_iou: float | None,
        *,
        fixed: bool = True,
    ) -> None:
        self.encoder, self.proposer = encoder, proposer
        self.takes_whole_images = settings.tiles is not None
        self.fixed = fixed
        self._settings, self._max_iou = settings, max_iou
        self._host, self._ring = Host(), InputRing.to(proposer.device)
        self._encoding = ThreadPoolExecutor(ENCODING_THREADS, "encode")

    @torch.inference_mode()
    def begin(
        self, images_rgb: Sequence[RgbImage], sizes_hw: Sequence[tuple[int, int] | None]
    ) -> list[Future[Views]]:
        """Do the device's part; threads wait for it and encode.

        Args:
            images_rgb: uint8, images at the proposer's size, or at their own with tiles.
            sizes_hw: height and width of each original image; None, or a missing one at the end,
                marks a place that only keeps the batch full.

        Returns:
            For each of `sizes_hw` what will be its proposals, view by view.
        """
        if self.takes_whole_images:
            places = len(images_rgb)
            return [
                self._begin_tiles(image, size, places) for image, size in zip(images_rgb, sizes_hw)
            ]
        wanted = [n for n, size in enumerate(sizes_hw) if size is not None]
        views = {n: View(0, 0, size[1], size[0]) for n, size in enumerate(sizes_hw) if size}
        found = dict(zip(wanted, self._begin_views(images_rgb, [views[n] for n in wanted], wanted)))
        return [self._joined([found[n]] if n in found else []) for n in range(len(sizes_hw))]

    def _begin_tiles(
        self, image_rgb: RgbImage, size_hw: tuple[int, int] | None, places: int
    ) -> Future[Views]:
        tiles = self._settings.tiles
        assert tiles is not None
        if size_hw is None:
            return self._joined([])
        side = self.proposer.image_size
        views = views_of(size_hw, tiles.side or side, tiles.overlap)
        found = list[Future[KeptView]]()
        for start in range(0, len(views), places):
            part = views[start : start + places]
            squares = view_squares(image_rgb, part, side, places)
            found += self._begin_views(squares, part, range(len(part)), size_hw)
        return self._joined(found)

    def _begin_views(
        self,
        squares: Sequence[RgbImage],
        views: Sequence[View],
        wanted: Sequence[int],
        size_hw: tuple[int, int] | None = None,
    ) -> list[Future[KeptView]]:
        """Propose and pool in the views at some places of a batch; `size_hw` of tiles."""
        inputs = to_input(squares, self._ring)
        sizes_hw = dict(zip(wanted, (view.size_hw for view in views), strict=True))
        features = encoded(self.encoder, inputs, [sizes_hw.get(n) for n in range(len(squares))])
        threshold = self._settings.min_predicted_iou
        proposals = self.proposer.propose(inputs, threshold, wanted)
        found = []
        for position, view, proposed in zip(wanted, views, proposals, strict=True):
            own = features[position]
            pooled, mean = pooled_features(own, proposed.logits > 0), mean_patch_feature(own)
            staying = self._host.submit(
                inputs.device, self.staying, view, proposed, pooled, mean, size_hw
            )
            found.append(self._encoding.submit(_encoded, staying))
        return found

    def staying(
        self,
        view: View,
        proposals: Proposals,
        pooled: Tensor,
        mean: Tensor,
        size_hw: tuple[int, int] | None = None,
    ) -> Staying:
        """Leave out what no class could make a label of, and near doubles; waits for the device.

        Args:
            view: where the view lies in the image.
            proposals: N masks of the view.
            pooled: ``(N, C)`` float32, their features.
            mean: ``(C,)`` float32 of length 1, the mean feature of the whole view.
            size_hw: height and width of the image, where masks that a border of the view cuts are
                left out, too.
        """
        masks = proposals.logits > 0
        wanted = masks.flatten(1).any(dim=1)
        if size_hw is not None:
            wanted &= ~cut_off(masks, view, size_hw)
        proposals, pooled, masks = proposals.select(wanted), pooled[wanted], masks[wanted]
        boxes = inclusive_boxes(masks)
        stay = torch.from_numpy(thinned(masks, proposals.predicted_iou, boxes, self._max_iou))
        stay = stay.to(masks.device)
        proposals, pooled, boxes = proposals.select(stay), pooled[stay], boxes[stay]
        in_strips = proposals.logits.is_cuda if self.strips is None else self.strips
        every = torch.cat((pooled, mean[None]))  # one copy to the host
        features = (to_fixed(every) if self.fixed else every).cpu().numpy()
        return Staying(
            view=view,
            boxes_xyxy=boxes.cpu().numpy().astype(np.uint16),
            points=proposals.index.cpu().numpy().astype(np.int32),
            predicted_iou=proposals.predicted_iou.cpu().numpy(),
            features=features[:-1],
            mean_feature=features[-1],
            masks=masks_to_encode(proposals.logits, view.size_hw, in_strips).encoded(),
        )

    def _joined(self, found: Sequence[Future[KeptView]]) -> Future[Views]:
        return self._encoding.submit(lambda: tuple(view.result() for view in found))

    def keep(self, images_rgb: Sequence[RgbImage]) -> list[Views]:
        """Propose masks in decoded images, and encode what is kept of them.

        Args:
            images_rgb: uint8 ``(height, width, 3)`` each, RGB, of any sizes.

        Returns:
            For each image, in order, its views.
        """
        inputs = images_rgb
        if not self.takes_whole_images:
            inputs = [resize_square(image, self.proposer.image_size) for image in images_rgb]
        sizes_hw = [(image.shape[0], image.shape[1]) for image in images_rgb]
        return [found.result() for found in self.begin(inputs, sizes_hw)]

    def take_work(self) -> PromptWork:
        """No points are chosen where proposals are kept."""
        return PromptWork()


@dataclass(frozen=True)
class Staying:
    """The proposals of a view that stay, on the host; fields as of `KeptView`.

    Attributes:
        masks: as they come from the device, or as RLEs on the CPU.
    """

    view: View
    masks: Sequence[EncodedMask]
    boxes_xyxy: npt.NDArray[np.uint16]
    points: npt.NDArray[np.int32]
    predicted_iou: npt.NDArray[np.float32]
    features: npt.NDArray[np.int16] | npt.NDArray[np.float32]
    mean_feature: npt.NDArray[np.int16] | npt.NDArray[np.float32]

    def encoded(self) -> KeptView:
        """Masks as RLE strings, which needs no device."""
        masks = as_rles(self.masks, self.view.size_hw)
        return KeptView(
            view=self.view,
            boxes_xyxy=self.boxes_xyxy,
            points=self.points,
            predicted_iou=self.predicted_iou,
            areas=masks.areas,
            counts=tuple(rle["counts"] for rle in masks.rles),
            features=self.features,
            mean_feature=self.mean_feature,
        )


def _encoded(found: Future[Staying]) -> KeptView:
    return found.result().encoded()


class KeptLabeler:
    """A labeller for single images: keeps their proposals, and makes labels of what it kept."""

    def __init__(self, keeper: Keeper, matcher: Matcher) -> None:
        self._keeper, self._matcher = keeper, matcher

    def label(self, images_rgb: Sequence[RgbImage]) -> list[tuple[Detection, ...]]:
        """Label decoded images of any sizes; see `Labeler.label`."""
        return [found for found, _ in self.label_and_embed(images_rgb)]

    def label_and_embed(
        self, images_rgb: Sequence[RgbImage]
    ) -> list[tuple[tuple[Detection, ...], Embedding | None]]:
        """Label decoded images of any sizes; gives their embeddings, too, where they are wanted."""
        matcher = self._matcher
        return [
            (matcher.detections(views, image.shape[:2]), matcher.embedding(views))
            for views, image in zip(self._keeper.keep(images_rgb), images_rgb, strict=True)
        ]
