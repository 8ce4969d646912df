"""Boxes on the fast decoder against Meta's module, which is asked in the same words."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.ops import box_iou, masks_to_boxes

from ntt_ray.models.sam2.decoder import boxed
from ntt_ray.models.sam2.decoder import run as sam2_run
from ntt_ray.models.sam2.decoder.boxed import BoxDecoder, box_ious, stability, tight_boxes
from ntt_ray.models.sam2.decoder.image import Sam2Features
from ntt_ray.models.sam2.decoder.run import PointDecoder
from ntt_ray.models.sam2.proposer import Sam2Proposer, point_grid
from tests.support.golden import GOLDEN
from tests.support.random_decoder import SIDE, random_features, random_model

DYNAMIC = {"dynamic_multimask_via_stability": True}


def _boxes(count: int = 11) -> Tensor:
    random = torch.Generator().manual_seed(3)
    corner = torch.rand(count, 2, generator=random) * 8 * SIDE
    return torch.cat((corner, corner + 4 + torch.rand(count, 2, generator=random) * 7 * SIDE), 1)


def _plain(model: Any, points: Tensor, labels: Tensor, features: Sam2Features, method: str) -> Any:
    """What a method of Meta's decoder gives for prompts ``(P, n, 2)``."""
    encoder, decoder = model.sam_prompt_encoder, model.sam_mask_decoder
    dtype = features.embedding.dtype
    sparse, dense = encoder(points=(points, labels), boxes=None, masks=None)
    more = {"multimask_output": False} if method == "forward" else {}
    with torch.inference_mode():
        return getattr(decoder, method)(
            image_embeddings=features.embedding,
            image_pe=encoder.get_dense_pe().to(dtype),
            sparse_prompt_embeddings=sparse.to(dtype),
            dense_prompt_embeddings=dense.to(dtype),
            repeat_image=True,
            high_res_features=[features.high_res_0, features.high_res_1],
            **more,
        )[:2]


def plain_answers(model: Any, boxes: Tensor, features: Sam2Features) -> tuple[Tensor, Tensor]:
    """Meta's one mask for each box, as its image predictor asks: ``(P, h, w)`` and ``(P,)``."""
    labels = torch.tensor([[2, 3]], dtype=torch.int32).expand(len(boxes), 2)
    masks, iou = _plain(model, boxes.reshape(-1, 2, 2), labels, features, "forward")
    return masks[:, 0], iou[:, 0]


def plain_by_box(
    model: Any, boxes: Tensor, features: Sam2Features, threshold: float, prompt: str
) -> list[tuple[Tensor, float, int]]:
    """For each box with a mask above the threshold its logits, predicted IoU and position."""
    shares = [(0.5, 0.5)]
    if prompt == "points":
        shares += [(0.3, 0.5), (0.7, 0.5), (0.5, 0.3), (0.5, 0.7)]
    labels = torch.ones(len(boxes), 1, dtype=torch.int32)
    decoded = []
    for x, y in shares:
        points = boxes[:, :2] + torch.tensor([x, y]) * (boxes[:, 2:] - boxes[:, :2])
        decoded.append(_plain(model, points[:, None], labels, features, "predict_masks"))
    found = []
    for number, box in enumerate(boxes):
        best, chosen = -1.0, None
        for (masks, ious), output in itertools.product(decoded, (1, 2, 3)):
            iou, logits = float(ious[number, output]), masks[number, output]
            if iou <= threshold:
                continue
            overlap = 0.0
            if (logits > 0).any():
                tight = masks_to_boxes(logits[None] > 0) + torch.tensor([0, 0, 1, 1])
                overlap = float(box_iou(4 * tight, box[None]))
            if iou * overlap > best:
                best, chosen = iou * overlap, (logits, iou, number)
        if chosen is not None:
            found.append(chosen)
    return found


def _decoder(model: Any, dtype: torch.dtype = torch.float32, **options: Any) -> BoxDecoder:
    points = PointDecoder(model, point_grid(16 * SIDE, 3), dtype=dtype, **options)
    return BoxDecoder(model, points, dtype)


def _middle(values: Tensor) -> float:
    """A threshold that about half of the values pass, in the middle between two of them."""
    ordered = values.sort().values
    return float(ordered[len(ordered) // 2 - 1 :][:2].mean())


MODELS = {
    "plain": (32, 4, {}),
    "dynamic": (32, 4, DYNAMIC),
    "no object score": (32, 8, {"pred_obj_scores": False} | DYNAMIC),
    "published width": (256, 8, DYNAMIC),
}


@pytest.mark.parametrize("low_rank", [True, False])
@pytest.mark.parametrize("case", MODELS.values(), ids=MODELS.keys())
def test_a_box_gets_metas_answer(case, low_rank):
    channels, heads, switches = case
    model = random_model(channels, heads, torch.float64, **switches)
    features, boxes = random_features(channels, torch.float64), _boxes()
    masks, iou = plain_answers(model, boxes, features)
    decoder = _decoder(model, torch.float64, points_per_step=4, low_rank=low_rank)
    for threshold in (-1.0, _middle(iou)):
        found = decoder.decode(features, threshold, boxes, "box")
        index = torch.nonzero(iou > threshold).squeeze(1)
        assert found.index.tolist() == index.tolist()
        assert 0 < len(index) < len(boxes) or threshold < 0
        torch.testing.assert_close(found.predicted_iou, iou[index].float(), atol=1e-6, rtol=0)
        torch.testing.assert_close(found.logits, masks[index].float(), atol=1e-5, rtol=1e-6)


def test_some_answers_are_unstable_and_some_are_not():
    """So that the test above is one of both ways."""
    model = random_model(dtype=torch.float64, **DYNAMIC)
    features, boxes = random_features(dtype=torch.float64), _boxes()
    dynamic, _ = plain_answers(model, boxes, features)
    model.sam_mask_decoder.dynamic_multimask_stability_thresh = 0.0
    first, _ = plain_answers(model, boxes, features)
    same = [torch.equal(a, b) for a, b in zip(dynamic, first)]
    model.sam_mask_decoder.dynamic_multimask_stability_thresh = 0.5
    half, _ = plain_answers(model, boxes, features)
    found = _decoder(model, torch.float64).decode(features, -1.0, boxes, "box")
    torch.testing.assert_close(found.logits, half.float(), atol=1e-5, rtol=1e-6)
    halves = [torch.equal(a, b) for a, b in zip(half, first)]
    assert not all(same)
    assert any(halves)


@pytest.mark.parametrize("low_rank", [True, False])
@pytest.mark.parametrize("case", MODELS.values(), ids=MODELS.keys())
@pytest.mark.parametrize("prompt", ["centre", "points"])
def test_points_get_the_mask_that_fits_their_box(case, low_rank, prompt):
    channels, heads, switches = case
    model = random_model(channels, heads, torch.float64, **switches)
    features, boxes = random_features(channels, torch.float64), _boxes()
    decoder = _decoder(model, torch.float64, points_per_step=4, low_rank=low_rank)
    every = plain_by_box(model, boxes, features, -1.0, prompt)
    threshold = _middle(torch.tensor([iou for _, iou, _ in every]))
    for limit in (-1.0, threshold):
        expected = plain_by_box(model, boxes, features, limit, prompt)
        found = decoder.decode(features, limit, boxes, prompt)
        assert found.index.tolist() == [number for *_, number in expected]
        for n, (logits, iou, _) in enumerate(expected):
            assert float(found.predicted_iou[n]) == pytest.approx(iou, abs=1e-6)
            torch.testing.assert_close(found.logits[n], logits.float(), atol=1e-5, rtol=1e-6)


def test_the_box_decides_between_the_masks_of_its_centre():
    """Two boxes of one centre are the same prompt; the larger one gets a mask that fits better."""
    model, features = random_model(dtype=torch.float64), random_features(dtype=torch.float64)
    middle = torch.tensor([45.0, 50.0])
    boxes = torch.stack([torch.cat((middle - half, middle + half)) for half in (4.0, 40.0)])
    found = _decoder(model, torch.float64).decode(features, -1.0, boxes, "centre")
    tight = 4 * tight_boxes(found.logits > 0)
    own = box_iou(tight, boxes)
    assert (own.diag() >= own.flip(0).diag()).all()


@pytest.mark.parametrize("prompt", ["box", "centre", "points"])
def test_the_step_does_not_change_results(monkeypatch, prompt):
    model, features, boxes = random_model(**DYNAMIC), random_features(), _boxes()
    whole = _decoder(model).decode(features, -1.0, boxes, prompt)
    for step in (1, 3, 12, 1000):
        monkeypatch.setattr(boxed, "PROMPTS_PER_STEP", step)
        found = _decoder(model).decode(features, -1.0, boxes, prompt)
        assert found.index.tolist() == whole.index.tolist()
        torch.testing.assert_close(found.logits, whole.logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize("prompt", ["box", "centre", "points"])
def test_only_the_boxes_enter_layer_1(monkeypatch, prompt):
    given, plain = [], sam2_run.prompt_tokens

    def noted(weights, maps):
        given.append(len(weights.tokens))
        return plain(weights, maps)

    monkeypatch.setattr(boxed, "prompt_tokens", noted)
    _decoder(random_model()).decode(random_features(), -1.0, _boxes(5), prompt)
    assert given == [5 * (5 if prompt == "points" else 1)]


@pytest.mark.parametrize("prompt", ["box", "centre", "points"])
def test_a_threshold_above_all_leaves_none(prompt):
    found = _decoder(random_model(**DYNAMIC)).decode(random_features(), 1.0, _boxes(3), prompt)
    assert found.logits.shape == (0, 4 * SIDE, 4 * SIDE)
    assert len(found.index) == len(found.predicted_iou) == 0


@pytest.mark.parametrize("prompt", ["box", "centre", "points"])
def test_16_bits_are_near(prompt):
    model, boxes = random_model(256, 8), _boxes()
    features = random_features(256)
    exact = _decoder(model).decode(features, -1.0, boxes, prompt)
    decoder = _decoder(model, torch.bfloat16)
    model.sam_mask_decoder.bfloat16()  # as the proposer does after folding: it must not matter
    parts = (features.embedding, features.high_res_0, features.high_res_1)
    narrow = Sam2Features(*(part.bfloat16() for part in parts))
    found = decoder.decode(narrow, -1.0, boxes, prompt)
    assert found.logits.dtype == found.predicted_iou.dtype == torch.float32
    assert (found.predicted_iou - exact.predicted_iou).abs().mean() < 0.02


@pytest.fixture(scope="module")
def proposer() -> Sam2Proposer:
    weights = GOLDEN / "weights"
    return Sam2Proposer.load(
        weights / "sam2_nano.pt",
        name="nano",
        image_size=256,
        points_per_side=4,
        config=weights / "sam2_nano.yaml",
    )


def _ask(proposer: Sam2Proposer, images: Tensor, wanted: Any, boxes: Any, **options: Any) -> Any:
    options = {"prompt": "centre", "everywhere": False} | options
    return proposer.propose_in_boxes(images, 0.2, wanted, boxes, **options)


@pytest.mark.parametrize("all_outputs", [False, True])
def test_boxes_come_behind_the_grid(proposer, monkeypatch, all_outputs):
    monkeypatch.setattr(proposer._decoder, "all_outputs", all_outputs)
    images = torch.rand(2, 3, 256, 256)
    boxes = torch.tensor([[40.0, 60.0, 170.0, 200.0]]).repeat(3, 1)
    (grid,) = proposer.propose(images, 0.2, [1])
    (alone,) = _ask(proposer, images, [1], [boxes])
    (both,) = _ask(proposer, images, [1], [boxes], everywhere=True)
    assert len(alone) == 3
    places = 48 if all_outputs else 16
    assert both.index.tolist() == [*grid.index.tolist(), *(places + alone.index).tolist()]
    assert torch.equal(both.logits, torch.cat((grid.logits, alone.logits)))
    assert torch.equal(both.predicted_iou, torch.cat((grid.predicted_iou, alone.predicted_iou)))


def test_what_an_image_gets_does_not_depend_on_its_neighbours(proposer):
    images, none = torch.rand(3, 3, 256, 256), torch.zeros(0, 4)
    boxes = [
        torch.tensor([[40.0, 60.0, 170.0, 200.0]]),
        none,
        torch.tensor([[9.0, 9.0, 90.0, 70.0]]),
    ]
    found = _ask(proposer, images, [0, 1, 2], boxes)
    assert [len(own) for own in found] == [1, 0, 1]
    for n in (0, 2):
        (alone,) = _ask(proposer, images[n : n + 1], [0], [boxes[n]])
        torch.testing.assert_close(alone.logits, found[n].logits, atol=1e-4, rtol=0)


def test_without_boxes_and_grid_no_image_is_looked_at(proposer, monkeypatch):
    monkeypatch.setattr(proposer, "encode_images", None)
    (found,) = _ask(proposer, torch.rand(2, 3, 256, 256), [1], [torch.zeros(0, 4)])
    assert found.logits.shape == (0, 64, 64)


def test_tight_boxes_of_empty_and_full_masks():
    masks = torch.zeros(3, 4, 5, dtype=torch.bool)
    masks[1] = True
    masks[2, 1:3, 4] = True
    assert tight_boxes(masks).tolist() == [[0, 0, 0, 0], [0, 0, 5, 4], [4, 1, 5, 3]]
    assert tight_boxes(masks[:0]).shape == (0, 4)


def test_box_ious():
    a = torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 2], [0, 0, 2, 2], [0, 0, 0, 0]])
    b = torch.tensor([[0.0, 0, 2, 2], [1, 1, 3, 3], [5, 5, 6, 6], [0, 0, 0, 0]])
    torch.testing.assert_close(box_ious(a, b), torch.tensor([1.0, 1 / 7, 0.0, 0.0]))


def test_stability_is_metas():
    logits = torch.randn(4, 6, 6)
    logits[3] = -9.0
    decoder = random_model(dynamic_multimask_stability_delta=0.3).sam_mask_decoder
    torch.testing.assert_close(stability(logits, 0.3), decoder._get_stability_scores(logits))
