"""On a GPU: the labels of the CPU, whichever way they are made. Skipped where there is none."""

import numpy as np
import pytest
import torch

from ntt_ray.bank.memory import MemoryBank
from ntt_ray.config import Architecture
from ntt_ray.masks import decode_rle, runs_to_rle
from ntt_ray.method.labeler import Labeler
from ntt_ray.method.masks_at_size import RleMasks, StripMasks, full_size_rles
from ntt_ray.models.compilation import CompileOptions
from ntt_ray.models.dinov2 import Dinov2Encoder
from ntt_ray.models.sam2.decoder.checked import disagreement
from ntt_ray.models.sam2.decoder.run import UPSCALE_ROUNDINGS, upscale
from ntt_ray.models.sam2.proposer import Sam2Proposer
from ntt_ray.records import ClassLabel
from ntt_ray.settings import MethodSettings
from tests.support.golden import GOLDEN
from tests.support.interpreted_upscale import mapped, random_inputs

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
]
WEIGHTS = GOLDEN / "weights"


@pytest.fixture(autouse=True)
def full_precision(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def _labeler(device: str, dtype=torch.float32, options: CompileOptions | None = None) -> Labeler:
    encoder = Dinov2Encoder.load(
        WEIGHTS / "dino_nano.pth",
        name="dino_nano",
        image_size=112,
        architecture=Architecture(embed_dim=64, depth=2, num_heads=4),
        device=device,
        dtype=dtype,
    )
    proposer = Sam2Proposer.load(
        WEIGHTS / "sam2_nano.pt",
        name="sam2_nano",
        image_size=256,
        points_per_side=16,
        config=WEIGHTS / "sam2_nano.yaml",
        device=device,
        dtype=dtype,
    )
    if options is not None:
        encoder.compile(options)
        proposer.compile(options)
    generator = torch.Generator().manual_seed(0)
    means = [[(torch.randn(64, generator=generator), 1.0)] for _ in range(3)]
    classes = [ClassLabel(i + 1, f"class {i}") for i in range(3)]
    bank = MemoryBank.from_means(classes, means, encoder={}, reference_digest="")
    return Labeler(encoder, proposer, bank, MethodSettings(min_predicted_iou=0.3))


def _images() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (3, 6, 8, 3), dtype=np.uint8)
    return [np.kron(image, np.ones((20, 20, 1), dtype=np.uint8)) for image in coarse]


def _assert_alike(found, expected, share: float) -> None:
    """Most detections are there with the same class, score and mask: rounding flips a few."""
    for mine, theirs in zip(found, expected, strict=True):
        masks = [(d.category_id, d.score, decode_rle(d.rle)) for d in mine]
        matched = 0
        for detection in theirs:
            mask = decode_rle(detection.rle)
            matched += any(
                category == detection.category_id
                and abs(score - detection.score) < 0.02
                and (mask & other).sum() >= 0.95 * (mask | other).sum()
                for category, score, other in masks
            )
        assert matched >= share * len(theirs)


def test_float32_labels_are_those_of_the_cpu():
    _assert_alike(_labeler("cuda").label(_images()), _labeler("cpu").label(_images()), 0.98)


@pytest.mark.parametrize("cuda_graphs", [False, True])
def test_compiled_labels_are_those_of_the_plain_way(cuda_graphs):
    compiled = _labeler("cuda", options=CompileOptions(cuda_graphs=cuda_graphs))
    expected = _labeler("cuda").label(_images())
    for _ in range(3):  # a graph is recorded at the second call and replayed at the third
        _assert_alike(compiled.label(_images()), expected, 0.95)


def test_bfloat16_labels_are_alike():
    found = _labeler("cuda", torch.bfloat16).label(_images())
    _assert_alike(found, _labeler("cuda").label(_images()), 0.7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_kernel_for_upscaling_agrees_with_the_plain_function(dtype):
    from ntt_ray.models.sam2.decoder.upscale_kernel import upscale as kernel

    inputs = mapped(lambda tensor: tensor.cuda(), random_inputs(64, 128, 256, 3, dtype))
    tolerance = UPSCALE_ROUNDINGS * torch.finfo(dtype).eps
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
