import json

import numpy as np
import pytest
import torch

from ntt_ray.bank.build import crop_features, masked_mean
from ntt_ray.config import ENCODER_CHANNELS, Architecture
from ntt_ray.errors import ConfigError, WeightsError
from ntt_ray.masks import encode_mask
from ntt_ray.method.pooling import pooled_features
from ntt_ray.models.compilation import CompileOptions
from ntt_ray.models.dinov2 import Dinov2Encoder, build_vit
from ntt_ray.models.positions import positional_basis, without_positions
from ntt_ray.models.published import bundled_file
from ntt_ray.records import ImageEntry, Reference
from ntt_ray.references.crops import ReferenceCrop
from tests.support.golden import GOLDEN

WEIGHTS = GOLDEN / "weights"


def _size(embed_dim: int, depth: int, num_heads: int, patch_size: int = 14) -> Architecture:
    return Architecture(
        embed_dim=embed_dim, depth=depth, num_heads=num_heads, patch_size=patch_size
    )


NANO = _size(64, 2, 4)


def _load(
    path=WEIGHTS / "dino_nano.pth", image_size=112, architecture=NANO, **options
) -> Dinov2Encoder:
    return Dinov2Encoder.load(
        path, name="nano", image_size=image_size, architecture=architecture, **options
    )


def test_pth_and_safetensors_are_the_same_model():
    image = torch.rand(2, 3, 130, 90)
    a, b = _load(), _load(WEIGHTS / "dino_nano.safetensors")
    assert a.encode(image).shape == (2, 8, 8, 64)
    assert torch.equal(a.encode(image), b.encode(image))


def test_batches_do_not_change_results():
    images = torch.rand(3, 3, 112, 112)
    encoder = _load()
    single = torch.cat([encoder.encode(image[None]) for image in images])
    torch.testing.assert_close(encoder.encode(images), single, atol=1e-5, rtol=0)


def test_another_image_size_resamples_positions():
    assert _load(image_size=56).encode(torch.rand(1, 3, 56, 56)).shape == (1, 4, 4, 64)


@pytest.mark.parametrize(
    ("name", "dim", "prefix"),
    [("dinov2_vits14", 384, 1), ("dinov2_vits14_reg", 384, 5)],
)
def test_published_architectures(name, dim, prefix):
    with torch.device("meta"):
        model = build_vit(name, 518, None)
    assert model.embed_dim == dim
    assert model.num_prefix_tokens == prefix
    assert model.patch_embed.grid_size == (37, 37)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dinov2_vits14", "dinov2_vits14_reg"])
def test_official_key_layout_of_a_published_size(tmp_path, name):
    """A file with exactly the keys that the authors publish loads without a difference."""
    model = build_vit(name, 518, None)
    tensors = dict(model.state_dict())
    registers = model.num_prefix_tokens - 1
    official = {k: v for k, v in tensors.items() if k not in ("reg_token", "pos_embed")}
    position = tensors["pos_embed"]
    if registers:
        official["register_tokens"] = tensors["reg_token"]
        # the official embedding has a place for the class token, timm's reg models add it in
        position = torch.cat((torch.zeros(1, 1, position.shape[2]), position), dim=1)
    official["pos_embed"] = position
    official["mask_token"] = torch.zeros(1, model.embed_dim)
    torch.save(official, tmp_path / f"{name}.pth")
    encoder = Dinov2Encoder.load(tmp_path / f"{name}.pth", name=name, image_size=518)
    assert encoder.feature_dim == 384
    for key, value in encoder._model.state_dict().items():
        assert torch.equal(value, tensors[key]), key


def test_the_channels_of_the_demo_are_those_of_the_config():
    stored = json.loads(bundled_file("dinov2_demo.json").read_text())
    assert ENCODER_CHANNELS["dinov2_demo"] == stored["embed_dim"]


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in ENCODER_CHANNELS if n.startswith("dinov2_vit")])
def test_the_channels_are_those_of_the_config(name):
    with torch.device("meta"):
        assert build_vit(name, 518, None).embed_dim == ENCODER_CHANNELS[name]


@pytest.mark.parametrize("count", [1, 20])
def test_features_without_places(count):
    """Those of the encoder as it is, without the directions of its black image."""
    images, plain = torch.rand(2, 3, 130, 90), _load()
    basis = positional_basis(plain.encode(torch.zeros(1, 3, 112, 112))[0], count)
    encoder = _load(positional_debias=count)
    assert plain.basis is None
    assert encoder.basis.shape == (64, count)
    found = encoder.encode(images)
    torch.testing.assert_close(found, without_positions(plain.encode(images), basis))
    assert (found - plain.encode(images)).abs().max() > 0.1


def test_means_of_references_and_of_proposals_have_nothing_of_places():
    encoder, random = _load(positional_debias=20), np.random.default_rng(0)
    masks = torch.zeros(2, 64, 64, dtype=torch.bool)
    masks[0, 5:40, 9:50] = masks[1, 60:, 60:] = True
    pooled = pooled_features(encoder.encode(torch.rand(1, 3, 256, 256))[0], masks)
    picture = random.integers(0, 256, (50, 70, 3), dtype=np.uint8)
    taken, entry = picture[:, :, 0] > 99, ImageEntry(1, "drawn", "drawn")
    reference = Reference(1, 1, entry, (50, 70), (0.0, 0.0, 70.0, 50.0), encode_mask(taken))
    crop = ReferenceCrop(reference, picture, taken)
    mean, _ = masked_mean(crop, *crop_features(crop, encoder))
    for features in (pooled, mean[None]):
        assert features.norm(dim=1).min() > 0.1
        assert (features @ encoder.basis).abs().max() < 1e-5


def test_the_directions_of_places_are_those_in_float32():
    half, full = (_load(positional_debias=9, dtype=d) for d in (torch.bfloat16, torch.float32))
    assert torch.equal(half.basis, full.basis)
    found = half.encode(torch.rand(1, 3, 112, 112))
    assert found.dtype == torch.float32
    assert (found @ half.basis).abs().max() < 1e-5


def test_more_directions_than_features_differ_in():
    with pytest.raises(ConfigError, match=r"models\.encoder\.positional_debias: 4: .* 3 direct"):
        _load(image_size=28, positional_debias=4)


WRONG = {
    "a SAM2 checkpoint": (WEIGHTS / "sam2_nano.pt", NANO, "does not fit the model"),
    "another width": (WEIGHTS / "dino_nano.pth", _size(32, 2, 4), "does not fit the model"),
    "another depth": (WEIGHTS / "dino_nano.pth", _size(64, 3, 4), r"missing: blocks\.2"),
    "another patch": (WEIGHTS / "dino_nano.pth", _size(64, 2, 4, 8), r"patch_embed\.proj"),
}


@pytest.mark.parametrize(("path", "architecture", "text"), WRONG.values(), ids=WRONG.keys())
def test_wrong_checkpoints_are_refused(path, architecture, text):
    with pytest.raises(WeightsError, match=text):
        _load(path, architecture=architecture)


@pytest.mark.slow  # the first to compile in a process imports the compiler
def test_compiling_changes_nothing():
    image = torch.rand(1, 3, 112, 112)
    compiled = _load()
    compiled.compile(CompileOptions("eager"))
    torch.testing.assert_close(compiled.encode(image), _load().encode(image))
