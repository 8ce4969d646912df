"""The method as the paper's own code runs it, batched but without any saving: what we compare with.

One image at a time, every point through the stock SAM2 decoder with all four masks upscaled, patch
features resized to the masks before pooling, all masks at full size in memory, the overlaps of a
class as one dense product, one RLE after another. Written from the description of the method.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import batched_nms

from ntt_ray.images import RgbImage, resize_square
from ntt_ray.masks import Rle, encode_mask
from ntt_ray.models.inputs import normalize_imagenet, to_input
from ntt_ray.models.interfaces import Encoder
from ntt_ray.models.sam2.proposer import point_grid
from ntt_ray.settings import MethodSettings

POINTS_PER_STEP = 256


class PlainLabeler:
    """Labels one image after another without any of the savings."""

    def __init__(
        self,
        encoder: Encoder,
        sam2: nn.Module,
        prototypes: Tensor,
        settings: MethodSettings,
        points_per_side: int,
        device: torch.device,
    ) -> None:
        self._encoder, self._sam2, self._settings = encoder, sam2.eval(), settings
        self._prototypes = prototypes.to(device)
        self._side = int(sam2.image_size)
        self._points = point_grid(self._side, points_per_side).to(device)
        self._device = device

    @torch.inference_mode()
    def label(self, image_rgb: RgbImage) -> list[tuple[int, float, Rle]]:
        """Detections (class index, score, mask) by falling score."""
        inputs = to_input([resize_square(image_rgb, self._side)]).to(self._device)
        features = self._encoder.encode(inputs)[0]
        levels = self._sam2.forward_image(normalize_imagenet(inputs))["backbone_fpn"]
        logits, iou = self._decode(levels)
        keep = iou > self._settings.min_predicted_iou
        logits, iou = logits[keep], iou[keep]
        filled = (logits > 0).flatten(1).any(dim=1)
        logits, iou = logits[filled], iou[filled]
        if not len(logits):
            return []
        pooled = self._pool(features, logits > 0)
        scores, labels = (pooled @ self._prototypes.T).clamp(min=0).max(dim=1)
        kept = batched_nms(_boxes(logits > 0), iou, labels, self._settings.nms_iou)
        kept = kept[: 8 * self._settings.max_detections]
        kept = kept[scores[kept] > 0]
        return self._merge(
            logits[kept], scores[kept], labels[kept], pooled[kept], image_rgb.shape[:2]
        )

    def _decode(self, levels: list[Tensor]) -> tuple[Tensor, Tensor]:
        prompts, decoder = self._sam2.sam_prompt_encoder, self._sam2.sam_mask_decoder
        chosen, best_iou = [], []
        for points in self._points.split(POINTS_PER_STEP):
            ones = torch.ones(len(points), 1, dtype=torch.int32, device=self._device)
            sparse, dense = prompts(points=(points[:, None], ones), boxes=None, masks=None)
            masks, iou, _, _ = decoder.predict_masks(
                image_embeddings=levels[2],
                image_pe=prompts.get_dense_pe(),
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                repeat_image=True,
                high_res_features=levels[:2],
            )
            best = iou[:, 1:].argmax(dim=1) + 1
            rows = torch.arange(len(points), device=self._device)
            chosen.append(masks[rows, best])
            best_iou.append(iou[rows, best])
        return torch.cat(chosen), torch.cat(best_iou)

    def _pool(self, features: Tensor, masks: Tensor) -> Tensor:
        resized = F.interpolate(
            features.permute(2, 0, 1)[None],
            size=masks.shape[1:],
            mode="bilinear",
            align_corners=False,
            antialias=True,
        )[0]
        weights = masks.flatten(1).float()
        sums = weights @ resized.flatten(1).T
        return F.normalize(sums / weights.sum(dim=1, keepdim=True), dim=1)

    def _merge(
        self,
        logits: Tensor,
        scores: Tensor,
        labels: Tensor,
        features: Tensor,
        size_hw: tuple[int, ...],
    ) -> list[tuple[int, float, Rle]]:
        resized = F.interpolate(
            logits[None], size=size_hw, mode="bilinear", align_corners=False, antialias=True
        )
        masks = resized[0] > 0
        filled = masks.flatten(1).any(dim=1)
        masks, scores, labels, features = (t[filled] for t in (masks, scores, labels, features))
        decay = torch.ones_like(scores)
        for label in labels.unique().tolist():
            mine = labels == label
            pixels = masks[mine].flatten(1).float()
            shares = (pixels @ pixels.T) / pixels.sum(dim=1, keepdim=True)
            similar = (features[mine] @ features[mine].T).clamp(min=0)
            ios = (shares * similar).clamp(max=1).tril(diagonal=-1).amax(dim=1)
            decay[mine] = (1 - ios).sqrt()
        final = scores * decay
        best = final.argsort(descending=True)[: self._settings.max_detections]
        host = masks[best].cpu().numpy()
        return [
            (int(labels[i]), float(final[i]), encode_mask(mask))
            for i, mask in zip(best.tolist(), host, strict=True)
        ]


def _boxes(masks: Tensor) -> Tensor:
    boxes = []
    for mask in masks:
        ys, xs = torch.nonzero(mask, as_tuple=True)
        boxes.append(torch.stack((xs.min(), ys.min(), xs.max(), ys.max())))
    return torch.stack(boxes).float()
