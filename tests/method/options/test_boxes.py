from __future__ import annotations

import numpy as np
import pytest
import torch

from ntt_ray.errors import ConfigError
from ntt_ray.method.labeler import Labeler
from ntt_ray.method.options.boxes import NO_BOXES, BoxPrompting, boxes_on_square
from ntt_ray.models.interfaces import Proposals
from ntt_ray.records import ImageBoxes
from ntt_ray.settings import BoxSettings, MethodSettings
from tests.support.fakes import BANK, FakeEncoder, FakeProposer, make_proposals


def _boxes(*rows: tuple[float, ...]) -> ImageBoxes:
    """Boxes x1, y1, x2, y2, score."""
    table = np.array(rows, np.float32).reshape(-1, 5)
    return ImageBoxes(table[:, :4], table[:, 4])


class Filled(FakeProposer):
    """Its mask of a box is all of the box; everywhere it has one mask; notes what it is asked."""

    def __init__(self, predicted_iou: float = 0.9) -> None:
        super().__init__(make_proposals(torch.ones(1, 32, 32, dtype=torch.bool), [0.5]))
        self.asked: list[tuple[str, bool]] = []
        self._predicted_iou = predicted_iou

    def propose_in_boxes(
        self, images, min_predicted_iou, wanted, boxes_xyxy, *, prompt, everywhere
    ):
        self.asked.append((prompt, everywhere))
        found = []
        for (grid,), boxes in zip([self.propose(images, 0.0, [0]) for _ in wanted], boxes_xyxy):
            masks = torch.zeros(len(boxes), 32, 32, dtype=torch.bool)
            for n, (x1, y1, x2, y2) in enumerate(boxes.round().long().tolist()):
                masks[n, y1:y2, x1:x2] = True
            own = make_proposals(masks, [self._predicted_iou] * len(boxes))
            if everywhere:
                own = Proposals(
                    torch.cat((grid.logits, own.logits)),
                    torch.cat((grid.predicted_iou, own.predicted_iou)),
                    torch.cat((grid.index, 1 + own.index)),
                )
            found.append(own)
        return found


def _image(size_wh: tuple[int, int] = (64, 32)) -> np.ndarray:
    """Red on the left, green on the right."""
    width, height = size_wh
    image = np.zeros((height, width, 3), np.uint8)
    image[:, : width // 2, 0] = image[:, width // 2 :, 1] = 255
    return image


LEFT, RIGHT = (0, 0, 24, 32), (40, 8, 64, 32)


def _label(boxes, settings=None, *, grid=False, proposer=None, **method):
    proposer = proposer or Filled()
    labeler = Labeler(
        FakeEncoder(),
        proposer,
        BANK,
        MethodSettings(**method),
        boxes=settings or BoxSettings(),
        grid=grid,
    )
    return labeler.label([_image()] * len(boxes), boxes)


def test_what_lies_in_boxes_is_labelled():
    found, none, missing = _label([_boxes((*RIGHT, 0.9), (*LEFT, 0.8)), NO_BOXES, None])
    assert {d.category_id: d.bbox_xywh for d in found} == {3: (0, 0, 24, 32), 8: (40, 8, 24, 24)}
    assert none == missing == ()


def test_images_without_any_boxes_have_no_detections():
    labeler = Labeler(FakeEncoder(), Filled(), BANK, boxes=BoxSettings(), grid=False)
    assert labeler.label([_image(), _image()]) == [(), ()]


@pytest.mark.parametrize("prompt", ["box", "centre", "points"])
@pytest.mark.parametrize("grid", [True, False])
def test_the_proposer_is_asked_as_the_settings_say(prompt, grid):
    proposer = Filled()
    (found,) = _label(
        [_boxes((*LEFT, 0.8))], BoxSettings(prompt=prompt), grid=grid, proposer=proposer
    )
    assert proposer.asked == [(prompt, grid)]
    assert len(found) == 1 + grid


def test_scores_of_boxes_weigh_those_of_labels_by_a_power():
    """Both masks resemble their class alike; the green one's box has half the score."""
    boxes = [_boxes((*LEFT, 1.0), (*RIGHT, 0.5))]
    plain = {d.category_id: d.score for d in _label(boxes)[0]}
    for power in (0.5, 1.0, 2.0):
        found = {d.category_id: d.score for d in _label(boxes, BoxSettings(score_power=power))[0]}
        assert found[3] == pytest.approx(plain[3])
        assert found[8] == pytest.approx(plain[8] * 0.5**power, rel=1e-5)


def test_scores_choose_which_detections_stay():
    """With one place for a detection; without the power the first of equal ones has it."""
    boxes = [_boxes((*LEFT, 0.3), (*RIGHT, 0.9))]
    (plain,) = _label(boxes, max_detections=1)
    (found,) = _label(boxes, BoxSettings(score_power=1.0), max_detections=1)
    assert [d.category_id for d in plain] == [3]
    assert [d.category_id for d in found] == [8]


def test_both_powers_multiply():
    boxes, proposer = [_boxes((*LEFT, 0.5))], Filled(predicted_iou=0.64)
    (plain,) = _label(boxes, proposer=proposer)
    (found,) = _label(boxes, BoxSettings(score_power=1.0), proposer=proposer, iou_power=0.5)
    assert found[0].score == pytest.approx(plain[0].score * 0.5 * 0.8, rel=1e-5)


def test_boxes_are_scaled_to_the_square():
    found = boxes_on_square(_boxes((10, 30, 20, 60, 1)), (60, 40), 120)
    assert found.tolist() == [[30.0, 60.0, 60.0, 120.0]]
    assert boxes_on_square(NO_BOXES, (60, 40), 120).shape == (0, 4)


CUT = {
    "inside": ((1, 2, 3, 4), (1, 2, 3, 4)),
    "across the border": ((-5, 2, 3, 90), (0, 2, 3, 20)),
    "all of it": ((-1, -1, 99, 99), (0, 0, 10, 20)),
    "beside it": ((10, 2, 30, 4), None),
    "above it": ((2, -9, 3, 0), None),
}


@pytest.mark.parametrize("case", CUT.values(), ids=CUT.keys())
def test_boxes_are_cut_to_the_image(case):
    box, expected = case
    found = _boxes((*box, 0.5)).on_image((20, 10))
    assert [tuple(own) for own in found.boxes_xyxy.tolist()] == ([expected] if expected else [])
    assert found.scores.tolist() == ([0.5] if expected else [])


def test_a_proposer_that_takes_no_boxes_is_refused():
    plain = FakeProposer(make_proposals(torch.ones(1, 32, 32, dtype=torch.bool), [0.5]))
    with pytest.raises(ConfigError, match="FakeProposer cannot be asked with boxes"):
        BoxPrompting(plain, BoxSettings(), grid=False)


def test_other_numbers_of_scores_are_refused():
    with pytest.raises(ValueError, match="2 scores"):
        ImageBoxes(np.zeros((1, 4), np.float32), np.zeros(2, np.float32))
