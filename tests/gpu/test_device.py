"""On a GPU: the labels of the CPU, whichever way they are made. Skipped where there is none.

Each with both forms of the decoder: the golden model takes the dense one, published models the
low-rank one. `tests/models/test_pretend_cuda.py` asks the same without a GPU.
"""

import pytest
import torch

from ntt_ray.masks import runs_to_rle
from ntt_ray.method.masks_at_size import RleMasks, StripMasks, full_size_rles
from ntt_ray.models.compilation import CompileOptions
from ntt_ray.models.sam2.decoder.checked import disagreement
from ntt_ray.models.sam2.decoder.kernels import COMPARED_ROUNDINGS
from ntt_ray.models.sam2.decoder.run import upscale
from ntt_ray.records import Detection
from ntt_ray.settings import MethodSettings, RefinementSettings
from tests.support.device_labels import (
    coarse_images,
    share_found,
    small_kept_labeler,
    small_labeler,
)
from tests.support.interpreted_upscale import mapped, random_inputs

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
]
forms = pytest.mark.parametrize("wide", [False, True], ids=["dense", "low rank"])


@pytest.fixture(autouse=True)
def full_precision(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def _labeler(
    device: str,
    wide: bool,
    dtype: torch.dtype = torch.float32,
    options: CompileOptions | None = None,
):
    # the random masks of the low-rank model overlap: without NMS there are many
    settings = MethodSettings(min_predicted_iou=0.3, nms_iou=1.0 if wide else 0.5)
    return small_labeler(device, dtype, settings, wide=wide, options=options)


def _labels(*arguments, **named) -> list[tuple[Detection, ...]]:
    return _labeler(*arguments, **named).label(coarse_images())


@forms
def test_float32_labels_are_those_of_the_cpu(wide):
    expected = _labels("cpu", wide)
    assert min(map(len, expected)) > 10
    assert share_found(_labels("cuda", wide), expected, 0.005) >= 0.98


def test_labels_of_kept_proposals_are_those_of_the_cpu():
    settings = MethodSettings(min_predicted_iou=0.3)
    found, expected = (
        small_kept_labeler(device, settings=settings).label(coarse_images())
        for device in ("cuda", "cpu")
    )
    assert min(map(len, expected)) > 10
    assert share_found(found, expected, 0.005) >= 0.98


def test_masks_asked_again_are_those_of_the_cpu():
    settings = MethodSettings(
        min_predicted_iou=0.2, refinement=RefinementSettings(min_iou=0.5), nms_iou=0.7
    )
    found, expected = (
        small_labeler(device, settings=settings).label(coarse_images())
        for device in ("cuda", "cpu")
    )
    assert min(map(len, expected)) > 10
    assert share_found(found, expected, 0.005) >= 0.98


@forms
@pytest.mark.parametrize("cuda_graphs", [False, True])
def test_compiled_labels_are_those_of_the_plain_way(cuda_graphs, wide):
    compiled = _labeler("cuda", wide, options=CompileOptions(cuda_graphs=cuda_graphs))
    expected = _labels("cuda", wide)
    for _ in range(3):  # a graph is recorded at the second call and replayed at the third
        assert share_found(compiled.label(coarse_images()), expected) >= 0.95


@forms
def test_bfloat16_labels_are_alike(wide):
    found, expected = _labels("cuda", wide, torch.bfloat16), _labels("cuda", wide)
    # masks of the low-rank model have some 50 pixels
    assert share_found(found, expected, mask_iou=0.8 if wide else 0.95) >= 0.7


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_kernel_for_upscaling_agrees_with_the_plain_function(dtype):
    from ntt_ray.models.sam2.decoder.upscale_kernel import upscale as kernel

    inputs = mapped(lambda tensor: tensor.cuda(), random_inputs(64, 128, 256, 3, dtype))
    tolerance = COMPARED_ROUNDINGS * torch.finfo(dtype).eps
    assert disagreement(kernel(*inputs), upscale(*inputs), tolerance) is None


@pytest.mark.parametrize("size_hw", [(480, 640), (31, 17), (1500, 2000)])
def test_strips_on_the_device_give_the_integers_of_the_run_lengths(size_hw):
    logits = torch.randn(40, 8, 8, generator=torch.Generator().manual_seed(1))
    logits = torch.nn.functional.interpolate(logits[None], (64, 64), mode="bilinear")[0]
    on_device = logits.cuda()
    rles = full_size_rles(logits, size_hw)
    in_strips = StripMasks.of(on_device, size_hw)
    assert [runs_to_rle(runs, *size_hw) for runs in in_strips.encoded()] == rles
    everyone = torch.arange(len(rles))
    shares = in_strips.shares(everyone.cuda(), everyone.cuda()).cpu()
    expected = RleMasks(tuple(rles)).shares(everyone, everyone)
    torch.testing.assert_close(shares, expected, atol=1e-6, rtol=0)
