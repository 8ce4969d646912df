"""DINOv3 from small random files in the official layouts, against the network written plainly."""

import math

import pytest
import torch
import torch.nn.functional as F
from timm.models.eva import checkpoint_filter_fn

from ntt_ray.config import ENCODER_CHANNELS, ENCODER_NAMES, Architecture, EncoderConfig
from ntt_ray.errors import WeightsError
from ntt_ray.models.dinov3 import TIMM_NAMES, Dinov3Encoder, build_dinov3
from ntt_ray.models.inputs import normalize_imagenet
from ntt_ray.models.positions import positional_basis, without_positions
from ntt_ray.models.spec import ModelSpec
from ntt_ray.models.vit import to_timm_keys


def _size(embed_dim: int, depth: int, num_heads: int, patch_size: int) -> Architecture:
    return Architecture(
        embed_dim=embed_dim, depth=depth, num_heads=num_heads, patch_size=patch_size
    )


NANO = _size(32, 2, 2, 16)
REGISTERS, EPS = 4, 1e-5


def _official(seed: int = 0) -> dict[str, torch.Tensor]:
    """Random tensors under the keys of Meta's ``.pth`` files; biases of keys are masked there."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape, scale=0.2):
        return torch.randn(*shape, generator=generator) * scale

    c = NANO.embed_dim
    head = c // NANO.num_heads
    periods = 100 ** (2 * torch.arange(head // 4) / (head // 2))
    tensors = {
        "cls_token": random(1, 1, c),
        "storage_tokens": random(1, REGISTERS, c),
        "mask_token": random(1, c),
        "patch_embed.proj.weight": random(c, 3, 16, 16, scale=0.05),
        "patch_embed.proj.bias": random(c),
        "rope_embed.periods": periods.bfloat16(),
        "norm.weight": 1 + random(c),
        "norm.bias": random(c),
    }
    for n in range(NANO.depth):
        block = f"blocks.{n}."
        tensors |= {
            f"{block}norm1.weight": 1 + random(c),
            f"{block}norm1.bias": random(c),
            f"{block}attn.qkv.weight": random(3 * c, c, scale=0.4),
            f"{block}attn.qkv.bias": random(3 * c),
            f"{block}attn.qkv.bias_mask": torch.tensor([1.0, 0.0, 1.0]).repeat_interleave(c),
            f"{block}attn.proj.weight": random(c, c),
            f"{block}attn.proj.bias": random(c),
            f"{block}ls1.gamma": random(c, scale=1.0),
            f"{block}norm2.weight": 1 + random(c),
            f"{block}norm2.bias": random(c),
            f"{block}mlp.fc1.weight": random(4 * c, c),
            f"{block}mlp.fc1.bias": random(4 * c),
            f"{block}mlp.fc2.weight": random(c, 4 * c),
            f"{block}mlp.fc2.bias": random(c),
            f"{block}ls2.gamma": random(c, scale=1.0),
        }
    return tensors


def _plain(tensors: dict[str, torch.Tensor], images: torch.Tensor) -> torch.Tensor:
    """Meta's DINOv3, one step after the other: ``(B, 3, H, W)`` to ``(B, h, w, C)``."""
    t, c, heads = tensors, NANO.embed_dim, NANO.num_heads
    d = c // heads
    x = F.conv2d(images, t["patch_embed.proj.weight"], t["patch_embed.proj.bias"], stride=16)
    b, _, h, w = x.shape
    x = x.flatten(2).mT
    x = torch.cat((t["cls_token"].expand(b, -1, -1), t["storage_tokens"].expand(b, -1, -1), x), 1)

    # angles: centres of patches in [-1, 1], rows before columns, the same for both halves of a head
    angles = torch.zeros(h * w, d // 2)
    for row in range(h):
        for column in range(w):
            centre = [2 * (row + 0.5) / h - 1, 2 * (column + 0.5) / w - 1]
            periods = t["rope_embed.periods"].float().tolist()
            angles[row * w + column] = torch.tensor(
                [2 * math.pi * value / period for value in centre for period in periods]
            )
    angles = torch.cat((angles, angles), dim=1)

    def rotated(q):
        patches = q[:, :, 1 + REGISTERS :]
        first, second = patches.chunk(2, dim=-1)
        turned = patches * angles.cos() + torch.cat((-second, first), dim=-1) * angles.sin()
        return torch.cat((q[:, :, : 1 + REGISTERS], turned), dim=2)

    for n in range(NANO.depth):
        p = f"blocks.{n}."
        y = F.layer_norm(x, (c,), t[f"{p}norm1.weight"], t[f"{p}norm1.bias"], EPS)
        bias = t[f"{p}attn.qkv.bias"] * t[f"{p}attn.qkv.bias_mask"]
        qkv = F.linear(y, t[f"{p}attn.qkv.weight"], bias).view(b, -1, 3, heads, d)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        weights = (rotated(q) @ rotated(k).mT * d**-0.5).softmax(dim=-1)
        y = (weights @ v).transpose(1, 2).reshape(b, -1, c)
        y = F.linear(y, t[f"{p}attn.proj.weight"], t[f"{p}attn.proj.bias"])
        x = x + y * t[f"{p}ls1.gamma"]
        y = F.layer_norm(x, (c,), t[f"{p}norm2.weight"], t[f"{p}norm2.bias"], EPS)
        y = F.gelu(F.linear(y, t[f"{p}mlp.fc1.weight"], t[f"{p}mlp.fc1.bias"]))
        y = F.linear(y, t[f"{p}mlp.fc2.weight"], t[f"{p}mlp.fc2.bias"])
        x = x + y * t[f"{p}ls2.gamma"]
    x = F.layer_norm(x, (c,), t["norm.weight"], t["norm.bias"], EPS)
    return x[:, 1 + REGISTERS :].view(b, h, w, c)


def _load(path, image_size=64, architecture=NANO, **options) -> Dinov3Encoder:
    return Dinov3Encoder.load(
        path, name="dinov3_nano", image_size=image_size, architecture=architecture, **options
    )


@pytest.fixture
def official(tmp_path):
    path = tmp_path / "dinov3_nano.pth"
    torch.save(_official(), path)
    return path


def test_an_official_file_gives_what_the_plain_network_gives(official):
    images = torch.rand(2, 3, 64, 64)
    expected = _plain(_official(), normalize_imagenet(images))
    assert expected.std() > 0.5
    torch.testing.assert_close(_load(official).encode(images), expected, atol=1e-4, rtol=0)


def test_timms_file_is_the_same_model(official, tmp_path):
    """timm's keys: no periods, no mask, biases of queries and values apart."""
    from safetensors.torch import save_file

    encoder = _load(official)
    path = tmp_path / "timm.safetensors"
    save_file({k: v.contiguous() for k, v in encoder._model.state_dict().items()}, path)
    again = _load(path)
    images = torch.rand(1, 3, 64, 64)
    # its periods are not rounded to 16 bits
    torch.testing.assert_close(again.encode(images), encoder.encode(images), atol=0.05, rtol=0)


def test_another_image_size_needs_other_angles(official):
    images = torch.rand(1, 3, 96, 96)
    expected = _plain(_official(), normalize_imagenet(images))
    torch.testing.assert_close(_load(official, 96).encode(images), expected, atol=1e-4, rtol=0)


def test_angles_stay_exact_in_bfloat16(official):
    images = torch.rand(1, 3, 64, 64)
    half = _load(official, dtype=torch.bfloat16)
    assert half._model.rope.pos_embed_cached.dtype == torch.float32
    cosine = F.cosine_similarity(half.encode(images), _load(official).encode(images), dim=-1)
    assert cosine.min() > 0.99


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_features_without_places(official, dtype):
    encoder, plain = _load(official, dtype=dtype, positional_debias=9), _load(official, dtype=dtype)
    empty = _load(official).encode(torch.zeros(1, 3, 64, 64))[0]  # in float32
    assert torch.equal(encoder.basis, positional_basis(empty, 9))
    assert encoder._model.rope.pos_embed_cached.dtype == torch.float32
    images = torch.rand(2, 3, 64, 64)
    expected = without_positions(plain.encode(images), encoder.basis)
    torch.testing.assert_close(encoder.encode(images), expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", TIMM_NAMES)
def test_published_architectures(name):
    """Every tensor of an official file of that size finds its place."""
    with torch.device("meta"):
        model = build_dinov3(name, 512, None, biases=True)
    assert model.patch_embed.grid_size == (32, 32)
    assert model.embed_dim == ENCODER_CHANNELS[name]
    official, renamed = {}, {"gamma_1": "ls1.gamma", "gamma_2": "ls2.gamma"}
    renamed |= {"mlp.fc1_g": "mlp.w1", "mlp.fc1_x": "mlp.w2", "reg_token": "storage_tokens"}
    if "plus" in name or "7b" in name:
        renamed["mlp.fc2"] = "mlp.w3"
    for key, value in model.state_dict().items():
        for new, old in renamed.items():
            key = key.replace(new, old)
        if key.endswith("attn.q_bias"):
            official[key.replace("q_bias", "qkv.bias")] = torch.cat([value] * 3)
            official[key.replace("q_bias", "qkv.bias_mask")] = torch.cat([value] * 3)
        elif not key.endswith("attn.v_bias"):
            official[key] = value
    official["mask_token"] = official["cls_token"][0]
    official["rope_embed.periods"] = torch.zeros(model.rope.periods.shape, device="meta")
    found = to_timm_keys(official, model, "file", checkpoint_filter_fn)
    shapes = {key: tuple(value.shape) for key, value in found.items()}
    assert shapes == {key: tuple(value.shape) for key, value in model.state_dict().items()}


def test_the_names_are_those_of_the_config():
    assert {name for name in ENCODER_NAMES if name.startswith("dinov3")} == set(TIMM_NAMES)


WRONG = {
    "another width": (_size(64, 2, 2, 16), "does not fit the model"),
    "another depth": (_size(32, 3, 2, 16), r"missing: blocks\.2"),
    "another patch": (_size(32, 2, 2, 8), r"patch_embed\.proj"),
    "other heads": (_size(32, 2, 4, 16), r"periods"),
}


@pytest.mark.parametrize(("architecture", "text"), WRONG.values(), ids=WRONG.keys())
def test_wrong_checkpoints_are_refused(official, architecture, text):
    with pytest.raises(WeightsError, match=text):
        _load(official, architecture=architecture)


def test_dinov2s_file_is_refused():
    from tests.support.golden import GOLDEN

    with pytest.raises(WeightsError, match="does not fit the model"):
        _load(GOLDEN / "weights" / "dino_nano.pth", architecture=_size(64, 2, 4, 14))


CONFIGS = {
    "no file": ({}, r"checkpoint: is needed; ask Meta .* DINOv3 License"),
    "a size of DINOv2": ({"checkpoint": "/x.pth"}, r"518 is not a multiple of 16; take 512"),
}


@pytest.mark.parametrize(("more", "text"), CONFIGS.values(), ids=CONFIGS.keys())
def test_the_config_names_the_licence_and_the_size(more, text):
    with pytest.raises(ValueError, match=text):
        EncoderConfig(name="dinov3_vitl16", **more)


def test_a_run_loads_it_and_the_bank_records_it(official):
    from ntt_ray.config import build_config

    encoder = {"name": "dinov3_nano", "checkpoint": str(official), "image_size": 64}
    encoder["architecture"] = vars(NANO)
    data = {"images": "/i", "output": "/o", "bank": "/b", "models": {"encoder": encoder}}
    spec = ModelSpec(build_config(data).models)
    assert isinstance(spec.load_encoder(), Dinov3Encoder)
    record = spec.encoder_record("digest")
    assert record["name"] == "dinov3_nano"
    assert record["architecture"]["patch_size"] == 16
