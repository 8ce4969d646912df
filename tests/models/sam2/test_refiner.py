"""Masks asked about again on the fast decoder, against Meta's module and plain loops."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.ops import box_iou

from ntt_ray.models.compilation import CompileOptions
from ntt_ray.models.interfaces import Proposals
from ntt_ray.models.sam2.decoder import refiner as refiner_module
from ntt_ray.models.sam2.decoder import run as sam2_run
from ntt_ray.models.sam2.decoder.boxed import tight_boxes
from ntt_ray.models.sam2.decoder.image import Sam2Features
from ntt_ray.models.sam2.decoder.refiner import Refiner, centre_points
from ntt_ray.models.sam2.decoder.run import PointDecoder
from ntt_ray.models.sam2.proposer import Sam2Proposer, point_grid
from ntt_ray.settings import RefinementSettings
from tests.support.golden import GOLDEN
from tests.support.random_decoder import SIDE, plain_decode, random_features, random_model


def _asked(masks: Tensor, predicted_iou: Tensor) -> list[int]:
    """Class-agnostic NMS of boxes at 0.7, mask by mask."""
    boxes, kept = tight_boxes(masks), list[int]()
    for i in sorted(range(len(masks)), key=lambda i: (-float(predicted_iou[i]), i)):
        near = (float(box_iou(boxes[i : i + 1], boxes[k : k + 1])) for k in kept)
        if masks[i].any() and all(iou <= 0.7 for iou in near):
            kept.append(i)
    return kept


def _centre(mask: Tensor) -> list[float]:
    """The middle of the pixel that is farthest from all that is not the mask, in the input.

    SAM2's prompt encoder adds half a pixel to it.
    """
    outside = torch.nonzero(~torch.nn.functional.pad(mask, (1, 1, 1, 1))).double() - 1
    inside = torch.nonzero(mask)  # in reading order
    depths = torch.cdist(inside.double(), outside, compute_mode="donot_use_mm_for_euclid_dist")
    squares = depths.amin(dim=1).square().round()
    y, x = inside[int(torch.nonzero(squares == squares.max())[0])].tolist()
    return [4 * (x + 0.5) - 0.5, 4 * (y + 0.5) - 0.5]


def plain_refined(
    model: Any, features: Sam2Features, proposals: Proposals, min_iou: float
) -> tuple[list[Tensor], list[float], list[int]]:
    """Logits and predicted IoU of each proposal, and which have a new mask, by Meta's decoder."""
    logits, iou = list(proposals.logits), proposals.predicted_iou.tolist()
    taken = []
    for n in _asked(proposals.logits > 0, proposals.predicted_iou):
        old = proposals.logits[n] > 0
        masks, every = plain_decode(model, torch.tensor([_centre(old)]), features)
        output = int(every[0, 1:].argmax()) + 1
        new, own = masks[0, output].float(), float(every[0, output].float())
        if own > iou[n] and (old & (new > 0)).sum() / (old | (new > 0)).sum() >= min_iou:
            logits[n], iou[n] = new, own
            taken.append(n)
    return logits, iou, taken


def _copy(proposals: Proposals) -> Proposals:
    fields = (proposals.logits, proposals.predicted_iou, proposals.index)
    return Proposals(*(field.clone() for field in fields))


MODELS = {
    "plain": (32, 4, {}),
    "no object score": (32, 8, {"pred_obj_scores": False}),
    "published width": (256, 8, {}),
}


def _case(name: str, **options: Any) -> tuple[Any, PointDecoder, Sam2Features]:
    channels, heads, switches = MODELS[name]
    model = random_model(channels, heads, torch.float64, **switches)
    grid = point_grid(16 * SIDE, 6)
    decoder = PointDecoder(model, grid, dtype=torch.float64, **options)
    return model, decoder, random_features(channels, torch.float64)


def _windowed(decoder: PointDecoder, features: Sam2Features) -> Proposals:
    """Masks of a random model, which lie all over the picture, cut to windows in it.

    SAM2 thinks less of some than it would of what their centres give, and more of others.
    """
    found, every = decoder.decode(features, -1.0)
    random = torch.Generator().manual_seed(5)
    logits = torch.full_like(found.logits, -1.0)
    for own, whole in zip(logits, found.logits, strict=True):
        top, left = torch.randint(0, 2 * SIDE, (2,), generator=random).tolist()
        height, width = torch.randint(SIDE, 4 * SIDE, (2,), generator=random).tolist()
        window = slice(top, top + height), slice(left, left + width)
        own[window] = whole[window]
    best = every[:, 1:].amax(dim=1)
    shares = torch.rand(len(logits), generator=random)
    iou = best.min() + (best.max() - best.min()) * shares
    return Proposals(logits, iou, found.index)


@pytest.mark.parametrize("low_rank", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_masks_are_refined_as_metas_decoder_would(name, low_rank):
    model, decoder, features = _case(name, low_rank=low_rank, points_per_step=4)
    proposals = _windowed(decoder, features)
    before = _copy(proposals)
    logits, iou, taken = plain_refined(model, features, before, 0.15)
    asked = _asked(before.logits > 0, before.predicted_iou)
    assert 1 < len(taken) < len(asked) - 1 < len(before) - 2
    refiner = Refiner(model, decoder, torch.float64, 0.15)
    found = refiner.refine(features, proposals)
    assert torch.equal(found.index, before.index)
    counts = (refiner.masks, refiner.asked, refiner.taken)
    assert counts == (len(before), len(asked), len(taken))
    for n in range(len(before)):
        if n not in taken:
            assert torch.equal(found.logits[n], before.logits[n])
        torch.testing.assert_close(found.logits[n], logits[n], atol=1e-5, rtol=1e-6)
        assert float(found.predicted_iou[n]) == pytest.approx(iou[n], abs=1e-6)


def test_the_step_does_not_change_results(monkeypatch):
    model, decoder, features = _case("plain")
    proposals = _windowed(decoder, features)
    whole = Refiner(model, decoder, torch.float64, 0.15).refine(features, _copy(proposals))
    for step in (1, 3, 1000):
        monkeypatch.setattr(refiner_module, "POINTS_PER_STEP", step)
        refiner = Refiner(model, decoder, torch.float64, 0.15)
        found = refiner.refine(features, _copy(proposals))
        assert refiner.taken > 0
        torch.testing.assert_close(found.logits, whole.logits, atol=1e-5, rtol=0)


def test_only_distinct_masks_are_asked(monkeypatch):
    model, decoder, features = _case("plain")
    proposals = _windowed(decoder, features)
    given, plain = [], sam2_run.prompt_tokens

    def noted(weights, maps):
        given.append(len(weights.tokens))
        return plain(weights, maps)

    monkeypatch.setattr(refiner_module, "prompt_tokens", noted)
    refiner = Refiner(model, decoder, torch.float64, 0.15)
    refiner.refine(features, _copy(proposals))
    refiner.refine(features, proposals.select(torch.tensor([3])))
    assert given == [len(_asked(proposals.logits > 0, proposals.predicted_iou)), 1]
    assert refiner.asked == sum(given)
    empty = Proposals(torch.full((2, 24, 24), -1.0), torch.ones(2), torch.arange(2))
    assert torch.equal(refiner.refine(features, empty).logits, empty.logits)
    assert len(refiner.refine(features, empty.select(torch.arange(0)))) == 0
    assert len(given) == 2


def test_16_bits_are_near():
    model, features = random_model(256, 8), random_features(256)
    points = point_grid(16 * SIDE, 6)
    exact = PointDecoder(model, points)
    proposals = _windowed(exact, features)
    expected = Refiner(model, exact, torch.float32, 0.15).refine(features, _copy(proposals))
    decoder = PointDecoder(model, points, dtype=torch.bfloat16)
    refiner = Refiner(model, decoder, torch.bfloat16, 0.15)
    model.sam_mask_decoder.bfloat16()  # as the proposer does after folding: it must not matter
    parts = (features.embedding, features.high_res_0, features.high_res_1)
    narrow = Sam2Features(*(part.bfloat16() for part in parts))
    found = refiner.refine(narrow, proposals)
    assert refiner.taken > 0
    assert found.logits.dtype == found.predicted_iou.dtype == torch.float32
    assert (found.predicted_iou - expected.predicted_iou).abs().mean() < 0.02


def test_a_click_lies_in_the_middle_of_its_pixel():
    """With the half pixel that SAM2 adds: 4 x 4 pixels of the input are one of the mask."""
    mask = torch.zeros(1, 4, 4, dtype=torch.bool)
    mask[0, 2, 1] = True
    assert (centre_points(mask) + 0.5).tolist() == [[6.0, 10.0]]


# the proposer

IMAGES = torch.rand(2, 3, 256, 256, generator=torch.Generator().manual_seed(0))


REFINEMENT = RefinementSettings(min_iou=0.5)


def _proposer(**options: Any) -> Sam2Proposer:
    weights = GOLDEN / "weights"
    return Sam2Proposer.load(
        weights / "sam2_nano.pt",
        name="nano",
        image_size=256,
        points_per_side=8,
        config=weights / "sam2_nano.yaml",
        **options,
    )


@pytest.fixture(scope="module")
def plain() -> Sam2Proposer:
    return _proposer()


@pytest.fixture(scope="module")
def refining() -> Sam2Proposer:
    return _proposer(refinement=REFINEMENT)


def _assert_refined(plain: Sam2Proposer, image: Tensor, before: Proposals, found: Proposals) -> int:
    """That they are the plain proposals, refined by Meta's decoder; gives how many changed."""
    features = plain.encode_images(image[None])
    logits, iou, taken = plain_refined(plain._model, features, before, 0.5)
    assert torch.equal(found.index, before.index)
    torch.testing.assert_close(found.predicted_iou, torch.tensor(iou), atol=2e-6, rtol=0)
    torch.testing.assert_close(found.logits, torch.stack(logits), atol=1e-4, rtol=0)
    return len(taken)


def test_a_proposer_refines_what_it_finds_at_its_grid(plain, refining):
    before, found = plain.propose(IMAGES, 0.2), refining.propose(IMAGES, 0.2)
    changed = [_assert_refined(plain, *each) for each in zip(IMAGES, before, found, strict=True)]
    assert min(changed) > 0
    (alone,) = refining.propose(IMAGES, 0.2, [1])
    torch.testing.assert_close(alone.logits, found[1].logits, atol=1e-4, rtol=0)


def test_a_proposer_refines_what_it_finds_at_chosen_points(plain, refining):
    points = torch.arange(5, 60, 3)
    before = plain.propose_at(IMAGES[0], 0.2, points)
    found = refining.propose_at(IMAGES[0], 0.2, points)
    assert _assert_refined(plain, IMAGES[0], before, found) > 0
    assert len(refining.propose_at(IMAGES[0], 0.2, points[:0])) == 0


@pytest.mark.parametrize("everywhere", [False, True])
def test_a_proposer_refines_what_it_finds_in_boxes(plain, refining, everywhere):
    corner = torch.rand(12, 2, generator=torch.Generator().manual_seed(1)) * 128
    boxes = [torch.cat((corner, corner + 80.0), dim=1)]
    options = {"prompt": "centre", "everywhere": everywhere}
    (before,) = plain.propose_in_boxes(IMAGES, 0.2, [1], boxes, **options)
    (found,) = refining.propose_in_boxes(IMAGES, 0.2, [1], boxes, **options)
    assert _assert_refined(plain, IMAGES[1], before, found) > 0
    (none,) = refining.propose_in_boxes(IMAGES, 2.0, [1], boxes, **options)
    assert len(none) == 0


@pytest.mark.slow  # the first to compile in a process imports the compiler
def test_what_is_compiled_for_the_grid_is_not_asked(refining):
    expected, compiled = refining.propose(IMAGES, 0.2), _proposer(refinement=REFINEMENT)
    compiled.compile(CompileOptions("eager", False))
    assert compiled._decoder.for_other_points == (sam2_run.transform, sam2_run.upscale)
    for own, other in zip(compiled.propose(IMAGES, 0.2), expected, strict=True):
        torch.testing.assert_close(own.logits, other.logits, atol=1e-4, rtol=0)


def test_kernels_of_the_grid_are_asked(refining, monkeypatch):
    called, decoder = [], refining._decoder

    def noted(name, function):
        def call(*given):
            called.append(name)
            return function(*given)

        monkeypatch.setattr(decoder, name, call)

    noted("_transform", sam2_run.transform)
    noted("_upscale", sam2_run.upscale)
    monkeypatch.setattr(refiner_module, "POINTS_PER_STEP", 10_000)
    decoder.points_per_step, before = 10_000, decoder.points_per_step
    refining.propose(IMAGES[:1], 0.2)
    decoder.points_per_step = before
    assert called == 2 * ["_transform", "_upscale"]


def test_steps_can_be_halved_beside_it(refining):
    expected = refining.propose(IMAGES, 0.2)
    before = refining._decoder.points_per_step
    refining._decoder.points_per_step = 5
    found = refining.propose(IMAGES, 0.2)
    refining._decoder.points_per_step = before
    for own, other in zip(found, expected, strict=True):
        torch.testing.assert_close(own.logits, other.logits, atol=1e-4, rtol=0)


def test_nothing_is_asked_again_unless_it_is_wanted(plain):
    assert plain.refiner is None
    (found,) = plain.propose(IMAGES[:1], 0.2)
    direct, _ = plain.predict(plain.encode_images(IMAGES[:1]), 0.2)
    assert torch.equal(found.logits, direct.logits)
