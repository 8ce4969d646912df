import pytest
import torch

from ntt_ray.config import Architecture
from ntt_ray.errors import WeightsError
from ntt_ray.models.compilation import CompileOptions
from ntt_ray.models.dinov2 import Dinov2Encoder, build_vit
from tests.support.golden import GOLDEN

WEIGHTS = GOLDEN / "weights"


def _size(embed_dim: int, depth: int, num_heads: int, patch_size: int = 14) -> Architecture:
    return Architecture(
        embed_dim=embed_dim, depth=depth, num_heads=num_heads, patch_size=patch_size
    )


NANO = _size(64, 2, 4)


def _load(path=WEIGHTS / "dino_nano.pth", image_size=112, architecture=NANO) -> Dinov2Encoder:
    return Dinov2Encoder.load(path, name="nano", image_size=image_size, architecture=architecture)


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
