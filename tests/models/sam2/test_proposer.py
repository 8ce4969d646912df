import pytest
import torch
from omegaconf import OmegaConf

from ntt_ray.errors import WeightsError
from ntt_ray.models.compilation import CompileOptions
from ntt_ray.models.sam2.proposer import Sam2Proposer, build_sam2, point_grid
from tests.support.golden import GOLDEN

WEIGHTS = GOLDEN / "weights"
YAML = WEIGHTS / "sam2_nano.yaml"


def _load(path=WEIGHTS / "sam2_nano.pt", points_per_side=4, config=YAML) -> Sam2Proposer:
    return Sam2Proposer.load(
        path, name="nano", image_size=256, points_per_side=points_per_side, config=config
    )


def test_points_are_x_slow_y_fast():
    points = point_grid(256, 4)
    assert points.shape == (16, 2)
    assert points[:5].tolist() == [[0.5, 0.5], [0.5, 85.5], [0.5, 170.5], [0.5, 255.5], [85.5, 0.5]]
    assert point_grid(1024, 1).tolist() == [[0.5, 0.5]]


def test_pt_and_safetensors_are_the_same_model():
    image = torch.rand(1, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    (a,) = _load().propose(image, -1.0)
    (b,) = _load(WEIGHTS / "sam2_nano.safetensors").propose(image, -1.0)
    assert len(a) == 16
    assert torch.equal(a.logits, b.logits)


def test_every_point_is_decoded_whatever_the_step():
    image = torch.rand(1, 3, 256, 256, generator=torch.Generator().manual_seed(1))
    whole, steps = _load(), _load()
    steps._decoder.points_per_step = 7  # 16 points: a remainder of 2
    a, iou_a = whole.predict(whole.encode_images(image), -1.0)
    b, iou_b = steps.predict(steps.encode_images(image), -1.0)
    assert b.index.tolist() == list(range(16))
    torch.testing.assert_close(iou_a, iou_b, atol=1e-5, rtol=0)
    torch.testing.assert_close(a.logits, b.logits, atol=1e-4, rtol=0)


def test_points_asked_are_those_of_all_and_none_is_fine():
    image = torch.rand(3, 256, 256, generator=torch.Generator().manual_seed(1))
    proposer, asked = _load(), torch.tensor([2, 5, 11])
    (every,) = proposer.propose(image[None], -1.0)
    some = proposer.propose_at(image, -1.0, asked)
    assert some.index.tolist() == asked.tolist()
    torch.testing.assert_close(some.logits, every.select(asked).logits, atol=1e-4, rtol=0)
    none = proposer.propose_at(image, -1.0, asked[:0])
    assert none.logits.shape == (0, 64, 64)


def test_steps_are_halved_while_they_are_large():
    proposer = _load()
    proposer._decoder.points_per_step = 100
    assert [proposer.halve_step() for _ in range(3)] == [True, True, False]
    assert proposer._decoder.points_per_step == 25


def test_the_threshold_is_strict_and_none_is_fine():
    image = torch.rand(1, 3, 256, 256, generator=torch.Generator().manual_seed(2))
    proposer = _load()
    (everything,) = proposer.propose(image, -1.0)
    value = float(everything.predicted_iou.max())
    (at,) = proposer.propose(image, value)
    assert len(at) == 0
    assert at.logits.shape == (0, 64, 64)
    (below,) = proposer.propose(image, value - 1e-4)
    assert len(below) >= 1


def test_batches_do_not_change_results():
    images = torch.rand(2, 3, 256, 256, generator=torch.Generator().manual_seed(3))
    proposer = _load()
    together = proposer.propose(images, -1.0)
    for image, found in zip(images, together):
        (alone,) = proposer.propose(image[None], -1.0)
        torch.testing.assert_close(found.logits, alone.logits, atol=1e-3, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["sam2", "sam2.1"])
@pytest.mark.parametrize("size", ["t", "s", "b+", "l"])
def test_published_configurations_build(family, size):
    model = build_sam2(f"{family}_hiera_{size}", 1024)
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    assert round(millions, 0) == {"t": 39, "s": 46, "b+": 81, "l": 224}[size]


def test_wrong_image_size_is_refused():
    with pytest.raises(ValueError, match="256 x 256"):
        _load().encode_images(torch.zeros(1, 3, 128, 128))


def test_a_dinov2_checkpoint_is_refused():
    with pytest.raises(WeightsError, match=r"does not fit the model[\s\S]*missing"):
        _load(WEIGHTS / "dino_nano.pth")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: {_target_: os.system, command: 'touch /tmp/x'}", "not one of SAM2's classes"),
        ("model: {_target_: sam2.modeling.backbones.utils.os.system}", "not one of SAM2's"),
        ("model: {_target_: sam2.modeling.sam2_base.SAM2Base}", "cannot be built"),
        ("nothing: 1", "has no 'model'"),
        ("[", "not a SAM2 YAML"),
        ("model: {a: '${nowhere}'}", "not a SAM2 YAML"),
    ],
)
def test_other_yamls_are_refused(tmp_path, text, message):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(WeightsError, match=message):
        build_sam2("x", 256, tmp_path / "x.yaml")


def test_published_yamls_use_allowed_classes_only():
    tree = OmegaConf.to_container(OmegaConf.load(YAML))
    assert tree["model"]["_target_"] == "sam2.modeling.sam2_base.SAM2Base"


@pytest.mark.slow  # the first to compile in a process imports the compiler
@pytest.mark.parametrize("cuda_graphs", [False, True])
def test_compiling_changes_nothing(cuda_graphs):
    """The graphs are whole and right; what the compiler makes of them is its own matter."""
    image = torch.rand(1, 3, 256, 256, generator=torch.Generator().manual_seed(4))
    plain, compiled = _load(), _load()
    compiled.compile(CompileOptions("eager", cuda_graphs))
    for threshold in (-1.0, 0.3, 2.0):
        (a,), (b,) = plain.propose(image, threshold), compiled.propose(image, threshold)
        assert torch.equal(a.index, b.index)
        torch.testing.assert_close(a.logits, b.logits, atol=1e-4, rtol=0)


def test_positions_of_image_features_take_no_memory_and_change_nothing():
    from sam2.modeling.position_encoding import PositionEmbeddingSine

    model = build_sam2("sam2_nano", 256, WEIGHTS / "sam2_nano.yaml").eval()
    images = torch.rand(2, 3, 256, 256)
    with torch.inference_mode():
        found = model.image_encoder(images)
        model.image_encoder.neck.position_encoding = PositionEmbeddingSine(32)
        expected = model.image_encoder(images)
    for position, level in zip(found["vision_pos_enc"], found["backbone_fpn"], strict=True):
        assert position.shape == level.shape
        assert position.untyped_storage().nbytes() == 4
    for level, own in zip(found["backbone_fpn"], expected["backbone_fpn"], strict=True):
        assert torch.equal(level, own)
