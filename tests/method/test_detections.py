import numpy as np
import torch

from ntt_ray.masks import decode_rle, encode_mask
from ntt_ray.method.detections import BestMasks, nothing_found
from ntt_ray.method.masks_at_size import RleMasks, masks_at_size

SIZE_HW = (6, 8)


def _mask(x1, y1, x2, y2) -> np.ndarray:
    mask = np.zeros(SIZE_HW, dtype=bool)
    mask[y1:y2, x1:x2] = True
    return mask


def _best(masks, count, labels=None, scores=None) -> BestMasks:
    return BestMasks(
        SIZE_HW,
        masks,
        torch.zeros(count, dtype=torch.int64) if labels is None else torch.tensor(labels),
        torch.full((count,), 0.5) if scores is None else torch.tensor(scores),
        torch.full((count,), 0.75),
    )


def test_no_mask():
    for in_strips in (False, True):
        masks = masks_at_size(torch.zeros(0, 3, 4), SIZE_HW, in_strips)
        assert _best(masks, 0).detections([3, 8]) == ()
    assert nothing_found().result() == ()


def test_a_score_that_rounding_put_above_one_is_one():
    masks = RleMasks((encode_mask(_mask(0, 0, 2, 2)),) * 3)
    found = _best(masks, 3, scores=[1.0000002, 1.0, 0.25]).detections([3])
    assert [d.score for d in found] == [1.0, 1.0, 0.25]


def test_a_score_below_zero_is_no_detection():
    """Soft merging on a device gives it to masks without a pixel at the image's size."""
    logits = torch.full((3, *SIZE_HW), -5.0)
    logits[:2, 2:4, 2:4] = 5.0
    masks = masks_at_size(logits, SIZE_HW, in_strips=True)
    found = _best(masks, 3, scores=[0.5, 0.0, -1.0]).detections([3])
    assert [d.score for d in found] == [0.5, 0.0]


def test_a_detection_has_its_class_box_and_area():
    masks = [_mask(1, 2, 4, 6), _mask(7, 0, 8, 1)]
    logits = torch.where(torch.from_numpy(np.stack(masks)), 5.0, -5.0)
    for in_strips in (False, True):
        form = masks_at_size(logits, SIZE_HW, in_strips)
        found = _best(form, 2, labels=[1, 0], scores=[0.5, 0.25]).detections([3, 8])
        assert [d.category_id for d in found] == [8, 3]
        assert [d.bbox_xywh for d in found] == [(1, 2, 3, 4), (7, 0, 1, 1)]
        assert [d.area for d in found] == [12, 1]
        assert [d.predicted_iou for d in found] == [0.75, 0.75]
        for detection, mask in zip(found, masks, strict=True):
            np.testing.assert_array_equal(decode_rle(detection.rle), mask)
