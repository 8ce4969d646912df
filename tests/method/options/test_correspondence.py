"""The forward-backward check: patches that lead back into the references' masks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from ntt_ray.bank.memory import MemoryBank
from ntt_ray.bank.patches import ReferencePatches
from ntt_ray.errors import InputError
from ntt_ray.images import resize_square
from ntt_ray.method.labeler import Labeler
from ntt_ray.method.options.correspondence import leading_back, shares_of
from ntt_ray.method.tiling import make_labeler
from ntt_ray.models.inputs import to_input
from ntt_ray.records import ImageBoxes
from ntt_ray.settings import (
    AveragingSettings,
    BoxSettings,
    CorrespondenceSettings,
    MethodSettings,
    PromptSettings,
    TileSettings,
)
from tests.support.fakes import (
    BANK,
    CLASSES,
    PROTOTYPES,
    FakeEncoder,
    FakeProposer,
    make_proposals,
)
from tests.support.noise import Noise

RED, GREEN, BLUE = torch.eye(4)[:3]
ON = CorrespondenceSettings()


def test_a_worked_example():
    """Two channels; the first reference is an object at 0 degrees on a ground at 90.

    The second one has its object at 30 degrees, its ground at 0.
    """
    degrees = torch.deg2rad(torch.tensor([[0.0, 90.0], [30.0, 0.0]]))
    references = torch.stack((degrees.cos(), degrees.sin()), dim=2)
    inside = torch.tensor([[True, False], [True, False]])
    asked = torch.deg2rad(torch.tensor([10.0, 20.0, 60.0, 225.0]))
    patches = torch.stack((asked.cos(), asked.sin()), dim=1)
    # 10: nearest to 0 of 0 and 90, inside; and to 0 of 30 and 0, outside: one of two is half
    # 20: inside in both; 60: outside and inside; 225: nearest are more than 90 degrees away
    assert leading_back(patches, references, inside).tolist() == [True, True, True, False]
    assert leading_back(patches, references[:1], inside[:1]).tolist() == [True, True, False, False]
    assert leading_back(patches, references[1:], inside[1:]).tolist() == [False, True, True, False]
    # three references, the first one twice: two votes of three are needed
    three = leading_back(patches, references[[0, 0, 1]], inside[[0, 0, 1]])
    assert three.tolist() == [True, True, False, False]


def _plain_leading_back(patches, references, inside) -> list[bool]:
    found = []
    for patch in patches.tolist():
        votes = 0
        for reference, within in zip(references.tolist(), inside.tolist()):
            likeness = [sum(a * b for a, b in zip(patch, other)) for other in reference]
            best = max(likeness)
            nearest = [n for n, value in enumerate(likeness) if value == best]
            votes += best > 0 and any(within[n] for n in nearest)
        found.append(votes >= len(references) / 2)
    return found


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 6), st.integers(1, 7))
def test_equals_the_loops(seed, count, size, asked):
    """Small whole numbers are exact in any order of adding, and many are equally near."""
    random = torch.Generator().manual_seed(seed)
    patches = torch.randint(-2, 3, (asked, 3), generator=random).float()
    references = torch.randint(-2, 3, (count, size, 3), generator=random).half()
    inside = torch.randint(0, 2, (count, size), generator=random).bool()
    found = leading_back(patches, references, inside).tolist()
    assert found == _plain_leading_back(patches, references, inside)


def test_shares_by_hand():
    """Masks as fine as the patches: the share is a share of pixels."""
    patches = torch.tensor([[True, True, False], [False, False, False], [False, False, True]])
    masks = torch.zeros(4, 3, 3, dtype=torch.bool)
    masks[0, :2, :2] = True  # two of four
    masks[1, 0, :2] = True  # both
    masks[2, 1] = True  # none
    assert shares_of(masks, patches).tolist() == pytest.approx([0.5, 1.0, 0.0, 0.0])


@pytest.mark.parametrize(("grid", "size"), [((4, 4), 16), ((5, 7), 16), ((9, 9), 4)], ids=str)
def test_shares_are_means_in_the_masks_at_their_size(grid, size):
    random = torch.Generator().manual_seed(4)
    patches = torch.rand(grid, generator=random) > 0.5
    masks = torch.rand(6, size, size, generator=random) > 0.6
    resized = F.interpolate(
        patches[None, None].float(), size=(size, size), mode="bilinear", antialias=True
    )[0, 0]
    expected = [float(resized[mask].mean()) for mask in masks]
    assert shares_of(masks, patches).tolist() == pytest.approx(expected, abs=1e-5)


def _bank(*shots: list[tuple[torch.Tensor, torch.Tensor]]) -> MemoryBank:
    """The bank of red and green, with references of two patches each: the object, and around it."""
    return MemoryBank.from_means(
        CLASSES,
        [[PROTOTYPES[k][0]] * len(own) for k, own in enumerate(shots)],
        encoder={},
        reference_digest="",
        patches=[
            [ReferencePatches(torch.stack(two).half(), torch.tensor([True, False])) for two in own]
            for own in shots
        ],
    )


def _every(inside: bool) -> MemoryBank:
    """A bank where whatever resembles a class leads back into a mask, or nothing does."""
    patches = ReferencePatches((torch.ones(1, 4) / 2).half(), torch.tensor([inside]))
    means = [PROTOTYPES[k] for k in range(2)]
    return MemoryBank.from_means(
        CLASSES, means, encoder={}, reference_digest="", patches=[[patches], [patches]]
    )


def _image(size_hw=(32, 32)) -> np.ndarray:
    """Red on the left, green on the right."""
    image = np.zeros((*size_hw, 3), dtype=np.uint8)
    image[:, : size_hw[1] // 2, 0] = image[:, size_hw[1] // 2 :, 1] = 255
    return image


def _halves(left: slice = slice(2, 12)) -> FakeProposer:
    masks = torch.zeros(2, 32, 32, dtype=torch.bool)
    masks[0, 4:28, left] = masks[1, 4:28, 20:30] = True
    return FakeProposer(make_proposals(masks, [0.9, 0.8]))


def _found(bank, proposer=None, strips=None, **method) -> dict[int, float]:
    labeler = Labeler(FakeEncoder(), proposer or _halves(), bank, MethodSettings(**method))
    labeler.strips = strips
    return {d.category_id: d.score for d in labeler.label([_image()])[0]}


@pytest.mark.parametrize("strips", [False, True], ids=["run lengths", "strips"])
def test_what_leads_beside_the_object_is_left_out(strips):
    """The class green is seen on blue, the class red on green, as leaves around a berry."""
    right = _bank([(RED, GREEN)], [(GREEN, BLUE)])
    plain = _found(BANK, strips=strips)
    assert plain.keys() == {3, 8}
    found = _found(right, strips=strips, correspondence=ON)
    assert found == pytest.approx(plain, abs=1e-6)
    # what is green leads beside the object of the second class: one of two references is enough
    wrong = (BLUE, GREEN)
    for shots, kept in (([wrong], {3}), ([wrong, (GREEN, BLUE)], {3, 8}), ([wrong] * 2, {3})):
        bank = _bank([(RED, GREEN)], shots)
        assert _found(bank, strips=strips, correspondence=ON).keys() == kept
        assert _found(bank, strips=strips) == plain


def test_scores_fall_by_the_share_to_a_power():
    """The red mask reaches two columns of patches, where red leads back in one of them."""
    image = np.zeros((32, 32, 3), dtype=np.uint8)
    image[:, :8] = 255, 0, 0
    image[:, 8:] = 200, 0, 220  # more blue than red
    masks = torch.zeros(1, 32, 32, dtype=torch.bool)
    masks[0, :, 2:14] = True
    proposer = FakeProposer(make_proposals(masks, [0.9]))
    bank = _bank([(RED, BLUE)], [(GREEN, RED)])

    def score(**method) -> float:
        labeler = Labeler(FakeEncoder(), proposer, bank, MethodSettings(**method))
        (found,) = labeler.label([image])[0]
        assert found.category_id == 3
        return found.score

    leading = torch.zeros(4, 4, dtype=torch.bool)
    leading[:, 0] = True
    share = float(shares_of(masks, leading)[0])
    assert 0.4 < share < 0.6
    for power in (0.25, 1.0, 2.0):
        own = score(correspondence=CorrespondenceSettings(power=power))
        assert own == pytest.approx(score() * share**power, rel=1e-5)


def _candidates(labeler: Labeler, image: np.ndarray):
    inputs = to_input([resize_square(image, 32)])
    features = labeler.encoder.encode(inputs)[0]
    return features, labeler.match(features, labeler.propose(inputs, features[None], [0])[0])


@pytest.mark.parametrize("limit", [1, 100])
def test_before_suppression_it_would_be_the_same(limit):
    """Scores choose nothing in NMS and its cut but what has none; green has none here."""
    random, fewer = np.random.default_rng(2), 0
    bank = _bank([(RED, GREEN), (RED, BLUE)], [(BLUE, GREEN)])
    method = MethodSettings(correspondence=ON, max_detections=limit)
    labeler = Labeler(FakeEncoder(), Noise(), bank, method)
    for _ in range(10):
        colours = np.eye(3, dtype=np.uint8)[random.integers(0, 2, (4, 4))] * 255
        image = np.kron(colours, np.ones((8, 8, 1), np.uint8))
        features, matched = _candidates(labeler, image)
        after = labeler.confirm(features, labeler.suppress(matched))
        masks = matched.proposals.logits > 0
        scores = labeler._correspondence.weighed(features, masks, matched.labels, matched.scores)
        before, without = (
            labeler.suppress(own) for own in (matched._replace(scores=scores), matched)
        )
        assert after.proposals.index.tolist() == before.proposals.index.tolist()
        torch.testing.assert_close(after.scores, before.scores, rtol=1e-5, atol=1e-6)
        fewer += 0 < len(after.scores) < len(without.scores)
    assert fewer > 0


def _all(labeler, image, *boxes):
    found = labeler.label([image], *boxes)[0]
    return [(d.category_id, d.rle, pytest.approx(d.score, abs=1e-6)) for d in found]


def test_views_of_tiles_are_checked_each_by_itself():
    image = np.random.default_rng(5).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    base = {"tiles": TileSettings(), "max_detections": 500}
    plain, kept, none = (
        _all(make_labeler(FakeEncoder(), Noise(), bank, MethodSettings(**base, **own)), image)
        for bank, own in (
            (_every(True), {}),
            (_every(True), {"correspondence": ON}),
            (_every(False), {"correspondence": ON}),
        )
    )
    assert len(plain) > 10
    assert kept == plain
    assert none == []


class Promptable(FakeProposer):
    """Its masks are those of `_halves`, wherever it is asked."""

    points = torch.tensor([[7.0, 16.0], [25.0, 16.0]])

    def __init__(self) -> None:
        super().__init__(_halves()._proposals)

    def propose_at(self, image, min_predicted_iou, points):
        return self._proposals.select(points)

    def propose_in_boxes(self, images, min_predicted_iou, wanted, boxes, *, prompt, everywhere):
        return [self._proposals for _ in wanted]


@pytest.mark.parametrize("other", ["prompts", "averaging", "boxes"])
def test_other_options_beside_it(other):
    options = {"prompts": PromptSettings(), "averaging": AveragingSettings()}
    own = {name: option for name, option in options.items() if name == other}
    asked, boxes = {}, ()
    if other == "boxes":
        box = ImageBoxes(np.array([[2, 4, 12, 28]], np.float32), np.ones(1, np.float32))
        asked, boxes = {"boxes": BoxSettings(), "grid": False}, ([box],)

    def found(bank, **method):
        chosen = MethodSettings(**own, **method)
        return _all(Labeler(FakeEncoder(), Promptable(), bank, chosen, **asked), _image(), *boxes)

    assert len(found(BANK)) == 2
    assert found(_every(True), correspondence=ON) == found(BANK)
    assert found(_every(False), correspondence=ON) == []


def test_a_bank_without_patches_is_refused():
    with pytest.raises(InputError, match=r"method\.correspondence compares with; build it again"):
        Labeler(FakeEncoder(), _halves(), BANK, MethodSettings(correspondence=ON))
