import threading

import numpy as np
import pytest
import torch

from ntt_ray.bank.memory import MemoryBank
from ntt_ray.images import resize_square
from ntt_ray.masks import decode_rle
from ntt_ray.method import masks_at_size
from ntt_ray.method.labeler import Labeler
from ntt_ray.method.strips import strip_runs
from ntt_ray.models.inputs import to_input
from ntt_ray.models.interfaces import Proposals
from ntt_ray.settings import MethodSettings
from tests import reference
from tests.support.fakes import BANK, CLASSES, FakeEncoder, FakeProposer, make_proposals


def _image(height=40, width=60) -> np.ndarray:
    """Red on the left, green on the right."""
    image = np.zeros((height, width, 3), dtype=np.uint8)
    image[:, : width // 2, 0] = 255
    image[:, width // 2 :, 1] = 255
    return image


def _rectangle(x1, y1, x2, y2, size=32) -> torch.Tensor:
    mask = torch.zeros(size, size, dtype=torch.bool)
    mask[y1:y2, x1:x2] = True
    return mask


def _label(masks, predicted_iou, image=None, **settings):
    proposals = make_proposals(torch.stack(masks), predicted_iou) if masks else _no_proposals()
    labeler = Labeler(FakeEncoder(), FakeProposer(proposals), BANK, MethodSettings(**settings))
    return labeler.label([_image() if image is None else image])[0]


def _no_proposals() -> Proposals:
    return Proposals(torch.zeros(0, 32, 32), torch.zeros(0), torch.zeros(0, dtype=torch.int64))


def test_classes_scores_and_boxes():
    found = _label([_rectangle(2, 4, 12, 28), _rectangle(20, 4, 30, 28)], [0.9, 0.8])
    assert sorted(d.category_id for d in found) == [3, 8]
    assert all(0.9 < d.score <= 1.0 for d in found)
    assert {round(d.predicted_iou, 6) for d in found} == {0.9, 0.8}
    for detection in found:
        mask = decode_rle(detection.rle)
        assert mask.shape == (40, 60)
        ys, xs = np.nonzero(mask)
        x, y, width, height = detection.bbox_xywh
        assert (x, y) == (xs.min(), ys.min())
        assert (width, height) == (np.ptp(xs) + 1, np.ptp(ys) + 1)
        assert detection.area == mask.sum() > 0


DEGENERATE = {
    "no proposal": ([], []),
    "none above the threshold": ([_rectangle(2, 2, 9, 9)], [0.4]),
    "only an empty mask": ([torch.zeros(32, 32, dtype=torch.bool)], [0.9]),
}


@pytest.mark.parametrize(("masks", "ious"), DEGENERATE.values(), ids=DEGENERATE.keys())
def test_nothing_found_is_a_normal_result(masks, ious):
    assert _label(masks, ious) == ()


def test_an_empty_mask_among_others_changes_nothing():
    masks, ious = [_rectangle(2, 4, 12, 28), _rectangle(20, 4, 30, 28)], [0.9, 0.8]
    with_empty = _label([torch.zeros(32, 32, dtype=torch.bool), *masks], [0.99, *ious])
    assert [(d.category_id, d.score, d.rle) for d in with_empty] == [
        (d.category_id, d.score, d.rle) for d in _label(masks, ious)
    ]


def test_a_logit_of_zero_is_outside_and_a_little_above_is_inside():
    """The second of three masks is a double of the first; the third lies beside both."""
    logits = torch.zeros(3, 32, 32)
    logits[0, 4:28, 1:8] = logits[1, 4:28, 1:7] = logits[2, 4:28, 10:14] = 0.5
    proposals = Proposals(logits, torch.tensor([0.9, 0.8, 0.7]), torch.arange(3))
    (found,) = Labeler(FakeEncoder(), FakeProposer(proposals), BANK).label([_image(32, 32)])
    assert sorted(d.area for d in found) == [4 * 24, 7 * 24]
    assert {d.category_id for d in found} == {CLASSES[0].category_id}


def test_scores_of_zero_fall_out_after_nms():
    blue = np.zeros((40, 60, 3), dtype=np.uint8)
    blue[..., 2] = 255
    negative = MemoryBank.from_means(
        CLASSES[:1],
        [[(torch.tensor([-1.0, -1.0, -1.0, -1.0]), 1.0)]],
        encoder={},
        reference_digest="",
    )
    proposals = make_proposals(torch.stack([_rectangle(2, 2, 20, 20)]), [0.9])
    assert Labeler(FakeEncoder(), FakeProposer(proposals), negative).label([blue]) == [()]


def test_a_part_inside_a_better_whole_decays():
    whole, part = _rectangle(1, 1, 15, 31), _rectangle(3, 3, 8, 9)
    found = _label([whole, part], [0.9, 0.8])
    assert len(found) == 2
    assert found[0].area > found[1].area
    assert found[1].score < 0.1
    # the other way round the part comes first in NMS order and the whole holds only a bit of it
    found = _label([whole, part], [0.8, 0.9])
    assert min(d.score for d in found) > 0.8


def test_a_mask_that_vanishes_at_the_images_size_is_dropped():
    speck = torch.zeros(32, 32, dtype=torch.bool)
    speck[0, 31] = True
    found = _label([speck, _rectangle(2, 4, 12, 28)], [0.99, 0.9], image=_image(4, 6))
    assert all(d.area >= 1 for d in found)
    assert len(found) == 1


def test_max_detections():
    masks = [_rectangle(i * 3, 0, i * 3 + 3, 32) for i in range(10)]
    found = _label(masks, [0.9 - i / 100 for i in range(10)], max_detections=4)
    assert len(found) == 4
    assert [d.score for d in found] == sorted((d.score for d in found), reverse=True)


@pytest.mark.parametrize(("others", "is_found"), [(7, True), (8, False)])
def test_eight_masks_for_each_detection_wanted_enter_soft_merging(others, is_found):
    """The clear mask has the lowest predicted IoU; before it come some half red, half green."""
    unclear = [_rectangle(8, 4 * n, 24, 4 * n + 4) for n in range(others)]
    clear = _rectangle(1, 0, 6, 32)
    (found,) = _label([*unclear, clear], [0.9] * others + [0.5], max_detections=1)
    assert (found.score > 0.9) is is_found


@pytest.mark.parametrize("strips", [False, True], ids=["run lengths", "strips"])
@pytest.mark.parametrize("nms_iou", [1.0, None])  # a box IoU is never above 1
def test_the_whole_method_equals_the_plain_one(strips, nms_iou):
    rng = np.random.default_rng(3)
    logits = torch.nn.functional.interpolate(
        torch.from_numpy(rng.normal(size=(1, 60, 6, 6)).astype(np.float32)), size=(32, 32)
    )[0]
    proposals = Proposals(
        logits, torch.from_numpy(rng.uniform(0.4, 1, 60).astype(np.float32)), torch.arange(60)
    )
    image = rng.integers(0, 256, (45, 70, 3), dtype=np.uint8)
    labeler = Labeler(
        FakeEncoder(),
        FakeProposer(proposals),
        BANK,
        MethodSettings(min_predicted_iou=0.0, nms_iou=nms_iou, max_detections=20),
    )
    labeler.strips = strips
    found = labeler.label([image])[0]
    features = FakeEncoder().encode(to_input([resize_square(image, 32)]))[0]
    expected = reference.label_image(
        features,
        logits,
        proposals.predicted_iou,
        proposals.index,
        labeler.prototypes,
        (45, 70),
        nms_iou=1.0,  # random masks all have the same box
        max_detections=20,
    )
    assert len(found) == len(expected) == 20
    for detection, (label, score, mask) in zip(found, expected):
        assert detection.category_id == CLASSES[label].category_id
        assert detection.score == pytest.approx(score, abs=1e-4)
        np.testing.assert_array_equal(decode_rle(detection.rle), mask)


def test_a_batch_gives_what_single_images_give():
    images = [_image(), _image(30, 30), _image(64, 20)]
    proposals = make_proposals(
        torch.stack([_rectangle(2, 4, 12, 28), _rectangle(20, 4, 30, 28)]), [0.9, 0.8]
    )
    labeler = Labeler(FakeEncoder(), FakeProposer(proposals), BANK)
    together = labeler.label(images)
    assert together == [labeler.label([image])[0] for image in images]


def test_what_the_device_gives_is_waited_for_in_another_thread(monkeypatch):
    """The caller can begin the next step while masks, labels and scores are still on their way."""
    labeler = Labeler(
        FakeEncoder(), FakeProposer(make_proposals(_rectangle(2, 4, 12, 28)[None], [0.9])), BANK
    )
    labeler.strips = True
    expected = labeler.label([_image()])
    threads = []

    def traced(logits, size_hw):
        threads.append(threading.current_thread())
        return strip_runs(logits, size_hw)

    monkeypatch.setattr(masks_at_size, "strip_runs", traced)
    busy = threading.Event()
    labeler.host.submit(labeler.proposer.device, busy.wait, 60)
    (found,) = labeler.begin([resize_square(_image(), 32)], [(40, 60)])
    assert not found.done()
    busy.set()
    assert found.result(60) == expected[0]
    assert threads != [threading.current_thread()]
    assert len(threads) == 1
