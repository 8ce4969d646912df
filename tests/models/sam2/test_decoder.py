"""The fast decoder against Meta's module, which decodes everything and throws most of it away."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ntt_ray.errors import WeightsError
from ntt_ray.models.compilation import CompileOptions
from ntt_ray.models.sam2.decoder import keys as sam2_keys
from ntt_ray.models.sam2.decoder import run as sam2_run
from ntt_ray.models.sam2.decoder.checked import CheckedKernel
from ntt_ray.models.sam2.decoder.image import Sam2Features, image_maps
from ntt_ray.models.sam2.decoder.kernels import COMPARED_POINTS, has_upscale_kernel
from ntt_ray.models.sam2.decoder.run import (
    PointDecoder,
    prompt_tokens,
    transform,
    upscale,
)
from ntt_ray.models.sam2.proposer import Sam2Proposer, point_grid
from tests.support import random_decoder
from tests.support.golden import GOLDEN
from tests.support.launches import Launches
from tests.support.random_decoder import SIDE, plain_decode, random_features, random_model


def plain_survivors(masks: Tensor, iou: Tensor, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, predicted IoU and index by METHOD 23 and 24."""
    best_iou, best = iou[:, 1:].max(dim=1)
    index = torch.nonzero(best_iou > threshold).squeeze(1)
    return masks[index, best[index] + 1], best_iou[index], index


def about_half(iou: Tensor) -> float:
    """A threshold that about half of the points pass, in the widest gap near their median."""
    best = iou[:, 1:].max(dim=1).values.sort().values
    near = best[len(best) // 3 : -(len(best) // 3)]
    gap = int(near.diff().argmax())
    return float(near[gap : gap + 2].mean())


def amid(iou: Tensor) -> float:
    """A threshold that about half of the outputs 1 to 3 pass, in the widest gap near the median."""
    values = iou[:, 1:].flatten().sort().values
    near = values[len(values) // 3 : -(len(values) // 3)]
    gap = int(near.diff().argmax())
    return float(near[gap : gap + 2].mean())


@pytest.fixture(scope="module")
def golden() -> tuple[Any, Tensor, Sam2Features, Tensor, Tensor]:
    """The golden model, its grid, the features of a golden image and what stock makes of them."""
    weights = GOLDEN / "weights"
    proposer = Sam2Proposer.load(
        weights / "sam2_nano.pt",
        name="nano",
        image_size=256,
        points_per_side=16,
        config=weights / "sam2_nano.yaml",
    )
    image = Image.open(GOLDEN / "targets" / "targets_00.png").convert("RGB").resize((256, 256))
    pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None] / 255
    features = proposer.encode_images(pixels)
    stock = plain_decode(proposer._model, proposer.points, features)
    return proposer._model, proposer.points, features, *stock


@pytest.mark.parametrize("low_rank", [True, False])
def test_golden_model_agrees_with_the_stock_decoder(golden, low_rank):
    model, points, features, masks, iou = golden
    decoder = PointDecoder(model, points, low_rank=low_rank)
    for threshold in (-1.0, about_half(iou)):
        logits, best, index = plain_survivors(masks, iou, threshold)
        found, every = decoder.decode(features, threshold)
        assert found.index.tolist() == index.tolist()
        torch.testing.assert_close(every, iou, atol=2e-6, rtol=0)
        torch.testing.assert_close(found.predicted_iou, best, atol=2e-6, rtol=0)
        # Logits reach 31; stock float32 is itself 2.5e-5 from float64.
        torch.testing.assert_close(found.logits, logits, atol=6e-5, rtol=0)
    assert 80 < len(found) < 176


@pytest.mark.parametrize("low_rank", [True, False])
@pytest.mark.parametrize(
    ("channels", "heads", "switches"),
    [
        (32, 4, {}),
        (32, 8, {"pred_obj_scores": False}),
        (64, 2, {"iou_prediction_use_sigmoid": False}),
        (64, 4, {"pred_obj_scores": False, "iou_prediction_use_sigmoid": False}),
        (32, 1, {"iou_head_depth": 2}),
        (256, 8, {}),
    ],
)
def test_identities_are_exact_in_float64(low_rank, channels, heads, switches):
    model = random_model(channels, heads, torch.float64, **switches)
    points, features = point_grid(16 * SIDE, 5), random_features(channels, torch.float64)
    masks, iou = plain_decode(model, points, features)
    threshold = about_half(iou)
    logits, best, index = plain_survivors(masks, iou, threshold)
    decoder = PointDecoder(model, points, dtype=torch.float64, points_per_step=7, low_rank=low_rank)
    found = [torch.cat(part) for part in zip(*decoder.steps(features, threshold))]
    assert 0 < len(index) < 25
    assert found[2].tolist() == index.tolist()
    for value, expected in zip((found[0], found[1], found[3]), (logits, best, iou)):
        torch.testing.assert_close(value, expected, atol=2e-12, rtol=0)


@pytest.mark.parametrize("low_rank", [True, False])
def test_the_step_does_not_change_results(low_rank):
    model, features = random_model(), random_features()
    points = point_grid(16 * SIDE, 5)
    whole, iou = PointDecoder(model, points, points_per_step=25, low_rank=low_rank).decode(
        features, -1.0
    )
    for step in (1, 4, 24, 1000):
        decoder = PointDecoder(model, points, points_per_step=step, low_rank=low_rank)
        found, every = decoder.decode(features, -1.0)
        assert found.index.tolist() == list(range(25))
        torch.testing.assert_close(every, iou, atol=2e-6, rtol=0)
        torch.testing.assert_close(found.logits, whole.logits, atol=1e-5, rtol=0)


CHOSEN = {
    "one": [7],
    "first and last": [0, 24],
    "some": [1, 2, 3, 8, 11, 12, 20, 23],
    "all": list(range(25)),
}


@pytest.mark.parametrize("low_rank", [True, False])
@pytest.mark.parametrize("full_steps", [False, True])
@pytest.mark.parametrize("chosen", CHOSEN.values(), ids=CHOSEN.keys())
def test_chosen_points_get_what_they_get_among_all(chosen, full_steps, low_rank):
    model, features = random_model(dtype=torch.float64), random_features(dtype=torch.float64)
    points = point_grid(16 * SIDE, 5)
    decoder = PointDecoder(model, points, dtype=torch.float64, points_per_step=6, low_rank=low_rank)
    threshold = about_half(decoder.decode(features, -1.0)[1])
    everything, iou = decoder.decode(features, threshold)
    decoder._compiled = full_steps  # as `compile` does; compiling itself is tested elsewhere
    index = torch.tensor(chosen)
    found, own_iou = decoder.decode(features, threshold, index)
    expected = everything.select(torch.isin(everything.index, index))
    assert found.index.tolist() == expected.index.tolist()
    torch.testing.assert_close(own_iou, iou[index], atol=1e-7, rtol=0)
    torch.testing.assert_close(found.predicted_iou, expected.predicted_iou, atol=1e-7, rtol=0)
    torch.testing.assert_close(found.logits, expected.logits, atol=1e-6, rtol=0)


def test_layer_1_is_computed_for_the_points_asked_alone(monkeypatch):
    model, features = random_model(), random_features()
    decoder = PointDecoder(model, point_grid(16 * SIDE, 5))
    weights = decoder._weights
    every = prompt_tokens(weights, image_maps(decoder._image, weights, features))
    given, plain = [], prompt_tokens

    def noted(*arguments):
        given.append(plain(*arguments))
        return given[-1]

    monkeypatch.setattr(sam2_run, "prompt_tokens", noted)
    index = torch.tensor([1, 2, 11, 24])
    decoder.decode(features, -1.0, index)
    assert len(given) == 1
    for found, all_points in zip(given[0], every):
        torch.testing.assert_close(found, all_points[index], atol=1e-6, rtol=0)


@pytest.mark.parametrize("low_rank", [True, False])
@pytest.mark.parametrize("step", [7, 25])
def test_all_outputs_are_those_of_the_stock_decoder(step, low_rank):
    model = random_model(dtype=torch.float64)
    points, features = point_grid(16 * SIDE, 5), random_features(dtype=torch.float64)
    masks, iou = plain_decode(model, points, features)
    decoder = PointDecoder(
        model, points, dtype=torch.float64, points_per_step=step, low_rank=low_rank
    )
    decoder.all_outputs = True
    for threshold, count in ((-1.0, 75), (amid(iou), None), (1.0, 0)):
        wanted = [(p, o) for p in range(25) for o in range(3) if iou[p, o + 1] > threshold]
        assert len(wanted) == count or 25 < len(wanted) < 50
        point, output = torch.tensor(wanted, dtype=torch.int64).view(-1, 2).T
        found = [torch.cat(part) for part in zip(*decoder.steps(features, threshold))]
        assert found[2].tolist() == [3 * p + o for p, o in wanted]
        expected = (masks[point, output + 1], iou[point, output + 1], iou)
        for value, own in zip((found[0], found[1], found[3]), expected):
            torch.testing.assert_close(value, own, atol=2e-12, rtol=0)


@pytest.mark.parametrize("full_steps", [False, True])
def test_all_outputs_of_chosen_points_are_those_among_all(full_steps):
    model, features = random_model(), random_features()
    decoder = PointDecoder(model, point_grid(16 * SIDE, 5), points_per_step=6)
    threshold = amid(decoder.decode(features, -1.0)[1])
    best, _ = decoder.decode(features, threshold)
    decoder.all_outputs = True
    everything, iou = decoder.decode(features, threshold)
    # the best output of each point is among them, in its place
    own = 3 * best.index + iou[best.index, 1:].argmax(dim=1)
    among = torch.isin(everything.index, own)
    assert len(everything) > int(among.sum()) == len(best) > 0
    torch.testing.assert_close(everything.logits[among], best.logits, atol=1e-5, rtol=0)
    decoder._compiled = full_steps
    index = torch.tensor([1, 2, 3, 8, 11, 12, 20, 23])
    found, own_iou = decoder.decode(features, threshold, index)
    expected = everything.select(torch.isin(everything.index // 3, index))
    assert found.index.tolist() == expected.index.tolist()
    torch.testing.assert_close(own_iou, iou[index], atol=1e-5, rtol=0)
    torch.testing.assert_close(found.predicted_iou, expected.predicted_iou, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.logits, expected.logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize("low_rank", [True, False])
@pytest.mark.parametrize("channels", [32, 256])
def test_no_intermediate_of_a_step_is_larger_than_allowed(monkeypatch, low_rank, channels):
    monkeypatch.setattr(random_decoder, "SIDE", 16)  # more image tokens than anything else
    model, features = random_model(channels, 8), random_features(channels)
    points, rows, n = point_grid(16 * 16, 5), 8 * 8, 16 * 16
    allowed = 3 * max(channels, 2 * rows) * n + 1  # of three points
    for name in ("MAX_ELEMENTS", "CACHED_ELEMENTS"):  # on a GPU, on a CPU
        monkeypatch.setattr(sam2_run, name, allowed)
    decoder = PointDecoder(model, points, points_per_step=1000, low_rank=low_rank)
    assert decoder.points_per_step == 3
    maps = image_maps(decoder._image, decoder._weights, features)
    prompt = prompt_tokens(decoder._weights, maps).part(slice(0, 3))
    with Launches() as launches:
        keys, _, hypernetworks = transform(decoder._weights, maps, prompt)
        upscale(decoder._weights, maps, keys, hypernetworks[:, 0])
    assert allowed / 3 < launches.largest / 4 <= allowed


def test_a_step_stays_below_2_to_the_31_elements():
    """At 4096 pixels 256 points would make 2^32 elements; here it takes more of them."""
    model = random_model(256, 8)
    decoder = PointDecoder(model, point_grid(16 * SIDE, 2), points_per_step=1 << 30)
    assert decoder.points_per_step == ((1 << 31) - 1) // (SIDE**2 * 256)


@pytest.mark.slow  # the first to compile in a process imports the compiler
def test_compiled_steps_keep_their_shape_whatever_is_chosen():
    decoder = PointDecoder(random_model(), point_grid(16 * SIDE, 5), points_per_step=6)
    shapes = []
    plain = decoder._transform

    def noted(weights, maps, prompt):
        shapes.append(len(prompt.tokens))
        return plain(weights, maps, prompt)

    decoder.compile(CompileOptions("eager"))
    decoder._transform = noted
    for count in (1, 6, 7, 13):
        decoder.decode(random_features(), -1.0, torch.arange(count))
    assert shapes == [6] * (1 + 1 + 2 + 3)


@pytest.mark.parametrize("low_rank", [True, False])
def test_the_threshold_is_strict_and_none_is_fine(low_rank):
    model, features = random_model(), random_features()
    decoder = PointDecoder(model, point_grid(16 * SIDE, 3), points_per_step=2, low_rank=low_rank)
    everything, _ = decoder.decode(features, -1.0)
    assert len(everything) == 9
    value = float(everything.predicted_iou.max())
    none, iou = decoder.decode(features, value)
    assert none.logits.shape == (0, 4 * SIDE, 4 * SIDE)
    assert iou.shape == (9, 4)
    assert len(none) == len(none.predicted_iou) == len(none.index) == 0
    best, _ = decoder.decode(features, np.nextafter(np.float32(value), np.float32(-1)).item())
    assert best.index.tolist() == [int(everything.predicted_iou.argmax())]
    assert torch.equal(best.predicted_iou, everything.predicted_iou.max()[None])


@pytest.mark.slow
@pytest.mark.parametrize("low_rank", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bits_are_as_close_as_the_stock_decoder_in_16_bits(golden, low_rank, dtype):
    model, points, features, masks, iou = golden
    chosen = iou[:, 1:].argmax(dim=1) + 1
    every = torch.arange(len(points))
    parts = (features.embedding, features.high_res_0, features.high_res_1)
    narrow_features = Sam2Features(*(part.to(dtype) for part in parts))
    narrow_model = SimpleNamespace(
        sam_prompt_encoder=model.sam_prompt_encoder,
        sam_mask_decoder=copy.deepcopy(model.sam_mask_decoder).to(dtype),
    )
    stock_masks, stock_iou = plain_decode(narrow_model, points, narrow_features)
    decoder = PointDecoder(model, points, dtype=dtype, low_rank=low_rank)
    found, found_iou = decoder.decode(narrow_features, -1.0)
    assert found.logits.dtype == found_iou.dtype == torch.float32

    same = found_iou[:, 1:].argmax(dim=1) + 1 == chosen
    assert same.float().mean() > 0.97
    exact = masks[every, chosen][same]
    error = (found.logits[same] - exact).abs().mean()
    stock_error = (stock_masks[every, chosen][same].float() - exact).abs().mean()
    assert error < 1.2 * stock_error
    assert (found_iou - iou).abs().mean() < 1.4 * (stock_iou.float() - iou).abs().mean()


def mask_ious(a: Tensor, b: Tensor) -> Tensor:
    """IoU of each of the masks of logits ``(n, h, w)`` with its counterpart: ``(n,)``."""
    a, b = (a > 0).flatten(1), (b > 0).flatten(1)
    return (a & b).sum(1) / (a | b).sum(1)


@pytest.mark.slow
def test_bfloat16_masks_at_the_published_widths(monkeypatch):
    """As close to float32 as the stock decoder in bfloat16; measured here at 256 image tokens."""
    monkeypatch.setattr(random_decoder, "SIDE", 16)
    model, features = random_model(256, 8, mlp_dim=2048), random_features(256)
    for name, parameter in model.sam_mask_decoder.named_parameters():
        if parameter.ndim > 1 and "norm" not in name:
            parameter.data *= 2  # logits of 4 in the mean, masks with borders
    narrow_model = SimpleNamespace(
        sam_prompt_encoder=model.sam_prompt_encoder,
        sam_mask_decoder=copy.deepcopy(model.sam_mask_decoder).to(torch.bfloat16),
    )
    parts = (features.embedding, features.high_res_0, features.high_res_1)
    narrow_features = Sam2Features(*(part.to(torch.bfloat16) for part in parts))
    points = point_grid(16 * 16, 4)
    exact, iou = PointDecoder(model, points).decode(features, -1.0)
    decoder = PointDecoder(model, points, dtype=torch.bfloat16)
    assert decoder.low_rank
    found, found_iou = decoder.decode(narrow_features, -1.0)
    stock, stock_iou = plain_decode(narrow_model, points, narrow_features)

    chosen = iou[:, 1:].argmax(dim=1) + 1
    same = found_iou[:, 1:].argmax(dim=1) + 1 == chosen
    assert same.float().mean() > 0.9
    ious = mask_ious(found.logits, exact.logits)[same]
    stock = stock[torch.arange(len(points)), chosen].float()
    stock_ious = mask_ious(stock, exact.logits)[same]
    assert ious.min() > 0.985
    assert ious.mean() > 0.99
    assert 1 - ious.mean() < 1.4 * (1 - stock_ious.mean())
    assert (found_iou - iou).abs().mean() < 1.4 * (stock_iou.float() - iou).abs().mean()


@pytest.mark.parametrize("per_head", [True, False])
def test_products_per_head(monkeypatch, per_head):
    monkeypatch.setattr(sam2_keys, "_one_product_per_head", lambda rows: per_head)
    query, maps = torch.randn(3, 5, 2, 4).double(), torch.randn(2, 4, 7).double()
    products = torch.einsum("bthd,hdn->bthn", query, maps).contiguous()
    torch.testing.assert_close(sam2_keys.head_products(query, maps), products)
    total = sam2_keys.add_head_products_(torch.ones_like(products), query, maps)
    torch.testing.assert_close(total, products + 1)
    means = torch.einsum("bthn,hdn->bthd", products, maps).flatten(2)
    torch.testing.assert_close(sam2_keys.head_means(products, maps), means)


def test_products_on_a_device_make_no_constants():
    query, maps = torch.empty(3, 5, 2, 4, device="meta"), torch.empty(2, 4, 7, device="meta")
    with Launches() as launches:
        sam2_keys.head_products(query, maps)
    assert launches.operations == {"diag_embed": 1, "mm": 1}


@pytest.mark.slow  # the first to compile in a process imports the compiler
@pytest.mark.parametrize("low_rank", [True, False])
@pytest.mark.parametrize("per_head", [True, False])
@pytest.mark.parametrize("backend", ["eager", "aot_eager_decomp_partition"])
def test_a_step_is_one_graph_without_host_synchronisation(monkeypatch, backend, per_head, low_rank):
    """The second backend rewrites what is done in place, as the real compiler does first."""
    monkeypatch.setattr(sam2_keys, "_one_product_per_head", lambda rows: per_head)
    model, features = random_model(64, 8), random_features(64)
    decoder = PointDecoder(model, point_grid(16 * SIDE, 2), low_rank=low_rank)
    weights, image = decoder._weights, decoder._image

    def step(features: Sam2Features) -> tuple[Tensor, Tensor]:
        maps = image_maps(image, weights, features)
        keys, iou, hypernetworks = transform(weights, maps, prompt_tokens(weights, maps))
        return upscale(weights, maps, keys, hypernetworks[:, 0]), iou

    compiled = torch.compile(step, fullgraph=True, backend=backend)
    for value, expected in zip(compiled(features), step(features)):
        torch.testing.assert_close(value, expected)


@pytest.mark.parametrize(
    ("device", "dtype", "low_rank", "expected"),
    [
        ("cuda", torch.bfloat16, True, True),
        ("cuda:1", torch.float32, True, True),
        ("cuda", torch.bfloat16, False, False),
        ("cuda", torch.float64, True, False),
        ("cpu", torch.float32, True, False),
    ],
)
def test_kernels_are_for_gpus_and_the_low_rank_form(device, dtype, low_rank, expected):
    assert has_upscale_kernel(torch.device(device), dtype, low_rank) is expected


def _in_steps_of_10() -> PointDecoder:
    """A decoder of 25 points in the low-rank form."""
    return PointDecoder(random_model(), point_grid(16 * SIDE, 5), points_per_step=10, low_rank=True)


def test_upscaling_is_asked_of_the_kernel_once_it_agrees(monkeypatch):
    kernel = pytest.importorskip("ntt_ray.models.sam2.decoder.upscale_kernel")
    asked = []

    def counted(weights, maps, keys, hypernetworks):
        asked.append(len(hypernetworks))
        return upscale(weights, maps, keys, hypernetworks)

    monkeypatch.setattr(kernel, "upscale", counted)
    features = random_features()
    expected, _ = _in_steps_of_10().decode(features, -1.0)
    assert asked == []
    monkeypatch.setattr(sam2_run, "has_upscale_kernel", lambda *_: True)
    found, _ = _in_steps_of_10().decode(features, -1.0)
    assert asked == [COMPARED_POINTS, 10, 10, 5]
    assert torch.equal(found.logits, expected.logits)


def test_where_the_kernel_cannot_run_results_are_the_plain_ones(monkeypatch, caplog):
    features = random_features()
    expected, _ = _in_steps_of_10().decode(features, -1.0)
    monkeypatch.setattr(sam2_run, "has_upscale_kernel", lambda *_: True)
    decoder = _in_steps_of_10()
    for _ in range(2):
        found, _ = decoder.decode(features, -1.0)
        assert torch.equal(found.logits, expected.logits)
    assert len(caplog.records) == 1
    assert "kernel for SAM2's upscaling is not used" in caplog.text


def test_what_is_compiled_uses_no_kernel(monkeypatch):
    monkeypatch.setattr(sam2_run, "has_upscale_kernel", lambda *_: True)
    decoder = _in_steps_of_10()
    assert isinstance(decoder._upscale, CheckedKernel)
    decoder.compile(CompileOptions("eager"))
    assert not isinstance(decoder._upscale, CheckedKernel)


def test_one_image_at_a_time():
    one = random_features()
    two = Sam2Features(
        *(torch.cat([t, t]) for t in (one.embedding, one.high_res_0, one.high_res_1))
    )
    with pytest.raises(ValueError, match="one image"):
        PointDecoder(random_model(), point_grid(16 * SIDE, 2)).decode(two, 0.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_high_res_features": False}, "high-resolution"),
        ({"num_multimask_outputs": 2}, "outputs"),
        ({"activation": torch.nn.ReLU}, "activations"),
    ],
)
def test_other_decoders_are_refused(change, message):
    with pytest.raises(WeightsError, match=message):
        PointDecoder(random_model(**change), point_grid(16 * SIDE, 2))


def test_other_depths_are_refused():
    model = random_model()
    model.sam_mask_decoder.transformer.layers.append(model.sam_mask_decoder.transformer.layers[1])
    with pytest.raises(WeightsError, match="3 layers"):
        PointDecoder(model, point_grid(16 * SIDE, 2))


def test_published_sizes_use_the_low_rank_form():
    assert PointDecoder(random_model(256, 8), point_grid(16 * SIDE, 2)).low_rank
    assert not PointDecoder(random_model(64, 8), point_grid(16 * SIDE, 2)).low_rank
