import json

import numpy as np
import pytest

from ntt_ray.merge.thresholds import Thresholds
from ntt_ray.run.layout import COCO_FILE
from tests.support.run_files import make_labels
from tests.support.verify_run import Run


def test_classes_have_their_own_threshold_or_the_common_one():
    found = Thresholds(0.4, {1: 0.0, 2: 0.9})
    assert (found.of(np.array([2, 7, 1, 3, 2])) == np.float32([0.9, 0.4, 0.0, 0.4, 0.9])).all()
    assert (Thresholds(0.4).of(np.array([2, 7], np.int32)) == np.float32([0.4, 0.4])).all()


@pytest.mark.parametrize("score", [0.1, 0.3, 0.7, 0.9, 1 / 3])
def test_a_score_reaches_the_threshold_of_the_same_number(score):
    """Scores are kept in 32 bits, where 0.7 and 0.9 are a little less than in 64."""
    (detection,) = make_labels(1, (float(np.float32(score)),)).detections
    for thresholds in (Thresholds(score), Thresholds(1.0, {detection.category_id: score})):
        assert detection.score >= thresholds.of_class(detection.category_id)
        assert detection.score >= thresholds.of(np.array([detection.category_id]))[0]


@pytest.mark.parametrize("score", [0.4, float(np.float32(0.4)), 0.39999, 0.5])
def test_one_by_one_is_as_by_column(score):
    score = float(np.float32(score))
    for thresholds in (Thresholds(0.4), Thresholds(0.9, {1: 0.4})):
        (detection,) = make_labels(1, (score,)).detections
        by_column = score >= thresholds.of(np.array([detection.category_id]))
        assert (score >= thresholds.of_class(detection.category_id)) == bool(by_column[0])


def test_a_merge_keeps_what_has_just_the_threshold(tmp_path):
    run = Run(tmp_path, min_score=0.5)
    run.merge()
    own = [d.score for unit in run.units for labels in unit for d in labels.detections]
    assert 0.5 in own
    merged = json.loads((run.output / COCO_FILE).read_text())["annotations"]
    assert len(merged) == sum(score >= 0.5 for score in own)
