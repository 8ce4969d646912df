"""GPU hours are predicted for what was counted, and for nothing else."""

import pytest

from ntt_ray.config import build_config
from ntt_ray.plan.predictions import PREDICTED_MS, predicted_gpu_hours

TS = {"encoder": {"name": "dinov2_vits14"}, "proposer": {"name": "sam2.1_hiera_t"}}
OTHER = {
    "another model": {"models": {**TS, "proposer": {"name": "sam2_hiera_l"}}},
    "float32": {"models": {**TS, "precision": "fp32"}},
    "fewer points": {"models": TS, "method": {"points_per_side": 16}},
    "tiles": {"models": TS, "method": {"tiles": {}}},
    "chosen points": {"models": TS, "method": {"prompts": {"min_similarity": 0.3}}},
    "refinement": {"models": TS, "method": {"refinement": {}}},
    "boxes": {"models": TS, "proposals": {"boxes": "boxes.json", "grid": False}},
}


def test_hours_are_images_times_milliseconds(golden_config):
    config = build_config({**golden_config, "models": TS, "method": {}})
    found = predicted_gpu_hours(config, 3_600_000)
    assert found == pytest.approx(PREDICTED_MS["dinov2_vits14", "sam2.1_hiera_t"])


@pytest.mark.parametrize("changes", OTHER.values(), ids=OTHER.keys())
def test_nothing_is_predicted_for_what_was_not_counted(golden_config, changes):
    config = build_config({**golden_config, "method": {}, **changes})
    assert predicted_gpu_hours(config, 1000) == {}
