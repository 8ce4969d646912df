"""Boxes to masks: the box decides, and it stays when nothing fits."""

import numpy as np
import pytest
import torch

from ntt_ray.masks import decode_rle, encode_mask
from ntt_ray.models.interfaces import BoxCandidates
from ntt_ray.references.boxes import (
    BoxMask,
    box_pixels,
    mask_from_box,
    masks_from_boxes,
    tight_box_iou,
)

SIZE_HW = (40, 60)
BOX = (10.0, 10.0, 20.0, 20.0)


def rectangle(x1, y1, x2, y2) -> np.ndarray:
    mask = np.zeros(SIZE_HW, dtype=bool)
    mask[y1:y2, x1:x2] = True
    return mask


def ring() -> np.ndarray:
    return rectangle(10, 10, 30, 30) & ~rectangle(14, 14, 26, 26)


def offered(*masks_and_ious) -> BoxCandidates:
    masks = np.stack([mask for mask, _ in masks_and_ious])
    logits = torch.where(torch.from_numpy(masks), 5.0, -5.0)
    return BoxCandidates(logits, torch.tensor([iou for _, iou in masks_and_ious]))


HALF = rectangle(10, 10, 30, 20)
ALL = np.ones(SIZE_HW, dtype=bool)
NONE = np.zeros(SIZE_HW, dtype=bool)
FILLED = rectangle(10, 10, 30, 30)
SPILLED = rectangle(9, 9, 32, 31)
SPECK = rectangle(11, 11, 14, 14)
CHOICES = {
    "the answer to the box agrees": ([(ring(), 0.5), (FILLED, 0.99)], ring()),
    "its own doubts": ([(ring(), 0.25), (FILLED, 0.6)], FILLED),
    "it disagrees": ([(HALF, 0.9), (ring(), 0.5)], ring()),
    "the product decides": ([(HALF, 0.9), (FILLED, 0.6), (ring(), 0.7)], ring()),
    "what sticks out is cut off": ([(SPILLED, 0.9)], FILLED),
    "empty masks do no harm": ([(NONE, 0.9), (ring(), 0.5)], ring()),
}


@pytest.mark.parametrize(("masks", "expected"), CHOICES.values(), ids=CHOICES.keys())
def test_the_box_decides(masks, expected):
    found = mask_from_box(BOX, SIZE_HW, offered(*masks), 0.4)
    assert found.source == "sam2"
    assert found.reason == ""
    assert np.array_equal(decode_rle(found.rle), expected)


KEPT = {
    "nothing": ([(NONE, 0.9)], "0 pixels"),
    "all of the image": ([(ALL, 0.95)], "shares 0.17 of the box"),
    "a speck": ([(SPECK, 0.95)], "9 pixels"),
    "beside the box": ([(rectangle(40, 10, 55, 30), 0.9)], "0 pixels"),
    "half of it and less": ([(rectangle(10, 10, 30, 19), 0.9)], "shares 0.45 of the box"),
    "not sure": ([(FILLED, 0.25)], "expects an IoU of 0.25, not above 0.4"),
}


@pytest.mark.parametrize(("masks", "reason"), KEPT.values(), ids=KEPT.keys())
def test_the_box_stays_when_no_mask_fits(masks, reason):
    found = mask_from_box(BOX, SIZE_HW, offered(*masks), 0.4)
    assert found.source == "box"
    assert reason in found.reason
    assert np.array_equal(decode_rle(found.rle), FILLED)


def test_what_people_should_look_at():
    sure, unsure = (mask_from_box(BOX, SIZE_HW, offered((ring(), v)), 0.4) for v in (0.7, 0.5))
    assert (sure.source, sure.doubtful) == ("sam2", False)
    assert (unsure.source, unsure.doubtful) == ("sam2", True)
    assert not mask_from_box(BOX, SIZE_HW, offered((ALL, 0.9)), 0.4).doubtful  # says more: a box
    assert not BoxMask.given(encode_mask(ring())).doubtful


def test_annotations_say_where_their_mask_is_from():
    before = {"id": 4, "bbox": list(BOX), "attributes": {"occluded": True}, "category_id": 1}
    kept = mask_from_box(BOX, SIZE_HW, offered((ALL, 0.9)), 0.4).annotation(before)
    assert kept["attributes"]["mask_source"] == "box"
    assert "of the box" in kept["attributes"]["mask_note"]
    assert kept["attributes"]["occluded"] is True
    assert kept["area"] == 400
    assert kept["bbox"] == list(BOX)
    made = mask_from_box(BOX, SIZE_HW, offered((ring(), 0.9)), 0.4).annotation(before)
    assert made["attributes"]["mask_source"] == "sam2"
    assert "mask_note" not in made["attributes"]
    assert made["area"] == ring().sum()
    assert BoxMask.given(encode_mask(ring())).annotation(before) == before


class FakePrompter:
    """Gives the whole of each box, and remembers what it was asked."""

    image_size = 32

    def candidates(self, image, boxes_xyxy):
        self.asked = (tuple(image.shape), boxes_xyxy.tolist())
        found = []
        for x1, y1, x2, y2 in boxes_xyxy.tolist():
            logits = torch.full((1, 32, 32), -5.0)
            logits[0, int(y1) : int(y2), int(x1) : int(x2)] = 5.0
            found.append(BoxCandidates(logits, torch.tensor([0.9])))
        return found


def test_boxes_are_asked_in_pixels_of_the_model_and_come_back_in_those_of_the_image():
    prompter = FakePrompter()
    image = np.zeros((64, 128, 3), dtype=np.uint8)
    boxes = [(64.0, 16.0, 32.0, 32.0), (0.0, 0.0, 128.0, 64.0)]
    first, second = masks_from_boxes(image, boxes, prompter, 0.4)
    assert prompter.asked == ((3, 32, 32), [[16.0, 8.0, 24.0, 24.0], [0.0, 0.0, 32.0, 32.0]])
    assert first.source == second.source == "sam2"
    assert decode_rle(second.rle).all()
    assert decode_rle(first.rle)[20:44, 70:90].all()
    assert 1000 <= decode_rle(first.rle).sum() <= 32 * 32


def test_boxes_and_pixels():
    assert tight_box_iou(FILLED, BOX) == 1.0
    assert tight_box_iou(HALF, BOX) == 0.5
    assert tight_box_iou(NONE, BOX) == 0.0
    assert tight_box_iou(rectangle(40, 10, 55, 30), BOX) == 0.0
    assert box_pixels((0.5, 0.2, 1.0, 0.5), (4, 5)).sum() == 2
    assert box_pixels((0.0, 0.0, 5.9, 4.9), (4, 5)).all()
