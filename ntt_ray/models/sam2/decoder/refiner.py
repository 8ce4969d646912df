"""SAM2's mask decoder asked again at the centres of masks, by the same arithmetic as the grid.

Which masks, and what is taken, `sam2.refinement` says. A centre enters as a point of the grid does,
and of outputs 1 to 3 the one with the highest predicted IoU is its mask. It is folded when it comes
(`prompts`), and goes through `run`; nothing of the grid is computed. Only masks that SAM2 thinks
better of than of the old ones are upscaled.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ntt_ray.models.interfaces import Proposals
from ntt_ray.models.sam2.decoder.boxed import STRIDE
from ntt_ray.models.sam2.decoder.image import Sam2Features
from ntt_ray.models.sam2.decoder.prompts import POINT, PromptFolder
from ntt_ray.models.sam2.decoder.run import PointDecoder, prompt_tokens
from ntt_ray.models.sam2.refinement import better_masks, distinct_masks, mask_centres

POINTS_PER_STEP = 256  # at most, as of the grid on a GPU without kernels


class Refiner:
    """Refines proposals with the weights that a `PointDecoder` has folded.

    Attributes:
        masks: how many proposals were given to it so far.
        asked: how many of the proposals were asked about again: the work.
        taken: how many of the proposals have a new mask.
    """

    def __init__(
        self, model: Any, points: PointDecoder, dtype: torch.dtype, min_iou: float
    ) -> None:
        """Take what folds a prompt.

        Args:
            model: the model of `points`, before it is cast to a 16-bit type.
            points: the decoder of the grid.
            dtype: type of weights and activations.
            min_iou: IoU, above 0, that a new mask must have with the old one at least.
        """
        self._points, self._fold = points, PromptFolder(model, dtype, later=True)
        self._min_iou = min_iou
        self.masks = self.asked = self.taken = 0

    @torch.inference_mode()
    def refine(self, features: Sam2Features, proposals: Proposals) -> Proposals:
        """Ask about the distinct masks of one image again.

        Args:
            features: the features of the image.
            proposals: its masks, of whatever prompts. **Their logits are written to**: a copy of
                them would be as large as all that the decoder gives.

        Returns:
            The same proposals at the same places; some with another mask and its predicted IoU.
        """
        masks, predicted_iou = proposals.logits > 0, proposals.predicted_iou.clone()
        asked = distinct_masks(masks, predicted_iou)
        self.masks, self.asked = self.masks + len(masks), self.asked + len(asked)
        if len(asked) == 0:
            return proposals
        masks = masks[asked]
        weights, maps = self._points.weights, self._points.maps(features)
        folded = self._fold(centre_points(masks)[:, None], (POINT,))
        tokens = prompt_tokens(weights.of(folded), maps)
        transform, upscale = self._points.for_other_points
        most = min(self._points.points_per_step, POINTS_PER_STEP)
        for start in range(0, len(asked), most):
            part = slice(start, start + most)
            keys, every_iou, networks = transform(weights, maps, tokens.part(part))
            iou, best = every_iou[:, 1:].float().max(dim=1)
            higher = torch.nonzero(iou > predicted_iou[asked[part]]).squeeze(1)
            own, iou = asked[part][higher], iou[higher]
            logits = upscale(weights, maps, keys.select(higher), networks[higher, best[higher]])
            better = better_masks(
                masks[part][higher], predicted_iou[own], logits > 0, iou, self._min_iou
            )
            taken = own[better]
            self.taken += len(taken)
            proposals.logits[taken] = logits[better].float()
            predicted_iou[taken] = iou[better]
        return replace(proposals, predicted_iou=predicted_iou)


def centre_points(masks: Tensor) -> Tensor:
    """The middles of the centres of masks ``(N, h, w)``: ``(N, 2)`` float32 (x, y) in the input.

    A pixel of a mask is `STRIDE` of the input's; SAM2's prompt encoder adds half a pixel itself.

    >>> centre_points(torch.ones(1, 3, 3, dtype=torch.bool)).tolist()
    [[5.5, 5.5]]
    """
    return STRIDE * (mask_centres(masks).float() + 0.5) - 0.5
