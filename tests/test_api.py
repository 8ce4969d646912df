"""The package from Python: it labels what a run labels, and reads what a run wrote."""

import dataclasses
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import ntt_ray
from ntt_ray.config import build_config
from ntt_ray.errors import ConfigError, ImageError, InputError, RunIncompleteError
from ntt_ray.run.label import label
from ntt_ray.run.layout import shard_name
from ntt_ray.storage import Storage
from tests.support.golden import GOLDEN, GOLDEN_MODELS

TARGETS = sorted((GOLDEN / "targets").glob("*.png"))


def test_importing_the_package_imports_nothing_else():
    code = (
        "import sys; before = set(sys.modules); import ntt_ray; "
        "print({name.split('.')[0] for name in set(sys.modules) - before})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"numpy", "pydantic", "fsspec", "torch", "ray"}.isdisjoint(eval(done.stdout))


@pytest.mark.slow
def test_nothing_here_needs_ray():
    names = ["api", "bank.task", "models.spec", "run.loading", "run.record", "run.shard"]
    modules = ", ".join(f"ntt_ray.{name}" for name in names)
    code = f"import sys, {modules}; print('ray' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_every_name_is_there():
    for name in ntt_ray.__all__:
        assert getattr(ntt_ray, name).__doc__
        assert name in dir(ntt_ray)
    with pytest.raises(AttributeError, match="load_labeller"):
        _ = ntt_ray.load_labeller


@pytest.fixture(scope="module")
def config(golden_references, tmp_path_factory):
    return build_config(
        {
            "images": str(GOLDEN / "targets.json"),
            "image_root": str(GOLDEN / "targets"),
            "output": str(tmp_path_factory.mktemp("api") / "run"),
            "references": {
                "annotations": str(golden_references),
                "image_root": str(GOLDEN / "refs"),
            },
            "models": GOLDEN_MODELS,
            "method": {"points_per_side": 16},
            "job": {"images_per_unit": 2},
        }
    )


@pytest.fixture(scope="module")
def labeler(config):
    return ntt_ray.load_labeler(config)


def test_one_image(labeler):
    image = labeler.label(TARGETS[0])
    height, width = np.asarray(Image.open(TARGETS[0])).shape[:2]
    assert (image.file_name, image.size_hw) == (str(TARGETS[0]), (height, width))
    assert (image.image_id, image.status, image.error) == (1, "ok", None)
    scores = [found.score for found in image.detections]
    assert scores == sorted(scores, reverse=True)
    assert {found.name for found in image.detections} <= set(labeler.classes)
    for found in image.detections:
        mask = found.mask()
        assert (mask.shape, mask.dtype, mask.sum()) == ((height, width), np.bool_, found.area)
        assert found.rle["counts"] not in repr(found)


@pytest.mark.slow
def test_an_image_is_the_same_in_every_form(labeler):
    path = TARGETS[0]
    opened = Image.open(path)
    pixels = np.asarray(Image.open(path).convert("RGB"))
    forms = [str(path), path.as_uri(), opened, pixels]
    first, *others = labeler.label(forms)
    assert first.detections
    assert [image.file_name for image in others] == [path.as_uri(), "", ""]
    assert all(image.detections == first.detections for image in others)
    assert [image.detections for image in labeler.label(pixels[None])] == [first.detections]
    assert labeler.label([]) == []


def test_of_several_images_one_that_cannot_be_read_is_a_row(labeler, tmp_path):
    text = tmp_path / "text.png"
    text.write_text("no picture")
    missing = tmp_path / "missing.png"
    rows = labeler.label([missing, text, TARGETS[0]])
    assert [row.status for row in rows] == ["failed", "failed", "ok"]
    assert [row.image_id for row in rows] == [1, 2, 3]
    assert rows[0].size_hw is None
    assert "no such file" in rows[0].error
    assert "not an image" in rows[1].error
    for path in (missing, text):
        with pytest.raises(ImageError, match=path.name):
            labeler.label(path)


NO_IMAGES = {
    "a number": 7,
    "bytes": [b"\xff\xd8"],
    "floats": np.zeros((4, 4, 3)),
    "grey": np.zeros((4, 4), np.uint8),
    "four channels": np.zeros((4, 4, 4), np.uint8),
    "without pixels": np.zeros((0, 4, 3), np.uint8),
}


@pytest.mark.parametrize("given", NO_IMAGES.values(), ids=NO_IMAGES.keys())
def test_what_is_no_image_is_refused(labeler, given):
    with pytest.raises(InputError, match="uint8"):
        labeler.label(given)


@pytest.mark.slow
def test_a_bank_knows_its_encoder(labeler, config, tmp_path):
    from ntt_ray.api import _bank_of
    from ntt_ray.models.spec import ModelSpec

    bank = tmp_path / "mine.safetensors"
    bank.write_bytes(_bank_of(config, ModelSpec.here(config.models, labeler._store)).data)
    with pytest.raises(ConfigError, match=r"models\.encoder.*checkpoint: is needed"):
        ntt_ray.load_labeler(bank)
    proposer = [
        f"models.proposer.{key}={value}" for key, value in GOLDEN_MODELS["proposer"].items()
    ]
    encoder = f"models.encoder.checkpoint={GOLDEN_MODELS['encoder']['checkpoint']}"
    settings = [*proposer, "method.points_per_side=16"]
    other = ntt_ray.load_labeler(bank, [encoder, *settings])
    assert other.classes == labeler.classes
    assert other.label(TARGETS[0]) == labeler.label(TARGETS[0])
    with pytest.raises(InputError, match="another encoder"):
        ntt_ray.load_labeler(bank, [encoder, "models.encoder.image_size=56", *settings])


def test_features_without_places_from_references_to_what_is_kept(config):
    from ntt_ray.api import _bank_of
    from ntt_ray.bank.memory import MemoryBank
    from ntt_ray.models.spec import ModelSpec
    from ntt_ray.proposals.fixed_point import from_fixed
    from ntt_ray.run.loading import loaded_keeper

    debiased = ["models.encoder.positional_debias=20", "models.encoder.image_size=56"]
    with pytest.raises(ConfigError, match="20: features of 16 patches differ in 15 directions"):
        build_config(config.model_dump(mode="json"), debiased)
    own = build_config(config.model_dump(mode="json"), debiased[:1])
    models = ModelSpec.here(own.models, Storage())
    bank, basis = _bank_of(own, models), models.load_encoder().basis
    assert bank.encoder["positional_debias"] == 20
    memory = MemoryBank.from_bytes(bank.data, "bank")
    means = memory.features[memory.weights > 0]
    keeper = loaded_keeper(models, bank.data, own.method, None)
    (views,) = keeper.keep([np.asarray(Image.open(TARGETS[0]).convert("RGB"))])
    stored = np.concatenate((views[0].features, views[0].mean_feature[None]))
    kept = from_fixed(torch.from_numpy(stored)).float()
    assert len(kept) > 5
    for features in (means, kept):  # kept ones are rounded to 16 bits
        assert features.norm(dim=1).min() > 0.1
        assert (features @ basis).abs().max() < 1e-3


@pytest.mark.slow
def test_images_in_their_own_proportions(labeler, config, tmp_path):
    from ntt_ray.api import _bank_of
    from ntt_ray.bank.memory import MemoryBank
    from ntt_ray.models.aspect import AspectEncoder
    from ntt_ray.models.spec import ModelSpec

    own = build_config(config.model_dump(mode="json"), ["models.encoder.keep_aspect=true"])
    models = ModelSpec.here(own.models, Storage())
    assert isinstance(models.load_encoder(), AspectEncoder)
    bank = _bank_of(own, models)
    assert bank.encoder["keep_aspect"] is True
    plain = _bank_of(config, ModelSpec.here(config.models, Storage()))
    means = [MemoryBank.from_bytes(own.data, "bank").features for own in (bank, plain)]
    assert not torch.allclose(*means, atol=1e-3)  # not every crop is square: one is at a border
    (tmp_path / "mine.safetensors").write_bytes(bank.data)
    found = ntt_ray.load_labeler(own).label(TARGETS[:2])
    assert all(image.detections for image in found)
    assert [image.detections for image in found] != [
        image.detections for image in labeler.label(TARGETS[:2])
    ]
    data = {**config.model_dump(mode="json"), "references": None}
    data["bank"] = str(tmp_path / "mine.safetensors")
    with pytest.raises(InputError, match="keep_aspect is True in the bank and None in this run"):
        ntt_ray.load_labeler(build_config(data))


def test_what_cannot_be_loaded_says_so(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        ntt_ray.load_labeler(tmp_path / "gone.safetensors")
    with pytest.raises(ntt_ray.NttRayError, match="give the output of a run"):
        ntt_ray.load_labeler(tmp_path)
    with pytest.raises(InputError, match="there is no run here"):
        ntt_ray.read_labels(tmp_path)


def test_tiles(config):
    tiled = ntt_ray.load_labeler(config, ["method.tiles={side: 96}"])
    wide = np.asarray(Image.open(TARGETS[0]).convert("RGB"))[:96, :120]
    assert tiled.label(wide).size_hw == (96, 120)


@pytest.fixture(scope="module")
def output(ray_cluster, config):
    """The golden case as a run labelled it."""
    label(config, lambda *_: None)
    return config.output


@pytest.mark.ray
def test_what_is_labelled_here_is_what_a_run_labels(output, labeler):
    rows = list(ntt_ray.read_labels(output))
    assert [row.image_id for row in rows] == sorted(row.image_id for row in rows)
    own = ntt_ray.load_labeler(output)
    for row in rows:
        assert row.detections
        for found in (own.label(path := GOLDEN / "targets" / row.file_name), labeler.label(path)):
            assert (found.size_hw, found.status) == (row.size_hw, row.status)
            assert tuple(map(_stored, found.detections)) == row.detections


def _stored(found):
    """As a shard keeps it: in float32."""
    score, iou = (float(np.float32(value)) for value in (found.score, found.predicted_iou))
    return dataclasses.replace(found, score=score, predicted_iou=iou)


@pytest.mark.ray
def test_a_run_with_missing_shards_is_read_when_that_is_asked_for(output, tmp_path):
    part = tmp_path / "part"
    shutil.copytree(output, part)
    rows = list(ntt_ray.read_labels(part))
    (part / "labels" / shard_name(0)).unlink()
    with pytest.raises(RunIncompleteError, match="1 of 2 shards are missing"):
        ntt_ray.read_labels(part)
    assert list(ntt_ray.read_labels(part, partial=True)) == rows[2:]
