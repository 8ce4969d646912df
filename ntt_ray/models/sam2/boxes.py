"""SAM2 asked with boxes: masks for annotated boxes. Meta's ``sam2`` module does the network.

Meant for references, of which there are few: nothing is folded or batched as for the grid of
points. It does not know which of its masks is taken.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ntt_ray.models.interfaces import BoxCandidates
from ntt_ray.models.sam2.decoder.image import Sam2Features
from ntt_ray.models.sam2.proposer import image_features

POINTS_PER_SIDE = 3  # in each box
_POINT, _UPPER_LEFT, _LOWER_RIGHT = 1, 2, 3  # labels of SAM2's prompt encoder


class Sam2BoxPrompter:
    """A loaded SAM2 in evaluation mode, in float32.

    Attributes:
        image_size: side S of the square input in pixels; masks come at S/4.
        device: device that it runs on.
    """

    def __init__(self, model: nn.Module, device: torch.device | str = "cpu") -> None:
        self.image_size = int(model.image_size)  # type: ignore[arg-type]
        self.device = torch.device(device)
        self._model: Any = model.to(device).eval().requires_grad_(False)

    @torch.inference_mode()
    def candidates(self, image: Tensor, boxes_xyxy: Tensor) -> list[BoxCandidates]:
        """Masks for each box, from the box itself and from points in it.

        The box itself gives first the one mask that SAM2 means for a prompt without doubt (output
        0), then the three that it means for ambiguous ones; each point gives those three. A model
        that was trained on points alone finds its object by them.

        Args:
            image: ``(3, S, S)`` float32 in about [0, 1], RGB.
            boxes_xyxy: ``(N, 4)`` float32, pixels of the S x S image.
        """
        features = self._features(image)
        return [self._candidates(features, box) for box in boxes_xyxy.to(self.device)]

    def _features(self, image: Tensor) -> Sam2Features:
        features = image_features(self._model, image[None].to(self.device), torch.float32)
        if not self._model.directly_add_no_mem_embed:
            return features
        # as Meta's image predictor does; the paper's grid of points goes without (METHOD 19)
        embedding = features.embedding + self._model.no_mem_embed.reshape(1, -1, 1, 1)
        return Sam2Features(embedding, features.high_res_0, features.high_res_1)

    def _candidates(self, features: Sam2Features, box_xyxy: Tensor) -> BoxCandidates:
        corners = box_xyxy.reshape(1, 2, 2)
        logits, iou = self._decode(features, corners, (_UPPER_LEFT, _LOWER_RIGHT))
        point_logits, point_iou = self._decode(features, points_in_box(box_xyxy), (_POINT,))
        return BoxCandidates(
            torch.cat((logits[0], point_logits[:, 1:].flatten(0, 1))).float().cpu(),
            torch.cat((iou[0], point_iou[:, 1:].flatten())).float().cpu(),
        )

    def _decode(
        self, features: Sam2Features, points: Tensor, labels: tuple[int, ...]
    ) -> tuple[Tensor, Tensor]:
        """Decode N prompts of T points ``(N, T, 2)``, whose labels are the same for all.

        Returns:
            Logits ``(N, 4, h, w)`` and predicted IoU ``(N, 4)``.
        """
        encoder, decoder = self._model.sam_prompt_encoder, self._model.sam_mask_decoder
        label = torch.tensor(labels, dtype=torch.int32, device=self.device).expand(len(points), -1)
        sparse, dense = encoder(points=(points, label), boxes=None, masks=None)
        high_res = [features.high_res_0, features.high_res_1]
        logits, iou, _, _ = decoder.predict_masks(
            image_embeddings=features.embedding,
            image_pe=encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            repeat_image=True,
            high_res_features=[level.expand(len(points), -1, -1, -1) for level in high_res],
        )
        return logits, iou


def points_in_box(box_xyxy: Tensor) -> Tensor:
    """The middles of the cells of a grid over a box: ``(4,)`` to ``(P, 1, 2)``, x and y."""
    ticks = (torch.arange(POINTS_PER_SIDE, device=box_xyxy.device) + 0.5) / POINTS_PER_SIDE
    y, x = torch.meshgrid(ticks, ticks, indexing="ij")
    shares = torch.stack((x, y), dim=-1).reshape(-1, 1, 2)
    return box_xyxy[:2] + shares * (box_xyxy[2:] - box_xyxy[:2])
