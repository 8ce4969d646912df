"""The made-up detector of `benchmarks.boxes` finds what the benchmark says."""

import numpy as np
import pytest

from benchmarks.boxes import PER_IMAGE, detected, ious, shifted, tables
from benchmarks.quality_scenes import Scenes

OBJECTS = {1: [[10, 20, 60, 80], [150, 30, 90, 40]], 2: []}


def _scenes() -> Scenes:
    images = [{"id": n, "width": 320, "height": 240} for n in OBJECTS]
    annotations = [{"image_id": n, "bbox": box} for n, own in OBJECTS.items() for box in own]
    return Scenes({"images": images, "annotations": annotations}, [])


@pytest.mark.parametrize("seed", range(5))
def test_a_shifted_box_has_the_iou_that_is_asked(seed):
    box = np.array([10.0, 20.0, 70.0, 100.0])
    found = shifted(box, 0.8, np.random.default_rng(seed))
    assert ious(found, box[None])[0] == pytest.approx(0.8, abs=1e-6)


def test_objects_are_found_among_distractors():
    first, second = detected(_scenes(), 3)
    assert len(first) == len(second) == PER_IMAGE
    xywh = np.array(OBJECTS[1], np.float64)
    objects = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
    overlaps = np.array([ious(box, objects) for box in first.boxes_xyxy.astype(np.float64)])
    near = overlaps.max(axis=1) > 0.3
    assert near.sum() == 2
    assert sorted(overlaps[near].argmax(axis=1).tolist()) == [0, 1]
    # the picture cuts what lies beside it, and with it the object's own box does not change
    assert (overlaps[near].max(axis=1) >= 0.8 - 1e-5).all()
    assert (np.diff(first.scores) <= 0).all()
    again, _ = detected(_scenes(), 3)
    np.testing.assert_array_equal(again.boxes_xyxy, first.boxes_xyxy)


def test_differences_are_from_each_grid_with_the_same_options_seed_by_seed():
    def seed(ap: float, speed: float) -> dict[str, dict[str, float]]:
        rest = {"mask_ap50": 0.9, "box_ap": 0.5}
        grid = {"mask_ap": ap, "images_per_s": speed} | rest
        finer = {"mask_ap": ap + 0.02, "images_per_s": speed / 4} | rest
        boxes = {"mask_ap": ap + 0.01, "images_per_s": 3 * speed} | rest
        return {
            "grid of 16 x 16; the paper's": grid,
            "grid of 32 x 32; the paper's": finer,
            "boxes by five points; the paper's": boxes,
        }

    text = "\n".join(tables([seed(0.5, 2.0), seed(0.7, 4.0)]))
    assert "| boxes by five points; the paper's | 0.610 ± 0.141 | 0.900 ± 0.000 |" in text
    assert text.endswith(
        "| 9.00 ± 4.24 | +0.010 ± 0.000 | 3.00 ± 0.00 | -0.010 ± 0.000 | 12.00 ± 0.00 |"
    )
