"""Boxes to masks: which of SAM2's masks a box stands for, and what happens when there is none.

The one module here that needs torch. The model comes by protocol; reading and writing files, Ray
and pictures are elsewhere.

The box is the annotation, so it decides. SAM2's own answer to the box is taken when the tight box
of that mask agrees with the annotated one. Otherwise its alternatives are asked too, and the mask
with the highest product of box IoU and predicted IoU is taken. What sticks out of the box is cut
off. When no mask fits, the box itself stays as the mask.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ntt_ray.images import RgbImage, resize_square
from ntt_ray.masks import BoolMask, Rle, encode_mask, rle_area
from ntt_ray.models.interfaces import BoxCandidates, BoxPrompter

AGREES_BOX_IOU = 0.8  # SAM2's answer to the box is taken without asking further
MIN_BOX_IOU = 0.5  # below it a mask is of something else
MIN_AREA_PX = 16
# box IoU times predicted IoU: of 40 demo boxes one lies below, that of the worst mask (IoU 0.76);
# with weights that know single points alone four did, the one bad mask (0.27) lowest of them
DOUBTFUL = 0.6

BoxXywh = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class BoxMask:
    """What a box became.

    Attributes:
        rle: the mask at the image's size, never empty.
        source: where the mask is from: ``sam2``; ``box`` when the box itself is the mask; ``given``
            when the annotation had one.
        box_iou: IoU of the annotated box with the tight box of SAM2's best mask, 0 to 1.
        predicted_iou: SAM2's own estimate of that mask, 0 to 1.
        reason: why the box was kept, for people; empty otherwise.
    """

    rle: Rle
    source: Literal["sam2", "box", "given"]
    box_iou: float
    predicted_iou: float
    reason: str

    @classmethod
    def given(cls, rle: Rle) -> BoxMask:
        """A mask that was there already."""
        return cls(rle, "given", 1.0, 1.0, "")

    @property
    def doubtful(self) -> bool:
        """Whether people should look at it before they trust it."""
        return self.source == "sam2" and self.box_iou * self.predicted_iou < DOUBTFUL

    def note(self) -> str:
        """What there is to say about it, in a few words."""
        if self.source != "sam2":
            return self.reason
        return f"box IoU {self.box_iou:.2f}, predicted IoU {self.predicted_iou:.2f}"

    def annotation(self, annotation: Mapping[str, Any]) -> dict[str, Any]:
        """A COCO annotation with this mask; its ``attributes`` say where the mask is from."""
        if self.source == "given":
            return dict(annotation)
        found = annotation.get("attributes")
        attributes = {
            **(found if isinstance(found, dict) else {}),
            "mask_source": self.source,
            "box_iou": round(self.box_iou, 4),
            "predicted_iou": round(self.predicted_iou, 4),
        }
        if self.reason:
            attributes["mask_note"] = self.reason
        changes = {"segmentation": self.rle, "area": rle_area(self.rle), "iscrowd": 0}
        return {**annotation, **changes, "attributes": attributes}


def masks_from_boxes(
    image_rgb: RgbImage,
    boxes_xywh: Sequence[BoxXywh],
    prompter: BoxPrompter,
    min_predicted_iou: float,
) -> list[BoxMask]:
    """A mask for each box of an image.

    Args:
        image_rgb: uint8 ``(h, w, 3)``.
        boxes_xywh: the boxes in pixels; each covers some of the image.
        prompter: gives masks for boxes.
        min_predicted_iou: SAM2's estimate of a mask must be above it, strictly, as in the method.
    """
    height, width = image_rgb.shape[:2]
    side = prompter.image_size
    image = torch.from_numpy(resize_square(image_rgb, side).copy()).permute(2, 0, 1).float() / 255
    scale = torch.tensor([side / width, side / height]).repeat(2)
    boxes = torch.tensor([[x, y, x + w, y + h] for x, y, w, h in boxes_xywh]) * scale
    offered = prompter.candidates(image, boxes)
    return [
        mask_from_box(box, (height, width), candidates, min_predicted_iou)
        for box, candidates in zip(boxes_xywh, offered, strict=True)
    ]


def mask_from_box(
    bbox_xywh: BoxXywh, size_hw: tuple[int, int], offered: BoxCandidates, min_predicted_iou: float
) -> BoxMask:
    """Choose among the masks offered for a box, or keep the box; see `masks_from_boxes`.

    Boxes are compared at the size of the model's input, four times that of the logits: an image may
    be much larger.
    """
    inside = box_pixels(bbox_xywh, size_hw)
    input_hw = (4 * offered.logits.shape[1], 4 * offered.logits.shape[2])
    scale_x, scale_y = input_hw[1] / size_hw[1], input_hw[0] / size_hw[0]
    x, y, width, height = bbox_xywh
    wanted = (x * scale_x, y * scale_y, width * scale_x, height * scale_y)
    best, best_iou, predicted = 0, 0.0, 0.0
    for number, value in enumerate(offered.predicted_iou.tolist()):
        overlap = tight_box_iou(mask_at_size(offered.logits[number], input_hw), wanted)
        if number == 0 or overlap * value > best_iou * predicted:
            best, best_iou, predicted = number, overlap, value
        if number == 0 and overlap >= AGREES_BOX_IOU and value > min_predicted_iou:
            break
    mask = mask_at_size(offered.logits[best], size_hw) & inside
    reason = _why_not(mask, best_iou, predicted, min_predicted_iou)
    if reason:
        return BoxMask(encode_mask(inside), "box", best_iou, predicted, reason)
    return BoxMask(encode_mask(mask), "sam2", best_iou, predicted, "")


def _why_not(mask: BoolMask, box_iou: float, predicted: float, min_predicted_iou: float) -> str:
    if mask.sum() < MIN_AREA_PX:
        return f"SAM2's best mask has {int(mask.sum())} pixels in the box"
    if box_iou < MIN_BOX_IOU:
        return f"SAM2's best mask shares {box_iou:.2f} of the box (IoU), below {MIN_BOX_IOU:g}"
    if not predicted > min_predicted_iou:
        return f"SAM2 expects an IoU of {predicted:.2f}, not above {min_predicted_iou:g}"
    return ""


def mask_at_size(logits: Tensor, size_hw: tuple[int, int]) -> BoolMask:
    """Low-resolution logits ``(h, w)`` to a mask at the image's size (METHOD 33)."""
    whole = F.interpolate(
        logits[None, None], size=size_hw, mode="bilinear", align_corners=False, antialias=True
    )
    return np.asarray((whole[0, 0] > 0).numpy())


def tight_box_iou(mask: BoolMask, bbox_xywh: BoxXywh) -> float:
    """IoU of a box with the tight box of a mask; 0 for an empty mask."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if not columns.size:
        return 0.0
    x1, y1, x2, y2 = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    x, y, width, height = bbox_xywh
    across = max(0.0, min(x2, x + width) - max(x1, x))
    down = max(0.0, min(y2, y + height) - max(y1, y))
    return float(across * down / ((x2 - x1) * (y2 - y1) + width * height - across * down))


def box_pixels(bbox_xywh: BoxXywh, size_hw: tuple[int, int]) -> BoolMask:
    """All pixels that a box touches."""
    x, y, width, height = bbox_xywh
    mask = np.zeros(size_hw, dtype=np.bool_)
    left, top = max(0, int(np.floor(x))), max(0, int(np.floor(y)))
    mask[top : int(np.ceil(y + height)), left : int(np.ceil(x + width))] = True
    return mask
