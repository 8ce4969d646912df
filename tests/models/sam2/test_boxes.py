"""SAM2 asked with boxes: the same as Meta's image predictor."""

import numpy as np
import pytest
import torch

from ntt_ray.models.sam2.boxes import Sam2BoxPrompter, points_in_box
from ntt_ray.models.sam2.proposer import build_sam2, load_sam2
from ntt_ray.models.weights import load_into, read_state_dict
from tests.support.golden import GOLDEN

CHECKPOINT = GOLDEN / "weights" / "sam2_nano.pt"
YAML = GOLDEN / "weights" / "sam2_nano.yaml"
BOXES = [[40.0, 60.0, 170.0, 200.0], [10.0, 20.0, 60.0, 50.0]]


@pytest.fixture(scope="module")
def image_rgb() -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (256, 256, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def candidates(image_rgb):
    prompter = Sam2BoxPrompter(load_sam2(CHECKPOINT, "nano", 256, YAML))
    image = torch.from_numpy(image_rgb.copy()).permute(2, 0, 1).float() / 255
    return prompter.candidates(image, torch.tensor(BOXES))


def test_the_answers_are_those_of_metas_predictor(image_rgb, candidates):
    from sam2.sam2_image_predictor import SAM2ImagePredictor

    model = build_sam2("nano", 256, YAML)
    load_into(model, read_state_dict(CHECKPOINT), CHECKPOINT)
    predictor = SAM2ImagePredictor(model.eval())
    predictor._bb_feat_sizes = [(64, 64), (32, 32), (16, 16)]  # it knows inputs of 1024 pixels only
    predictor.set_image(image_rgb)
    for box, found in zip(BOXES, candidates):
        for outputs, multimask in ((slice(0, 1), False), (slice(1, 4), True)):
            _, iou, logits = predictor.predict(
                box=np.array(box), multimask_output=multimask, normalize_coords=True
            )
            np.testing.assert_allclose(found.predicted_iou[outputs], iou, atol=1e-5)
            ours = found.logits[outputs].clamp(-32, 32)
            np.testing.assert_allclose(ours, logits, atol=1e-3)


def test_each_box_has_the_same_number_of_candidates(candidates):
    for found in candidates:
        assert found.logits.shape == (4 + 9 * 3, 64, 64)


def test_points_lie_in_the_middle_of_cells():
    points = points_in_box(torch.tensor([0.0, 10.0, 60.0, 40.0]))
    assert points.shape == (9, 1, 2)
    assert points[:4, 0].tolist() == [[10.0, 15.0], [30.0, 15.0], [50.0, 15.0], [10.0, 25.0]]
    assert points[-1, 0].tolist() == [50.0, 35.0]
