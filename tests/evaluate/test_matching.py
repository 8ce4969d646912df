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

    @pytest.mark.parametrize(("width", "right"), [(20, None), (19, False)])
    def test_half_of_a_detection_in_one_of_the_crowds_is_enough(self, width, right) -> None:
        far = TruthObject(3, box_rle((60, 40, 10, 10)))
        near = TruthObject(3, box_rle((10, 10, width, 20)))
        (found,) = match([detection(3, 0.9, (10, 10, 40, 20))], (), [near, far]).right
        assert found is right

    def test_of_several_objects_the_best_overlap_is_the_one_found(self) -> None:
        objects = [TruthObject(3, box_rle((10, 10, 20, height))) for height in (24, 21, 28)]
        matches = match([detection(3, 0.9, BOX)], tuple(objects))
        assert matches.matched_by == (None, 0, None)
        assert matches.ious == (0.0, pytest.approx(20 / 21), 0.0)

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

    def test_objects_of_classes_that_the_run_lacks_are_left_out(self) -> None:
        entry = ImageEntry(1, IMAGES[0][0], "")
        found = (detection(3, 0.9, (5, 5, 30, 30)), detection(7, 0.6, (50, 10, 30, 40)))
        labels = ImageLabels.labelled(entry, SIZE_HW, found)
        every = GroundTruth(truth_of_example(), CLASSES).match(labels)
        assert [o.category_id for o in every.objects] == [3, 7]
        assert every.right == (True, True)
        one = GroundTruth(truth_of_example(), [c for c in CLASSES if c.category_id == 3])
        assert [o.category_id for o in one.match(labels).objects] == [3]

    def test_not_coco(self) -> None:
        with pytest.raises(InputError, match="not a COCO file"):
            GroundTruth([], CLASSES)
