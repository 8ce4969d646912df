"""Which detections are right: each object is found once, crowds judge nothing."""

from __future__ import annotations

import pytest

from ntt_ray.errors import InputError
from ntt_ray.evaluate.matching import GroundTruth, TruthObject, match
from ntt_ray.records import ImageEntry, ImageLabels
from tests.support.report_run import CLASSES, IMAGES, SIZE_HW, box_rle, detection, truth_of_example

BOX = (10, 10, 20, 20)


class TestTruth:
    def test_one_object_is_found_once(self) -> None:
        found = [detection(3, 0.9, BOX), detection(3, 0.8, BOX), detection(7, 0.7, BOX)]
        matches = match(found, (TruthObject(3, box_rle(BOX)),))
        assert matches.right == (True, False, False)
        assert matches.matched_by == (0,)
        assert matches.ious == (1.0,)

    def test_an_overlap_of_exactly_a_half_is_found(self) -> None:
        half = (BOX[0], BOX[1], BOX[2], BOX[3] // 2)
        matches = match([detection(3, 0.9, half)], (TruthObject(3, box_rle(BOX)),))
        assert matches.ious == (0.5,)
        assert matches.right == (True,)

    def test_crowds_judge_nothing(self) -> None:
        crowd = TruthObject(3, box_rle((0, 0, 60, 60)))
        matches = match([detection(3, 0.9, BOX), detection(7, 0.9, BOX)], (), [crowd])
        assert matches.right == (None, False)

    def test_image_of_another_size_has_no_truth(self) -> None:
        labels = [
            ImageLabels.labelled(ImageEntry(number, name, ""), SIZE_HW, ())
            for number, (name, *_) in enumerate(IMAGES[:2], start=1)
        ]
        coco = truth_of_example()
        coco["images"][0]["width"] += 1
        truth = GroundTruth(coco, CLASSES)
        assert truth.match(labels[0]) is None
        assert truth.match(labels[1]) is not None

    def test_not_coco(self) -> None:
        with pytest.raises(InputError, match="not a COCO file"):
            GroundTruth([], CLASSES)
