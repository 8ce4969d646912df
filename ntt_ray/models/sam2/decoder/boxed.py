"""SAM2's mask decoder asked with boxes, by the same arithmetic as the grid of points.

A box enters as its two corners, or as points in it. These are folded when they come (`prompts`);
what follows is what the grid goes through (`run`), for these prompts alone: nothing of the grid is
computed. No kernel computes it on a GPU: a box has a token more than a point has.

Which of SAM2's four outputs is the mask of a box:

* asked with the box, the one that Meta's decoder answers without ``multimask_output``: output 0,
  or, where that is no stable mask and the model was published with ``dynamic_multimask``, the one
  of outputs 1 to 3 with the highest predicted IoU;
* asked with its centre, or with five points, of outputs 1 to 3 of all its points the one with the
  highest product of predicted IoU and the IoU of its tight box with the box that was asked. A point
  alone does not say how large the thing is that is meant; the box does.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ntt_ray.models.interfaces import BoxPrompt, Proposals
from ntt_ray.models.sam2.decoder.fold import DecoderWeights, fold_hypernetworks
from ntt_ray.models.sam2.decoder.image import ImageMaps, Sam2Features
from ntt_ray.models.sam2.decoder.prompts import LOWER_RIGHT, POINT, UPPER_LEFT, PromptFolder
from ntt_ray.models.sam2.decoder.run import PointDecoder, prompt_tokens, transform, upscale
from ntt_ray.models.sam2.decoder.tokens import Decoded

PROMPTS_PER_STEP = 64  # at most; on a GPU a step of as many as of the grid's would be 3 GB
STRIDE = 4  # pixels of the input for each pixel of a mask
# where points lie in a box, as shares of its width and height; of equal masks the first one stays
POINTS = {
    "centre": ((0.5, 0.5),),
    "points": ((0.5, 0.5), (0.3, 0.5), (0.7, 0.5), (0.5, 0.3), (0.5, 0.7)),
}


class Chosen(NamedTuple):
    """The masks of a step of b boxes.

    Attributes:
        logits: ``(n, h, w)``.
        predicted_iou: ``(n,)``.
        box: ``(n,)`` int64, rising, which of the b boxes each is of.
    """

    logits: Tensor
    predicted_iou: Tensor
    box: Tensor


class BoxDecoder:
    """Decodes boxes with the weights that a `PointDecoder` has folded."""

    def __init__(self, model: Any, points: PointDecoder, dtype: torch.dtype) -> None:
        """Fold what boxes need besides: the hypernetwork of output 0 too.

        Args:
            model: the model of `points`, before it is cast to a 16-bit type.
            points: the decoder of the grid.
            dtype: type of weights and activations.
        """
        decoder = model.sam_mask_decoder
        self._points, self._fold = points, PromptFolder(model, dtype, later=True)
        first = int(decoder.pred_obj_scores)  # the token of the predicted IoU, then four masks
        device = points.weights.tokens.device
        self._weights = points.weights._replace(
            used=torch.arange(first, first + 5, device=device),
            hypernetworks=fold_hypernetworks(decoder.output_hypernetworks_mlps, dtype),
        )
        self._delta = float(decoder.dynamic_multimask_stability_delta)
        self._least = float(decoder.dynamic_multimask_stability_thresh)
        self._dynamic = bool(decoder.dynamic_multimask_via_stability)

    @torch.inference_mode()
    def decode(
        self,
        features: Sam2Features,
        min_predicted_iou: float,
        boxes_xyxy: Tensor,
        prompt: BoxPrompt = "box",
    ) -> Proposals:
        """Decode the boxes of one image.

        Args:
            features: the features of one image.
            min_predicted_iou: threshold on the predicted IoU; masks must lie above it, strictly.
            boxes_xyxy: ``(N, 4)`` float32 in pixels of the input, at least one.
            prompt: what SAM2 is asked with.

        Returns:
            The surviving proposals in the order of their boxes; `index` is the box of each.
        """
        if prompt == "box":
            weights, each = self._weights, 1
            folded = self._fold(boxes_xyxy.view(-1, 2, 2), (UPPER_LEFT, LOWER_RIGHT))
        else:  # as the grid's points, whose output 0 nobody asks
            weights, each = self._points.weights, len(POINTS[prompt])
            folded = self._fold(points_in(boxes_xyxy, prompt).view(-1, 1, 2), (POINT,))
        maps = self._points.maps(features)
        tokens = prompt_tokens(weights.of(folded), maps)
        most, found = min(self._points.points_per_step, PROMPTS_PER_STEP), list[Chosen]()
        for start in range(0, len(boxes_xyxy), max(1, most // each)):
            step = slice(start, start + max(1, most // each))
            prompts = slice(each * step.start, each * step.stop)
            decoded = transform(weights, maps, tokens.part(prompts))
            if prompt == "box":
                chosen = self._one_answer(maps, decoded, min_predicted_iou)
            else:
                chosen = self._by_box(maps, decoded, min_predicted_iou, boxes_xyxy[step])
            found.append(chosen._replace(box=chosen.box + start))
        logits, iou, index = (torch.cat(field) for field in zip(*found))
        return Proposals(logits.float(), iou.float(), index)

    def _one_answer(self, maps: ImageMaps, decoded: Decoded, threshold: float) -> Chosen:
        """What Meta's decoder gives for ``multimask_output=False``, where it may survive."""
        _, iou, _ = decoded
        best_iou, best = iou[:, 1:].max(dim=1)
        first = iou[:, 0]
        asked = torch.nonzero((first > threshold) | (best_iou > threshold)).squeeze(1)
        logits = _upscaled(self._weights, maps, decoded, asked, torch.zeros_like(asked))
        predicted = first[asked]
        if self._dynamic:
            unstable = torch.nonzero(stability(logits, self._delta) < self._least).squeeze(1)
            others = asked[unstable]
            instead = _upscaled(self._weights, maps, decoded, others, best[others] + 1)
            logits, predicted = logits.clone(), predicted.clone()
            logits[unstable], predicted[unstable] = instead, best_iou[others]
        kept = torch.nonzero(predicted > threshold).squeeze(1)
        return Chosen(logits[kept], predicted[kept], asked[kept])

    def _by_box(
        self, maps: ImageMaps, decoded: Decoded, threshold: float, boxes_xyxy: Tensor
    ) -> Chosen:
        """Of outputs 1 to 3 above the threshold the best by predicted IoU times box IoU."""
        iou = decoded.iou[:, 1:].reshape(len(boxes_xyxy), -1)  # of all points of a box
        box, output = torch.nonzero(iou > threshold, as_tuple=True)
        point = box * (iou.shape[1] // 3) + output // 3
        logits = _upscaled(self._points.weights, maps, decoded, point, output % 3)
        found = STRIDE * tight_boxes(logits > 0)
        value = torch.full_like(iou, -1.0)
        value[box, output] = iou[box, output] * box_ious(found, boxes_xyxy[box])
        best = value.argmax(dim=1)
        kept = torch.nonzero(output == best[box]).squeeze(1)
        box, output = box[kept], output[kept]
        return Chosen(logits[kept], iou[box, output], box)


def _upscaled(
    weights: DecoderWeights, maps: ImageMaps, decoded: Decoded, prompts: Tensor, outputs: Tensor
) -> Tensor:
    """Logits of some outputs: the prompt, and the hypernetwork of the output, ``(n,)`` int64."""
    networks = decoded.hypernetworks[prompts, outputs]
    return upscale(weights, maps, decoded.keys.select(prompts), networks)


def points_in(boxes_xyxy: Tensor, prompt: BoxPrompt) -> Tensor:
    """The points that a box is asked with: ``(N, 4)`` to ``(N, P, 2)``, x and y.

    >>> points_in(torch.tensor([[0.0, 10.0, 20.0, 30.0]]), "points")[0].tolist()
    [[10.0, 20.0], [6.0, 20.0], [14.0, 20.0], [10.0, 16.0], [10.0, 24.0]]
    """
    shares = torch.tensor(POINTS[prompt], device=boxes_xyxy.device)
    corner, sides = boxes_xyxy[:, None, :2], (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2])[:, None]
    return corner + shares * sides


def stability(logits: Tensor, delta: float) -> Tensor:
    """How little masks depend on the threshold: IoU of those at ``delta`` and at ``-delta``.

    As Meta's ``_get_stability_scores``; a mask that is empty at both is stable.

    Args:
        logits: ``(n, h, w)``.
        delta: distance of both thresholds from 0.

    Returns:
        ``(n,)`` float32, 0 to 1.
    """
    inner = (logits > delta).flatten(1).sum(dim=1).float()
    outer = (logits > -delta).flatten(1).sum(dim=1).float()
    return torch.where(outer > 0, inner / outer, 1.0)


def tight_boxes(masks: Tensor) -> Tensor:
    """The boxes of masks ``(n, h, w)`` bool: ``(n, 4)`` float32 xyxy, exclusive; empty ones are 0.

    >>> tight_boxes(torch.tensor([[[False, True, True], [False, False, False]]])).tolist()
    [[1.0, 0.0, 3.0, 1.0]]
    """
    ends = []
    for there in (masks.any(dim=1), masks.any(dim=2)):  # columns, rows
        first = there.float().argmax(dim=1)  # of equal ones the first
        last = there.shape[1] - there.flip(1).float().argmax(dim=1)
        some = there.any(dim=1)
        ends.append((first * some, last * some))
    (left, right), (top, bottom) = ends
    return torch.stack((left, top, right, bottom), dim=1).float()


def box_ious(a: Tensor, b: Tensor) -> Tensor:
    """IoU of each box ``(n, 4)`` xyxy with its counterpart: ``(n,)``; 0 where both are nothing.

    >>> box_ious(torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[1.0, 0, 3, 2]])).tolist()
    [0.3333333432674408]
    """
    shared = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0)
    area_a, area_b = ((x[:, 2:] - x[:, :2]).prod(dim=1) for x in (a, b))
    both = shared.prod(dim=1)
    return both / (area_a + area_b - both).clamp(min=torch.finfo(a.dtype).tiny)
