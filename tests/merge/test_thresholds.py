import numpy as np
import pytest

from ntt_ray.merge.thresholds import Thresholds
from tests.support.run_files import make_labels


def test_classes_have_their_own_threshold_or_the_common_one():
    found = Thresholds(0.4, {1: 0.0, 2: 0.9})
    assert found.of(np.array([2, 7, 1, 3, 2])).tolist() == [0.9, 0.4, 0.0, 0.4, 0.9]
    assert Thresholds(0.4).of(np.array([2, 7], np.int32)).tolist() == [0.4, 0.4]


@pytest.mark.parametrize("score", [0.4, float(np.float32(0.4)), 0.39999, 0.5])
def test_one_by_one_is_as_by_column(score):
    score = float(np.float32(score))
    for thresholds in (Thresholds(0.4), Thresholds(0.9, {1: 0.4})):
        (detection,) = make_labels(1, (score,)).detections
        by_column = score >= thresholds.of(np.array([detection.category_id]))
        assert (score >= thresholds.of_class(detection.category_id)) == bool(by_column[0])
