"""What a GPU would be asked, on tensors that only say they are on one: the labels of the CPU.

`tests/gpu` asks the same of a GPU.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.pretend_cuda import CUDA, MixedDevicesError, PretendCuda, PretendTensor
from ntt_ray.config import Architecture
from ntt_ray.method.pooling import pooled_features
from ntt_ray.models.aspect import AspectEncoder
from ntt_ray.models.dinov2 import Dinov2Encoder
from ntt_ray.models.sam2.proposer import Sam2Proposer
from ntt_ray.settings import (
    AveragingSettings,
    CorrespondenceSettings,
    DiffusionSettings,
    MethodSettings,
    PromptSettings,
    PrototypeSettings,
    RefinementSettings,
    TileSettings,
)
from tests.support.device_labels import coarse_images, share_found, small_labeler
from tests.support.golden import GOLDEN

FLOAT32, BFLOAT16 = torch.float32, torch.bfloat16
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "cut": {"max_detections": 5},
    "none survive": {"min_predicted_iou": 0.9999},
    "prompts": {"prompts": PromptSettings(min_similarity=0.1)},
    "no prompts": {"prompts": PromptSettings(min_similarity=1.0)},
    "negatives": {},
    "prototypes": {"prototypes": PrototypeSettings(per_class=2, temperature=None, seed=1)},
    "soft prototypes": {"prototypes": PrototypeSettings(per_class=2, temperature=0.1, seed=1)},
    "diffusion": {"diffusion": DiffusionSettings(alpha=0.3, power=0.5, steps=5)},
    "tiles": {"tiles": TileSettings(side=100, overlap=0.25)},
    "no NMS": {"nms_iou": None},
    "averaging": {"averaging": AveragingSettings(min_iou=0.5)},
    "correspondence": {"correspondence": CorrespondenceSettings(power=0.5)},
    "all outputs": {"all_outputs": True},
    "refinement": {"refinement": RefinementSettings(min_iou=0.5)},
}
WITHOUT_LABELS = {"none survive", "no prompts"}


def _labels(device: str, dtype: torch.dtype, wide: bool, option: str) -> list[Any]:
    chosen = {"min_predicted_iou": 0.3, "nms_iou": 1.0 if wide else 0.5} | OPTIONS[option]
    labeler = small_labeler(
        device,
        dtype,
        MethodSettings(**chosen),
        wide=wide,
        negatives=option == "negatives",
        points_per_side=4 if wide else 8,
    )
    return labeler.label(coarse_images(1 if option == "tiles" else 2))


def _assert_labels_of_the_cpu(dtype: torch.dtype, wide: bool, option: str) -> None:
    expected = _labels("cpu", dtype, wide, option)
    with PretendCuda() as log:
        found = _labels("cuda", dtype, wide, option)
    assert log.launches["convolution"] > 0
    assert all(expected) == (option not in WITHOUT_LABELS)
    assert list(map(len, found)) == list(map(len, expected))
    if dtype is FLOAT32:
        assert share_found(found, expected, 1e-3, 0.98) == 1.0
    else:
        assert share_found(found, expected) > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("wide", [False, True], ids=["dense", "low rank"])
def test_labels_are_those_of_the_cpu(wide):
    _assert_labels_of_the_cpu(FLOAT32, wide, "plain")


@pytest.mark.slow
@pytest.mark.parametrize("option", [name for name in OPTIONS if name != "plain"])
def test_labels_of_each_option_are_those_of_the_cpu(option):
    _assert_labels_of_the_cpu(FLOAT32, True, option)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [FLOAT32, BFLOAT16])
def test_masks_are_asked_again_on_a_device(dtype):
    """Those of the golden model, of which some are replaced; the random model has one large one."""
    settings = MethodSettings(
        min_predicted_iou=0.2, refinement=RefinementSettings(min_iou=0.5), nms_iou=0.7
    )
    found, taken = {}, {}
    for device in ("cpu", "cuda"):
        with PretendCuda() if device == "cuda" else nullcontext():
            labeler = small_labeler(device, dtype, settings, points_per_side=8)
            found[device] = labeler.label(coarse_images(2))
        assert isinstance(labeler.proposer, Sam2Proposer)
        assert labeler.proposer.refiner is not None
        taken[device] = labeler.proposer.refiner.taken
    assert min(taken.values()) > 0
    assert all(found["cpu"])
    if dtype is FLOAT32:
        assert taken["cuda"] == taken["cpu"]
        assert share_found(found["cuda"], found["cpu"], 1e-3, 0.98) == 1.0
    else:
        assert share_found(found["cuda"], found["cpu"]) > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("option", ["plain", "prompts"])
def test_bfloat16_labels_are_those_of_the_cpu(option):
    _assert_labels_of_the_cpu(BFLOAT16, False, option)


@pytest.mark.slow
def test_bfloat16_labels_of_the_low_rank_form_are_those_of_the_cpu():
    _assert_labels_of_the_cpu(BFLOAT16, True, "plain")


def _nano(kind, device, dtype, **options):
    return kind.load(
        GOLDEN / "weights" / "dino_nano.pth",
        name="dino_nano",
        image_size=112,
        architecture=Architecture(embed_dim=64, depth=2, num_heads=4),
        device=device,
        dtype=dtype,
        **options,
    )


@pytest.mark.parametrize("dtype", [FLOAT32, BFLOAT16])
def test_features_without_places_are_those_of_the_cpu(dtype):
    def encoded(device):
        encoder = _nano(Dinov2Encoder, device, dtype, positional_debias=9)
        features = encoder.encode(torch.linspace(0, 1, 3 * 112 * 112).view(1, 3, 112, 112))
        return features.cpu(), encoder.basis.cpu()

    expected = encoded("cpu")
    with PretendCuda() as log:
        found = encoded("cuda")
    assert log.launches["convolution"] == 2  # of the black image, and of this one
    torch.testing.assert_close(found[1], expected[1], atol=1e-5, rtol=0)
    torch.testing.assert_close(
        found[0], expected[0], atol=1e-5 if dtype is FLOAT32 else 1e-2, rtol=0
    )


@pytest.mark.parametrize("dtype", [FLOAT32, BFLOAT16])
def test_features_in_proportion_are_those_of_the_cpu(dtype):
    def encoded(device):
        encoder = _nano(AspectEncoder, device, dtype)
        images = torch.linspace(0, 1, 3 * 3 * 64 * 64).view(3, 3, 64, 64).to(device)
        encoder.encode(images)  # constants go to the device once
        log.syncs.clear()
        found = encoder.encode_sized(images, [(40, 80), None, (80, 30)])
        assert not log.syncs
        return [own.cpu() for own in found]

    with PretendCuda() as log:
        expected, found = encoded("cpu"), encoded("cuda")
    assert [own.shape for own in found] == [(4, 8, 64), (0, 0, 64), (8, 3, 64)]
    for own, other in zip(found, expected, strict=True):
        torch.testing.assert_close(own, other, atol=1e-5 if dtype is FLOAT32 else 1e-2, rtol=0)


def test_modules_and_tensors_move_and_compute():
    module, x = nn.Linear(3, 2), torch.randn(4, 3)
    expected = module(x)
    with PretendCuda() as log:
        moved = module.to("cuda", torch.float64)
        on_device = moved(x.to("cuda").double())
        assert on_device.device == CUDA
        assert on_device.is_cuda
        assert isinstance(on_device, PretendTensor)
        assert log.launches["addmm"] == 1
        back = on_device.cpu()
    assert type(back) is torch.Tensor
    torch.testing.assert_close(back.float(), expected)
    assert log.host_to_device == 4 * (3 * 2 + 2 + 4 * 3)
    assert log.device_to_host == 8 * 4 * 2


def test_views_launch_nothing_and_what_is_written_is_seen_by_them():
    with PretendCuda() as log:
        x = torch.empty(4, 6, device="cuda")
        view = x[1:3].T.reshape(3, 4)[:, None]
        assert log.launches == {"clone": 1}  # what is not a view of the transposed
        x.zero_()
        x[1:3] += 1
        torch.add(x[0], 1, out=x[3])
    assert view.shape == (3, 1, 4)
    assert x.tolist() == [[0] * 6, [1] * 6, [1] * 6, [1] * 6]
    assert log.launches.keys() == {"clone", "zero_", "add_", "add"}


REFUSED = {
    "a sum": lambda on_device, on_host: on_device + on_host,
    "a product": lambda on_device, on_host: on_host @ on_device,
    "an index of the device": lambda on_device, on_host: on_host[on_device.long()],
    "attention": lambda on_device, on_host: nn.functional.scaled_dot_product_attention(
        on_device[None], on_host[None], on_host[None]
    ),
    "numpy": lambda on_device, on_host: on_device.numpy(),
    "page-locking": lambda on_device, on_host: on_device.pin_memory(),
    "an integer product of 16 rows": lambda on_device, on_host: torch._int_mm(
        on_device.to(torch.int8).repeat(4, 2), on_device.to(torch.int8).repeat(2, 2)
    ),
}


@pytest.mark.parametrize("what", REFUSED.values(), ids=REFUSED.keys())
def test_what_cuda_refuses_is_refused(what):
    with PretendCuda():
        on_device = torch.ones(4, 4, device="cuda")
        with pytest.raises(MixedDevicesError):
            what(on_device, torch.ones(4, 4))


def test_numbers_of_the_host_and_indices_of_the_host_are_taken():
    with PretendCuda() as log:
        x = torch.arange(4.0, device="cuda") + torch.tensor(1.0)
        assert x[torch.tensor([0, 3])].tolist() == [1, 4]
    assert log.host_to_device == 2 * 8  # the index


WAITS = {
    "nonzero": lambda x: torch.nonzero(x),
    "boolean index": lambda x: x[x > 1],
    "bincount": lambda x: torch.bincount(x.long()),
    "to host": lambda x: x.sum().item(),
    "to device": lambda x: torch.tensor([1.0], device=x.device),
}


@pytest.mark.parametrize("kind", WAITS)
def test_waiting_for_the_device_is_noted(kind):
    with PretendCuda() as log:
        x = torch.arange(4.0, device="cuda")
        assert not log.syncs
        WAITS[kind](x)
    assert set(log.syncs) == {(kind, "outside")}


def test_what_is_page_locked_travels_without_waiting():
    with PretendCuda() as log:
        pinned = torch.empty(3, pin_memory=True).fill_(2)
        moved = pinned.to("cuda", non_blocking=True)
        other = torch.ones(3).pin_memory().to(CUDA, non_blocking=True)
        pinned.copy_(moved + other, non_blocking=True)
        assert not log.syncs
        torch.ones(3).to("cuda", non_blocking=True)
        assert log.syncs.total() == 1
    assert pinned.tolist() == [3, 3, 3]
    assert log.device_to_host == 12


def test_lines_of_the_product_are_named():
    with PretendCuda() as log:
        features, masks = torch.ones(2, 2, 4), torch.ones(3, 8, 8, dtype=torch.bool)
        pooled_features(features.to("cuda"), masks.to("cuda"))
    lines = {line.split(":")[0] for _, line in log.syncs}
    assert lines == {"outside", "method/pooling.py"}


def test_it_ends_with_its_context():
    with PretendCuda():
        pass
    assert not torch.is_inference_mode_enabled()
    assert not torch.__future__.get_overwrite_module_params_on_conversion()
    assert not torch.overrides._get_current_function_mode_stack()
