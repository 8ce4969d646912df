"""Kept proposals to labels, on the CPU: what labelling and matching again both do.

The steps are the method's own (`method.labeler`, `method.tiling`), from matching on. Features that
are integers are compared exactly, and what follows is computed in float64 by functions that give
the same bits anywhere (`fixed_point`, `method.portable`): an image has the same labels whatever the
processor, and whatever is matched beside it.
"""

from __future__ import annotations

import numpy as np
import torch

from ntt_ray.bank.memory import MemoryBank
from ntt_ray.errors import ConfigError
from ntt_ray.method.detections import BestMasks
from ntt_ray.method.labeler import MERGE_FACTOR
from ntt_ray.method.masks_at_size import RleMasks
from ntt_ray.method.merging import merged_scores, weighted_scores
from ntt_ray.method.options.prototypes import clustered_prototypes
from ntt_ray.method.scoring import best_class, similarities
from ntt_ray.method.suppression import nms_order, ranking
from ntt_ray.method.tiling import MaskValues, ViewMasks, merged_views
from ntt_ray.proposals.fixed_point import from_fixed, to_fixed
from ntt_ray.proposals.kept import ImageProposals, KeptView
from ntt_ray.records import Detection, Embedding, ImageLabels
from ntt_ray.settings import MethodSettings


class Matcher:
    """A memory bank and the settings of the method, as far as they need no image.

    Args:
        bank: the classes.
        settings: the settings of the method; `min_predicted_iou` may be raised, not lowered.
        fixed: whether features are integers, as stored; else float32, as the models give them.
        embeddings: whether images and detections get the features that were kept of them.

    Raises:
        ConfigError: when built with an option that needs what is not kept.
    """

    def __init__(
        self,
        bank: MemoryBank,
        settings: MethodSettings,
        *,
        fixed: bool = True,
        embeddings: bool = False,
    ) -> None:
        reasons = settings.unlike_kept()
        reasons.pop("prompts", None)  # they were asked for, or not, when proposals were made
        if reasons:
            raise ConfigError(
                "the settings do not fit kept proposals:",
                [f"method.{name}: {why}" for name, why in reasons.items()],
            )
        self._settings, self._fixed, self.embeddings = settings, fixed, embeddings
        self._category_ids = [label.category_id for label in bank.classes]
        if fixed:
            bank = bank.double()
        prototypes, negatives = bank.targets()
        if settings.prototypes is not None:
            prototypes = clustered_prototypes(bank, settings.prototypes)
        if fixed:
            prototypes = from_fixed(to_fixed(prototypes))
            negatives = None if negatives is None else from_fixed(to_fixed(negatives))
        self._prototypes, self._negatives = prototypes, negatives

    def labels(self, image: ImageProposals) -> ImageLabels:
        """The row of labels that the row of proposals gives."""
        if image.height is None or image.width is None or image.error is not None:
            return ImageLabels.failed(image.entry, str(image.error), image.failure)
        size_hw = image.height, image.width
        found = self.detections(image.views, size_hw)
        embedding = self.embedding(image.views)
        return ImageLabels.labelled(image.entry, size_hw, found, image.notes, embedding)

    def embedding(self, views: tuple[KeptView, ...]) -> Embedding | None:
        """The mean feature of an image, that of its first view; None if unwanted, or not kept."""
        mean = views[0].mean_feature if views and self.embeddings else None
        if mean is None:
            return None
        features = torch.from_numpy(mean)
        return (from_fixed(features) if self._fixed else features).float().numpy()

    @torch.inference_mode()
    def detections(
        self, views: tuple[KeptView, ...], size_hw: tuple[int, int]
    ) -> tuple[Detection, ...]:
        """Detections of one image by falling score; none is a normal result."""
        if len(views) > 1:
            found = [self._of_view(view) for view in views]
            return merged_views(
                *(found, size_hw, self._settings, self._category_ids), embeddings=self.embeddings
            )
        return self._of_whole(views[0], size_hw) if views else ()

    def _of_whole(self, view: KeptView, size_hw: tuple[int, int]) -> tuple[Detection, ...]:
        """See `Labeler.best`: the same steps, of masks that are encoded already."""
        kept, values = self._suppressed(view)
        filled = np.flatnonzero(kept.areas)
        kept, values = kept.select(filled), values.select(torch.from_numpy(filled))
        settings, limit = self._settings, self._settings.max_detections
        masks, power = RleMasks(tuple(kept.rles())), settings.iou_power
        scores = merged_scores(
            *(values.scores, values.labels, values.features, masks.shares, settings.diffusion),
            limit if power is None else None,
        )
        scores = weighted_scores(scores, values.predicted_iou, power)
        best = ranking(scores, torch.from_numpy(kept.points), limit)
        chosen = BestMasks(
            size_hw,
            masks.select(best),
            values.labels[best],
            scores[best],
            values.predicted_iou[best],
            settings.largest_component,
            values.features[best] if self.embeddings else None,
        )
        return chosen.detections(self._category_ids)

    def _of_view(self, view: KeptView) -> ViewMasks:
        kept, values = self._suppressed(view)
        return ViewMasks(view.view, tuple(kept.rles()), values)

    def _suppressed(self, view: KeptView) -> tuple[KeptView, MaskValues]:
        """See `Labeler.match` and `Labeler.suppress`: the candidates in NMS order."""
        settings = self._settings
        predicted_iou = torch.from_numpy(view.predicted_iou)
        above = np.flatnonzero((predicted_iou > settings.min_predicted_iou).numpy())
        if len(above) < len(view):
            view, predicted_iou = view.select(above), predicted_iou[torch.from_numpy(above)]
        features = torch.from_numpy(view.features)
        if self._fixed:
            features = from_fixed(features)
        several = settings.prototypes
        temperature = None if several is None else several.temperature
        similarity = similarities(features, self._prototypes, self._negatives, temperature)
        scores, labels = best_class(similarity)
        boxes = torch.from_numpy(view.boxes_xyxy.astype(np.float32))
        kept = nms_order(boxes, predicted_iou, labels, settings.nms_iou)
        kept = kept[: MERGE_FACTOR * settings.max_detections]
        kept = kept[scores[kept] > 0]
        values = MaskValues(scores, labels, features, predicted_iou).select(kept)
        return view.select(kept.numpy()), values
