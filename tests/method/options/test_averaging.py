"""Nearly the same masks averaged, against one mask after the other."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ntt_ray.masks import decode_rle
from ntt_ray.method.labeler import Labeler
from ntt_ray.method.options.averaging import averaged_masks
from ntt_ray.method.tiling import make_labeler
from ntt_ray.models.interfaces import Proposals
from ntt_ray.settings import AveragingSettings, MethodSettings, TileSettings
from tests import reference
from tests.support.fakes import BANK, CLASSES, FakeEncoder, FakeProposer
from tests.support.noise import Noise


def _rows(*rows: list[float]) -> torch.Tensor:
    """Masks of one row of pixels each."""
    return torch.tensor(rows)[:, None, :]


def _plain(logits, predicted_iou, labels, min_iou) -> dict[int, torch.Tensor]:
    """Mask by mask, in loops: by position of what stays, its logits."""
    members: dict[int, list[int]] = {}
    for i in sorted(range(len(logits)), key=lambda i: (-float(predicted_iou[i]), i)):
        own = (logits[i] > 0).numpy()
        for host in members:  # the best comes first
            other = (logits[host] > 0).numpy()
            union = np.logical_or(own, other).sum()
            common = np.logical_and(own, other).sum()
            if labels[i] == labels[host] and union and common / union >= min_iou:
                members[host].append(i)
                break
        else:
            members[i] = [i]
    found = {}
    for host, own in members.items():
        mean = sum(logits[i].double() for i in own) / len(own)
        found[host] = mean.float() if (mean > 0).any() else logits[host]
    return found


def test_the_worked_example():
    """Of five masks of a row of five pixels the second and fourth join the first, the best."""
    logits = _rows(
        [8.0, 6.0, 4.0, 2.0, -1.0],  # the best: four pixels
        [5.0, 3.0, 1.0, -4.0, -4.0],  # three of them: IoU 3/4
        [2.0, 0.0, 4.0, 8.0, 2.0],  # IoU 3/5: the second pixel is outside
        [2.0, 2.0, 2.0, 2.0, 2.0],  # all five: IoU 4/5
        [8.0, 6.0, 4.0, 2.0, -1.0],  # the same as the first, of another class
    )
    iou, labels = torch.tensor([0.9, 0.6, 0.5, 0.7, 0.8]), torch.tensor([1, 1, 1, 1, 0])
    kept, means = averaged_masks(logits, iou, labels, 0.75)
    assert kept.tolist() == [0, 2, 4]
    assert torch.allclose(means[0, 0], torch.tensor([5.0, 11 / 3, 7 / 3, 0.0, -1.0]))
    assert torch.equal(means[1:], logits[[2, 4]])
    kept, means = averaged_masks(logits, iou, labels, 0.8)  # at the limit they are one
    assert kept.tolist() == [0, 1, 2, 4]
    assert torch.equal(means[0, 0], (logits[0, 0] + logits[3, 0]) / 2)


def test_a_mask_joins_one_that_stays_and_no_one_that_joined_another():
    """A chain of three: the second joins the first; the third is near to the second alone."""
    logits = _rows([1.0, 1, 1, 1, -1, -1], [-1.0, 1, 1, 1, 1, -1], [-1.0, -1, 1, 1, 1, 1])
    iou = torch.tensor([0.9, 0.8, 0.7])
    kept, means = averaged_masks(logits, iou, torch.zeros(3, dtype=torch.int64), 0.6)
    assert kept.tolist() == [0, 2]
    assert means[0, 0].tolist() == [0.0, 1, 1, 1, 0, -1]
    assert torch.equal(means[1], logits[2])


def test_a_mean_without_a_pixel_is_no_mask():
    logits = _rows([1.0, 1.0], [1.0, -9.0], [-9.0, 1.0])
    iou = torch.tensor([0.9, 0.8, 0.7])
    kept, means = averaged_masks(logits, iou, torch.zeros(3, dtype=torch.int64), 0.5)
    assert kept.tolist() == [0]
    assert torch.equal(means, logits[:1])


@pytest.mark.parametrize("count", [0, 1])
def test_few_masks(count):
    logits = torch.randn(count, 3, 4)
    kept, means = averaged_masks(logits, torch.ones(count), torch.zeros(count).long(), 0.8)
    assert kept.tolist() == list(range(count))
    assert torch.equal(means, logits)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 30), st.sampled_from([0.3, 0.5, 0.8, 1.0]))
def test_equals_the_loops(seed, count, min_iou):
    random = torch.Generator().manual_seed(seed)
    logits = torch.randn(4, 5, 6, generator=random)[torch.randint(0, 4, (count,), generator=random)]
    logits = logits + 0.3 * torch.randn(count, 5, 6, generator=random)
    logits[::7] = -1.0  # empty ones
    iou = torch.randint(0, 6, (count,), generator=random) / 5  # many ties
    labels = torch.randint(0, 2, (count,), generator=random)
    kept, means = averaged_masks(logits, iou, labels, min_iou)
    expected = _plain(logits, iou, labels, min_iou)
    assert kept.tolist() == sorted(expected)
    for position, mean in zip(kept.tolist(), means, strict=True):
        torch.testing.assert_close(mean, expected[position], atol=1e-5, rtol=0)


def _own(labeler, strips):
    own = labeler if isinstance(labeler, Labeler) else labeler.labeler
    own.strips = strips
    return labeler


@pytest.mark.parametrize("strips", [False, True], ids=["run lengths", "strips"])
def test_what_labels_are_made_of_the_means(strips):
    """Two masks of red, one of them a column wider; all but the mask is of the better one."""
    logits = torch.full((3, 32, 32), -4.0)
    logits[0, 4:28, 2:12] = 2.0
    logits[1, 4:28, 2:13] = 6.0  # where the first one is outside, its logit weighs more
    logits[2, 4:28, 20:30] = 2.0
    proposals = Proposals(logits, torch.tensor([0.9, 0.8, 0.7]), torch.arange(3))
    image = np.zeros((32, 32, 3), dtype=np.uint8)
    image[:, :16, 0] = image[:, 16:, 1] = 255
    wanted = MethodSettings(averaging=AveragingSettings(), nms_iou=None)
    labeler = _own(Labeler(FakeEncoder(), FakeProposer(proposals), BANK, wanted), strips)
    found = sorted(labeler.label([image])[0], key=lambda d: d.category_id)
    assert [d.category_id for d in found] == [CLASSES[0].category_id, CLASSES[1].category_id]
    assert found[0].predicted_iou == pytest.approx(0.9)
    expected = reference.full_size_mask((logits[0] + logits[1]) / 2, (32, 32))
    np.testing.assert_array_equal(decode_rle(found[0].rle), expected)
    assert found[0].area == 11 * 24


def test_views_of_tiles_are_averaged_each_by_itself():
    """With a limit of 1 nothing changes; a lower one leaves fewer detections."""
    image = np.random.default_rng(5).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    base = {"tiles": TileSettings(), "nms_iou": None, "max_detections": 500}
    counts = []
    for averaging in (None, AveragingSettings(min_iou=1.0), AveragingSettings(min_iou=0.2)):
        method = MethodSettings(**base, averaging=averaging)
        (found,) = make_labeler(FakeEncoder(), Noise(), BANK, method).label([image])
        counts.append(len(found))
    assert counts[0] == counts[1] > counts[2] > 0
